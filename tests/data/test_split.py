"""Splits: fixed, of the right size, and without leaks from the future."""

from datetime import date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.readers import Source
from recsys.data.split import LeaveLastOut, RandomSplit, SplitRule, TimeSplit, assign
from recsys.errors import ConfigError, SchemaError


def splits(frame: pl.DataFrame, rule: SplitRule, rows: int = 100) -> np.ndarray:
    source = Source.from_frame(frame)
    function = assign(source, rule)
    return np.concatenate([function(chunk) for chunk in source.chunks(rows_per_chunk=rows)])


def test_random_is_the_same_for_ever_and_for_any_chunk() -> None:
    frame = pl.DataFrame({"x": range(1000)})
    out = splits(frame, RandomSplit((0.8, 0.1, 0.1), seed=7))
    np.testing.assert_array_equal(out, splits(frame, RandomSplit((0.8, 0.1, 0.1), seed=7), 13))
    assert out[:20].tolist() == [0, 0, 0, 0, 0, 2, 0, 1, 0, 0, 0, 0, 0, 2, 0, 0, 1, 0, 0, 1]
    assert (out != splits(frame, RandomSplit((0.8, 0.1, 0.1), seed=8))).mean() > 0.2


def test_random_has_the_asked_shares() -> None:
    out = splits(pl.DataFrame({"x": range(50_000)}), RandomSplit((0.7, 0.2, 0.1)), 9999)
    shares = np.bincount(out, minlength=3) / 50_000
    assert np.abs(shares - [0.7, 0.2, 0.1]).max() < 5 * (0.25 / 50_000) ** 0.5
    assert set(splits(pl.DataFrame({"x": range(99)}), RandomSplit((1, 0, 0)))) == {0}


@settings(deadline=None)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=60),
    st.sampled_from([(0.8, 0.1, 0.1), (0.5, 0.5, 0.0), (0.6, 0.0, 0.4), (1.0, 0.0, 0.0)]),
)
def test_time_never_leaks_and_ties_stay_together(
    times: list[int], fractions: tuple[float, float, float]
) -> None:
    out = splits(pl.DataFrame({"t": times}), TimeSplit("t", fractions), 7)
    t = np.array(times)
    for early, late in ((0, 1), (0, 2), (1, 2)):
        if (out == early).any() and (out == late).any():
            assert t[out == early].max() < t[out == late].min()
    # No split takes more than its share but for the rows tied at its cut.
    assert (out == 0).sum() <= round(fractions[0] * len(times))


def test_time_cuts_are_exact_quantiles() -> None:
    times = np.random.default_rng(0).permutation(1000)
    out = splits(pl.DataFrame({"t": times}), TimeSplit("t", (0.7, 0.2, 0.1)))
    assert np.bincount(out).tolist() == [700, 200, 100]


@pytest.mark.parametrize(
    ("times", "cuts"),
    [
        ([datetime(2024, 1, d) for d in range(1, 11)], ("2024-01-04", "2024-01-08T00:00:00")),
        ([date(2024, 1, d) for d in range(1, 11)], ("2024-01-04", "2024-01-08")),
        (list(range(1, 11)), (4, 8)),
        ([float(d) for d in range(1, 11)], (3.5, 7.5)),
    ],
)
def test_explicit_cuts(times: list, cuts: tuple) -> None:
    out = splits(pl.DataFrame({"t": times}), TimeSplit("t", cuts=cuts))
    assert out.tolist() == [0] * 3 + [1] * 4 + [2] * 3


def test_time_errors_name_the_column_and_the_row() -> None:
    with pytest.raises(SchemaError, match=r'"t" is missing in <frame> row 1 '):
        splits(pl.DataFrame({"t": [1, None]}), TimeSplit("t"))
    with pytest.raises(SchemaError, match=r'time column "t" holds string'):
        splits(pl.DataFrame({"t": ["2024"]}), TimeSplit("t"))
    with pytest.raises(SchemaError, match=r'no column "tt"'):
        splits(pl.DataFrame({"t": [1]}), TimeSplit("tt"))
    with pytest.raises(ConfigError, match="ISO"):
        splits(pl.DataFrame({"t": [date(2024, 1, 1)]}), TimeSplit("t", cuts=("x", "y")))
    with pytest.raises(ConfigError, match="not in order"):
        splits(pl.DataFrame({"t": [1]}), TimeSplit("t", cuts=(2, 1)))
    with pytest.raises(ConfigError, match="is text, but column"):
        splits(pl.DataFrame({"t": [1]}), TimeSplit("t", cuts=("2024-01-01", "2024-01-02")))


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.1, -0.1, 0.0)])
def test_fractions_must_add_up(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="add up to 1"):
        RandomSplit(fractions)


def test_leave_last_out_by_a_slow_reference() -> None:
    rng = np.random.default_rng(3)
    frame = pl.DataFrame(
        {"u": [f"u{i}" for i in rng.integers(0, 30, 200)], "t": rng.integers(0, 40, 200)}
    )
    out = splits(frame, LeaveLastOut("u", "t"), 33)
    for user in frame["u"].unique():
        rows = np.flatnonzero((frame["u"] == user).to_numpy())
        order = rows[np.argsort(frame["t"].to_numpy()[rows], kind="stable")]
        expected = [0] * len(order)
        if len(order) >= 2:
            expected[-1] = 2
        if len(order) >= 3:
            expected[-2] = 1
        assert out[order].tolist() == expected
