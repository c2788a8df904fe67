"""What a ranking suggests for training: which columns, how wide, which values are too rare.

    keep           it tells something above chance, alone or together with another column (see
                   `worth`), and is no copy of one that is kept; a column that may be a leak is left
                   out until somebody says that it is none
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

from recsys.feature_ranking.worth import column_worth

LEAST_SHARE = 0.05
MOST_ROWS = 0.1
LEAK = "leak?"
"""How the flag of a column begins that tells too much to be true."""
HASH_VALUES = 5_000_000
"""Values beyond which a vocabulary is better hashed."""


def suggest(features: pl.DataFrame, rare: pl.DataFrame, pairs: pl.DataFrame) -> pl.DataFrame:
    """A row per column, those to keep first, the best before the others: `feature`, `keep`,
    `reason`, `worth` (nats, alone or in a pair), `embedding_dim`, `min_count`, `encoding`.

    Args:
        features: Of a ranking.
        rare: Share of rows by column and bound, of the same ranking.
        pairs: Of the same ranking; may be empty.
    """
    found = column_worth(features, pairs)
    leaks = {
        row["feature"]: flag
        for row in features.iter_rows(named=True)
        for flag in row["flags"].split("; ")
        if flag.startswith(LEAK)
    }
    shares: dict[str, dict[int, float]] = {}
    for row in rare.iter_rows(named=True):
        shares.setdefault(row["feature"], {})[row["fewer_than"]] = row["share"]
    rows = []
    for row in features.iter_rows(named=True):
        name = row["feature"]
        keep = name in found.worth and name not in leaks
        if name in leaks or name in found.useless:
            reason = leaks.get(name) or found.useless[name]
        elif name in found.partners:
            reason = f"together with {found.partners[name]}"
        else:
            reason = "alone" if keep else "nothing above chance"
        rows.append({
            "feature": name,
            "keep": keep,
            "reason": reason,
            "worth": found.worth.get(name, 0.0),
            "embedding_dim": width(row["values"]),
            "min_count": _min_count(row, shares[name]),
            "encoding": "hash" if row["values"] > HASH_VALUES else None,
        })  # fmt: skip
    schema = {
        "feature": pl.String, "keep": pl.Boolean, "reason": pl.String, "worth": pl.Float64,
        "embedding_dim": pl.Int64, "min_count": pl.Int64, "encoding": pl.String,
    }  # fmt: skip
    table = pl.DataFrame(rows, schema=schema)
    return table.sort("keep", "worth", descending=True, maintain_order=True)


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


def as_yaml(table: pl.DataFrame, kept_file: str) -> str:
    """An experiment that trains on the columns to keep: a file for `configs/experiment`.

    Args:
        table: Of `suggest`.
        kept_file: Path of the columns to keep, which `data.features` reads.
    """
    kept = table.filter("keep")
    widths = kept["embedding_dim"].sort()
    dim = int(widths[len(widths) // 2]) if len(widths) else 16
    lines = [
        "# @package _global_",
        "# Suggested by pipelines.rank_features; the width is a rule of thumb.",
        *_left_out(table),
        f"embedding: {{dim: {dim}}}",
    ]
    if not len(kept):
        return "\n".join([*lines, "# No column is kept: none tells more than chance.", ""])
    lines += ["data:", f"  features: {json.dumps(kept_file)}"]
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


def _left_out(table: pl.DataFrame) -> list[str]:
    """Comments on columns that tell too much."""
    suspects = table.filter(pl.col("reason").str.starts_with(LEAK))
    return [
        f"# Left out: {json.dumps(name)}, {reason}. Add it to the list of features if it is known "
        "at the time of prediction."
        for name, reason in suspects.select("feature", "reason").iter_rows()
    ]
