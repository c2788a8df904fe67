"""What a ranking suggests for training: which columns, how wide, which values are too rare.

    keep           the score is above zero, and at most 5 % of such columns are chance (q)
    min_count      a value of c rows tells c / (c + strength) of its own label rate; those that tell
                   less than `LEAST_SHARE` become UNSEEN, as long as that costs at most `MOST_ROWS`
                   of the rows
    embedding_dim  6 (values)^(1/4), rounded to a multiple of four, between 4 and 64

The width is a rule of thumb, and said to be one; the count follows from the data.
"""

from __future__ import annotations

import json
import math
from typing import Any

import polars as pl

LEAST_SHARE = 0.05
MOST_ROWS = 0.1
MOST_FALSE = 0.05
HASH_VALUES = 5_000_000
"""Values beyond which a vocabulary is better hashed."""


def suggest(features: pl.DataFrame, rare: pl.DataFrame) -> pl.DataFrame:
    """A row per column: `feature`, `keep`, `embedding_dim`, `min_count`, `encoding`.

    Args:
        features: Of a ranking.
        rare: Share of rows by column and bound, of the same ranking.
    """
    shares: dict[str, dict[int, float]] = {}
    for row in rare.iter_rows(named=True):
        shares.setdefault(row["feature"], {})[row["fewer_than"]] = row["share"]
    rows = []
    for row in features.iter_rows(named=True):
        rows.append({
            "feature": row["feature"],
            "keep": bool(row["excess"] > 0 and row["q"] <= MOST_FALSE),
            "embedding_dim": width(row["values"]),
            "min_count": _min_count(row, shares[row["feature"]]),
            "encoding": "hash" if row["values"] > HASH_VALUES else None,
        })  # fmt: skip
    schema = {
        "feature": pl.String, "keep": pl.Boolean, "embedding_dim": pl.Int64,
        "min_count": pl.Int64, "encoding": pl.String,
    }  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


def width(values: int) -> int:
    """Embedding width by the number of values.

    Example:
        >>> [width(values) for values in (2, 100, 10_000, 10**7)]
        [8, 20, 60, 64]
    """
    return int(min(64, max(4, 4 * round(6 * max(values, 1) ** 0.25 / 4))))


def _min_count(row: dict[str, Any], shares: dict[int, float]) -> int:
    """The largest bound of the table that the strength allows and the rows can spare."""
    strength = row["strength"]
    if row["kind"] == "numeric" or strength is None or math.isinf(strength):
        return 1
    wanted = LEAST_SHARE / (1 - LEAST_SHARE) * strength
    found = [bound for bound, share in shares.items() if bound <= wanted and share <= MOST_ROWS]
    return max(found, default=1)


def as_yaml(table: pl.DataFrame, ranking: str) -> str:
    """An experiment that trains on the columns to keep: a file for `configs/experiment`.

    Args:
        table: Of `suggest`.
        ranking: Path of the ranked list, which `data.features` reads.
    """
    kept = table.filter("keep")
    widths = kept["embedding_dim"].sort()
    dim = int(widths[len(widths) // 2]) if len(widths) else 16
    lines = [
        "# @package _global_",
        "# Suggested by pipelines.rank_features; the width is a rule of thumb.",
        f"embedding: {{dim: {dim}}}",
        "data:",
        f"  features: {json.dumps(ranking)}",
        f"  top: {max(len(kept), 1)}",
    ]
    fields = [
        (row["feature"], row)
        for row in kept.iter_rows(named=True)
        if row["min_count"] > 1 or row["encoding"]
    ]
    if fields:
        lines.append("  fields:")
    for name, row in fields:
        keys = {"min_count": row["min_count"]} if not row["encoding"] else {"encoding": "hash"}
        lines.append(f"    {json.dumps(name)}: {json.dumps(keys)}")
    return "\n".join(lines) + "\n"
