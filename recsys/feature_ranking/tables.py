"""What a ranking found, as tables: columns, pairs, values, drift."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from recsys.data.schema import Field
from recsys.feature_ranking import selection
from recsys.feature_ranking.pairs import PairSums, SmallColumn
from recsys.feature_ranking.periods import Periods
from recsys.feature_ranking.quality import ColumnQuality, period_drift
from recsys.feature_ranking.score import ColumnScore
from recsys.feature_ranking.tails import q_values, tail


@dataclass(frozen=True)
class RankedColumn:
    """What is kept of a column once it is counted."""

    field: Field
    score: ColumnScore
    quality: ColumnQuality
    halves: np.ndarray
    small: SmallColumn | None
    flags: list[str]
    digest: str
    classic: float


def mark_duplicates(columns: list[RankedColumn]) -> None:
    """Flag columns that are an earlier one under other names."""
    first: dict[str, str] = {}
    for one in columns:
        known = first.setdefault(one.digest, one.field.name)
        if known != one.field.name and "constant" not in one.flags:
            one.flags.append(f"same as {known}, renamed or not")


def ordered_by(column: RankedColumn, method: str) -> float:
    """What columns are ordered by, before any greedy choice."""
    value = {
        "outrank_classic": column.classic,
        "information": column.score.information,
        "gain": column.score.gain,
    }.get(method, column.score.score)
    return -math.inf if math.isnan(value) else value


def feature_table(columns: list[RankedColumn], method: str, chosen: pl.DataFrame) -> pl.DataFrame:
    """The table of columns, best first."""
    q = q_values(np.array([one.score.p for one in columns]))
    halves = np.stack([one.halves for one in columns])  # [F, H]
    ranks = np.argsort(np.argsort(-halves, axis=0, kind="stable"), axis=0, kind="stable") + 1
    table = []
    for index, one in enumerate(columns):
        stable: dict[str, Any] = {"stability": None, "rank_low": None, "rank_high": None}
        if halves.shape[1]:
            low, high = np.quantile(ranks[index], (0.05, 0.95), method="nearest")
            stable = {
                "stability": float((halves[index] > 0).mean()),
                "rank_low": int(low),
                "rank_high": int(high),
            }
        table.append({
            "feature": one.field.name,
            "score": ordered_by(one, method),
            "excess": one.score.excess,
            "information": one.score.information,
            "chance": one.score.chance,
            "deviation": one.score.deviation,
            "error": one.score.error,
            "z": one.score.z,
            "p": one.score.p,
            "q": float(q[index]),
            "gain": one.score.gain,
            "strength": one.score.strength,
            **stable,
            "kind": str(one.field.kind),
            "values": one.quality.values,
            "missing": one.quality.missing,
            "unique": one.quality.unique,
            "top": one.quality.top,
            "entropy": one.quality.entropy,
            "unseen": one.quality.unseen,
            "drift": one.quality.drift,
            "flags": "; ".join(one.flags),
        })  # fmt: skip
    # A constant, or values of their own in every row, cannot tell anything: they come last.
    found = pl.DataFrame(table, infer_schema_length=None).sort(
        pl.col("p") == 1.0, -pl.col("score"), "feature"
    )
    if method in selection.METHODS and len(chosen):
        steps = chosen.filter(pl.col("method") == method).select("feature", "step")
        found = found.join(steps, on="feature", how="left", maintain_order="left")
        found = found.sort("step", nulls_last=True, maintain_order=True).drop("step")
    first = ("feature", "score", "rank")
    return found.with_row_index("rank", offset=1).select(*first, pl.exclude(first))


def pair_table(columns: list[RankedColumn], full: PairSums | None) -> pl.DataFrame:
    """Pairs that were counted over all rows, the clearest interaction first."""
    schema = {
        "first": pl.String, "second": pl.String, "interaction": pl.Float64, "deviation": pl.Float64,
        "z": pl.Float64, "p": pl.Float64, "joint": pl.Float64, "first_adds": pl.Float64,
        "second_adds": pl.Float64, "redundancy": pl.Float64,
    }  # fmt: skip
    if full is None:
        return pl.DataFrame(schema=schema)
    z, p = tail(full.excess, np.zeros(1), full.deviation, np.zeros(1))
    names = np.array([one.field.name for one in columns], object)
    return pl.DataFrame(
        {
            "first": names[full.pairs[:, 0]],
            "second": names[full.pairs[:, 1]],
            "interaction": full.excess,
            "deviation": full.deviation,
            "z": z,
            "p": p,
            "joint": full.joint,
            "first_adds": full.joint - full.second,
            "second_adds": full.joint - full.first,
            "redundancy": full.redundancy,
        },
        schema=schema,
    ).sort("z", descending=True)


def drift_table(columns: list[RankedColumn], periods: Periods | None) -> pl.DataFrame:
    """Population stability of each column by period."""
    schema = {"feature": pl.String, "period": pl.String, "psi": pl.Float64}
    rows = []
    for one in columns if periods is not None else []:
        assert periods is not None
        if one.small is not None:
            psi = period_drift(one.small.sample, periods.sample, len(periods.names))
            rows += [
                {"feature": one.field.name, "period": name, "psi": float(value)}
                for name, value in zip(periods.names, psi, strict=True)
            ]
    return pl.DataFrame(rows, schema=schema)


def value_table(columns: list[RankedColumn]) -> pl.DataFrame:
    """The most frequent values of each column."""
    rows = [
        {"feature": one.field.name, "value": text, "share": share}
        for one in columns
        for text, share in one.quality.frequent.items()
    ]
    return pl.DataFrame(
        rows, schema={"feature": pl.String, "value": pl.String, "share": pl.Float64}
    )


def rare_table(columns: list[RankedColumn]) -> pl.DataFrame:
    """Share of rows whose value is rarer than a bound, by column and bound."""
    rows = [
        {"feature": one.field.name, "fewer_than": bound, "share": share}
        for one in columns
        for bound, share in one.quality.rare.items()
    ]
    return pl.DataFrame(
        rows, schema={"feature": pl.String, "fewer_than": pl.Int64, "share": pl.Float64}
    )
