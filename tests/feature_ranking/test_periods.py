"""Rows by day, by parts of a number, and the label of each."""

from __future__ import annotations

import datetime as dt

import numpy as np
import polars as pl
import pytest

from recsys.feature_ranking.periods import MAX_PERIODS, PARTS, label_by_period, read_periods
from recsys.feature_ranking.rows import count_rows
from tests.feature_ranking.planted import dataset

ROWS = 600
CLICK = np.arange(ROWS) % 3 == 0
DAYS = [dt.date(2026, 1, 1) + dt.timedelta(days=k // 100) for k in range(ROWS)]


@pytest.mark.parametrize("unit", ["date", "ms", "us", "ns"])
def test_days(unit: str) -> None:
    time = pl.Series(DAYS)
    if unit != "date":
        time = time.cast(pl.Datetime(unit)) + pl.Series([dt.timedelta(hours=23)] * ROWS)
    raw = dataset(pl.DataFrame({"x": CLICK, "t": time, "click": CLICK}), timestamp="t")
    rows = count_rows(raw, "click", rule=None)
    periods = read_periods(raw, rows)
    assert periods is not None
    assert periods.names == [str(day) for day in sorted(set(DAYS))]
    assert periods.sample.tolist() == [k // 100 for k in range(ROWS)]
    table = label_by_period(rows, periods)
    assert table["rows"].to_list() == [100] * 6
    assert table["share_True"].to_list() == [CLICK[k : k + 100].mean() for k in range(0, ROWS, 100)]


@pytest.mark.parametrize("scale", [1, 86_400])
def test_numbers_and_many_days_are_cut_in_equal_parts(scale: int) -> None:
    time = np.arange(ROWS) * scale
    kind = pl.Series(time) if scale == 1 else pl.Series(time).cast(pl.Int64).cast(pl.Datetime("ms"))
    if scale > 1:
        kind = pl.Series([dt.date(2020, 1, 1) + dt.timedelta(days=int(k)) for k in range(ROWS)])
        assert ROWS > MAX_PERIODS
    raw = dataset(pl.DataFrame({"x": CLICK, "t": kind, "click": CLICK}), timestamp="t")
    rows = count_rows(raw, "click", rule=None)
    periods = read_periods(raw, rows)
    assert periods is not None
    assert len(periods.names) == PARTS
    assert label_by_period(rows, periods)["rows"].to_list() == [ROWS // PARTS] * PARTS


def test_no_time_column() -> None:
    raw = dataset(pl.DataFrame({"x": CLICK, "click": CLICK}))
    rows = count_rows(raw, "click", rule=None)
    assert read_periods(raw, rows) is None
    assert len(label_by_period(rows, None)) == 0
