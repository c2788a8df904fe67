"""Rows by period: days of a date column, or equal parts of any other time column."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.data.formats import plain_type
from recsys.data.raw import RawDataset
from recsys.data.split import time_values
from recsys.feature_ranking.rows import NOT_COUNTED, Rows, chunks

MAX_PERIODS = 60
"""More days than these are cut into `PARTS` equal parts instead."""
PARTS = 10
PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}


@dataclass(frozen=True)
class Periods:
    """Where rows lie in time.

    Args:
        names: Of the periods, in order.
        sample: Period of the sampled rows, [S].
        files: Period of every row, [n] uint8 for each file.
    """

    names: list[str]
    sample: np.ndarray
    files: list[np.ndarray]


def read_periods(
    raw: RawDataset, rows: Rows, progress: Callable[[int, int], None] = lambda done, total: None
) -> Periods | None:
    """Read the schema's time column; None where it has none."""
    column = raw.schema.timestamp
    if column is None:
        return None
    total = sum(file.source.num_rows for file in rows.files)
    times: list[list[np.ndarray]] = [[] for _ in rows.files]
    done = 0
    for file, chunk in chunks(rows, [column]):
        index = next(i for i, one in enumerate(rows.files) if one is file)
        times[index].append(time_values(chunk.column(column), column, chunk))
        done += chunk.num_rows
        progress(done, total)
    found = [np.concatenate(one) for one in times]
    kind = plain_type(rows.files[0].source.columns[column])
    days = _days(found, kind)
    if days is not None:
        distinct = np.unique(np.concatenate([np.unique(one) for one in days]))
        if len(distinct) <= MAX_PERIODS:
            names = [str(np.datetime64(int(day), "D")) for day in distinct]
            return _periods(rows, [np.searchsorted(distinct, one) for one in days], names)
    used = [t[f.cell != NOT_COUNTED] for t, f in zip(found, rows.files, strict=True)]
    whole = np.concatenate(used)
    edges = np.unique(np.quantile(whole, np.arange(1, PARTS) / PARTS, method="higher"))
    parts = [np.searchsorted(edges, one, side="right") for one in found]
    ends = [whole.min(), *edges]
    return _periods(rows, parts, [f"from {_show(one, kind)}" for one in ends])


def _days(times: list[np.ndarray], kind: pa.DataType) -> list[np.ndarray] | None:
    if pa.types.is_date32(kind):
        return times
    if pa.types.is_date64(kind):
        return [one // PER_DAY["ms"] for one in times]
    if pa.types.is_timestamp(kind):
        return [one // PER_DAY[kind.unit] for one in times]
    return None


def _show(time: float, kind: pa.DataType) -> str:
    if pa.types.is_timestamp(kind):
        return str(np.datetime64(int(time), kind.unit).astype("datetime64[s]"))
    if pa.types.is_date32(kind):
        return str(np.datetime64(int(time), "D"))
    return f"{time:.10g}"


def _periods(rows: Rows, files: list[np.ndarray], names: list[str]) -> Periods:
    files = [one.astype(np.uint8) for one in files]
    sample = [one[file.sample] for one, file in zip(files, rows.files, strict=True)]
    return Periods(names, np.concatenate(sample), files)


def label_by_period(rows: Rows, periods: Periods | None) -> pl.DataFrame:
    """Rows and mean label of each period; of classes, the share of each but the first."""
    if periods is None:
        return pl.DataFrame(schema={"period": pl.String, "rows": pl.Int64})
    num, classes = len(periods.names), rows.num_classes
    counts = np.zeros((num, classes), np.int64)
    sums = np.zeros(num)
    for period, file in zip(periods.files, rows.files, strict=True):
        used = file.cell != NOT_COUNTED
        at = period[used].astype(np.int64)
        key = at * classes + file.cell[used] % classes
        counts += np.bincount(key, minlength=num * classes).reshape(num, classes)
        if file.number is not None:
            sums += np.bincount(at, file.number[used], num)
    size = counts.sum(axis=1)
    columns: dict[str, object] = {"period": periods.names, "rows": size}
    if rows.is_number:
        columns["mean_score"] = sums / np.maximum(size, 1)
    else:
        for index, name in enumerate(rows.classes[1:], start=1):
            columns[f"share_{name}"] = counts[:, index] / np.maximum(size, 1)
    return pl.DataFrame(columns)
