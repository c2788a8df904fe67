"""Which rows train, which validate, which test.

Given files need no rule. Otherwise one of the rules below assigns every row of one source:
`assign(source, rule)` reads at most the one or two columns the rule needs and returns a function
from a chunk to the split of each of its rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.data.columns import groups, is_list
from recsys.data.formats import plain_type
from recsys.data.hashing import mix64
from recsys.data.readers import Chunk, Source
from recsys.errors import ConfigError, SchemaError

SPLITS = ("train", "val", "test")
TRAIN, VAL, TEST = range(3)
Assign = Callable[[Chunk], np.ndarray]
"""Chunk to [B] uint8: 0 train, 1 val, 2 test."""


@dataclass(frozen=True)
class RandomSplit:
    """Rows at random, by a fixed 64-bit mix of (seed, row index): the same rows on any machine."""

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0

    def __post_init__(self) -> None:
        _check_fractions(self.fractions)


@dataclass(frozen=True)
class TimeSplit:
    """Oldest rows train, newest test; rows with equal time stay together, in the later split.

    Args:
        column: Timestamp column: int, float, date or datetime.
        fractions: Shares of train, val and test rows; the cuts are exact quantiles of the column.
        cuts: Explicit `(first time of val, first time of test)` in the column's own unit, or as
            ISO text; overrides `fractions`.
    """

    column: str
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    cuts: tuple[float | int | str, float | int | str] | None = None

    def __post_init__(self) -> None:
        _check_fractions(self.fractions)


@dataclass(frozen=True)
class LeaveLastOut:
    """Per user: the last row tests, the one before validates, the rest train.

    A user with two rows has no validation row; a user with one row only trains. Rows of equal time
    are taken in file order.
    """

    user: str
    timestamp: str


SplitRule = RandomSplit | TimeSplit | LeaveLastOut


def assign(source: Source, rule: SplitRule) -> Assign:
    """Make the function that assigns the rows of a source.

    Raises:
        SchemaError: A column is absent, is no time, or has nulls.
    """
    if isinstance(rule, RandomSplit):
        return _random(rule)
    if isinstance(rule, TimeSplit):
        return _time(source, rule)
    return _leave_last_out(source, rule)


def _check_fractions(fractions: Sequence[float]) -> None:
    if len(fractions) != 3 or min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-9:
        raise ConfigError(
            f"split fractions are {tuple(fractions)}; give three numbers >= 0 for train, val and "
            "test that add up to 1."
        )


def _random(rule: RandomSplit) -> Assign:
    key = mix64(np.array([rule.seed], np.int64).view(np.uint64))[0]
    train, val, _ = rule.fractions
    # Compare 53-bit integers, so that no float of a row enters the decision.
    first, second = round(train * 2**53), round((train + val) * 2**53)

    def splits(chunk: Chunk) -> np.ndarray:
        rows = np.arange(chunk.start, chunk.start + chunk.num_rows, dtype=np.uint64)
        draws = mix64(mix64(rows) ^ key) >> np.uint64(11)
        return (draws >= first).astype(np.uint8) + (draws >= second).astype(np.uint8)

    return splits


def _time(source: Source, rule: TimeSplit) -> Assign:
    source.require([rule.column])
    if rule.cuts is None:
        cuts = _quantile_cuts(source, rule)
    else:
        kind = source.columns[rule.column]
        cuts = tuple(_cut_value(cut, kind, rule.column) for cut in rule.cuts)
        if cuts[0] > cuts[1]:
            raise ConfigError(
                f"the time cuts {rule.cuts} are not in order; give (first time of val, first time "
                "of test)."
            )

    def splits(chunk: Chunk) -> np.ndarray:
        times = time_values(chunk.column(rule.column), rule.column, chunk)
        out = np.zeros(len(times), np.uint8)
        for cut in cuts:
            if cut is not None:
                out += times >= cut
        return out

    return splits


def _quantile_cuts(source: Source, rule: TimeSplit) -> tuple[Any, Any]:
    """First time of val and of test; None stands for never."""
    values = np.empty(0, np.int64)
    counts = np.empty(0, np.int64)
    for chunk in source.chunks([rule.column]):
        times, number = np.unique(
            time_values(chunk.column(rule.column), rule.column, chunk), return_counts=True
        )
        values, at = np.unique(np.concatenate([values, times]), return_inverse=True)
        merged = np.zeros(len(values), np.int64)
        np.add.at(merged, at, np.concatenate([counts, number]))
        counts = merged
    ends = np.cumsum(counts)
    total = int(ends[-1])
    cuts: list[Any] = []
    for share in (rule.fractions[0], rule.fractions[0] + rule.fractions[1]):
        row = round(share * total)
        # The row at this position of the sorted column starts the next split, with its equals.
        cuts.append(None if row >= total else values[np.searchsorted(ends, row, side="right")])
    if rule.fractions[1] == 0:
        cuts[0] = cuts[1]
    return cuts[0], cuts[1]


def _cut_value(cut: float | int | str, kind: pa.DataType, column: str) -> Any:
    if not isinstance(cut, str):
        return cut
    if not pa.types.is_temporal(kind):
        raise ConfigError(
            f'the time cut "{cut}" is text, but column "{column}" holds {kind}; give a number in '
            "the unit of the column."
        )
    try:
        value = pa.scalar(cut).cast(pa.timestamp("us")).cast(_without_zone(kind), safe=False)
    except pa.ArrowException as error:
        raise ConfigError(
            f'the time cut "{cut}" is no ISO date or time ({error}); write e.g. 2024-05-01 or '
            "2024-05-01T12:00:00."
        ) from error
    return time_values(pa.array([value]), column, None)[0]


def _without_zone(kind: pa.DataType) -> pa.DataType:
    return pa.timestamp(kind.unit) if pa.types.is_timestamp(kind) else kind


def time_values(array: pa.Array, name: str, chunk: Chunk | None) -> np.ndarray:
    """Times as comparable numbers [B]: int64 (units of the column) or float64.

    Raises:
        SchemaError: The column is no time, or a row has none.
    """
    kind = plain_type(array.type)
    if is_list(kind) or not (
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_temporal(kind)
    ):
        raise SchemaError(
            f'time column "{name}" holds {kind}; it must be int, float, date or datetime. '
            "Parse the text into a datetime column first."
        )
    array = array.cast(kind)
    floating = pa.types.is_floating(kind)
    if pa.types.is_temporal(kind):
        array = array.cast(pa.int64() if kind.bit_width == 64 else pa.int32())
    if not floating:
        array = array.cast(pa.int64())
    missing = array.is_null(nan_is_null=floating).to_numpy(zero_copy_only=False)
    if missing.any():
        row = int(np.flatnonzero(missing)[0])
        where = chunk.where(row) if chunk else f"row {row}"
        raise SchemaError(
            f'time column "{name}" is missing in {where} ({int(missing.sum())} such rows in this '
            "part); it puts the rows in order, so every row needs it. Remove those rows."
        )
    return array.to_numpy(zero_copy_only=False)


def _leave_last_out(source: Source, rule: LeaveLastOut) -> Assign:
    source.require([rule.user, rule.timestamp])
    users, times = [], []
    for chunk in source.chunks([rule.user, rule.timestamp]):
        users.append(groups(chunk.column(rule.user), rule.user, chunk))
        times.append(time_values(chunk.column(rule.timestamp), rule.timestamp, chunk))
    frame = pl.DataFrame({"user": np.concatenate(users), "time": np.concatenate(times)})
    frame = frame.with_row_index("row").sort("user", "time", "row")
    frame = frame.with_columns(
        after=pl.len().over("user") - 1 - pl.int_range(pl.len()).over("user"),
        many=pl.len().over("user"),
    )
    out = np.zeros(source.num_rows, np.uint8)
    last = frame.filter((pl.col("after") == 0) & (pl.col("many") >= 2))["row"].to_numpy()
    before = frame.filter((pl.col("after") == 1) & (pl.col("many") >= 3))["row"].to_numpy()
    out[last] = TEST
    out[before] = VAL
    return lambda chunk: out[chunk.start : chunk.start + chunk.num_rows]
