"""Pieces that figures share."""

import csv

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.tracking.figures import (
    MAX_POINTS,
    Subject,
    new_figure,
    save_figure,
    smoothed,
    thinned,
)


def test_files(tmp_path):
    figure, _ = new_figure("title")
    table = {"name": ["a,b", "c"], "value": np.array([0.1, float("nan")])}
    save_figure(figure, table, tmp_path / "deep" / "plot")
    assert (tmp_path / "deep" / "plot.png").read_bytes()[:4] == b"\x89PNG"
    with (tmp_path / "deep" / "plot.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "value"], ["a,b", "0.1"], ["c", "nan"]]


def test_columns_must_be_of_one_length(tmp_path):
    figure, _ = new_figure("title")
    with pytest.raises(ValueError, match="zip"):
        save_figure(figure, {"a": [1], "b": [1, 2]}, tmp_path / "plot")


def test_subject():
    assert str(Subject("autoint", "criteo", 4_584_062)) == "autoint on criteo, n = 4,584,062"


@given(st.lists(st.floats(0, 1), min_size=1, max_size=1500))
def test_thinning_keeps_ends_and_order(steps):
    x, y = np.cumsum(steps), np.sqrt(np.cumsum(steps))
    kept = thinned(x, y)
    assert kept[0] == 0
    assert kept[-1] == len(x) - 1
    assert (np.diff(kept) > 0).all()
    assert len(kept) <= MAX_POINTS + 2


def test_thinning_follows_the_curve():
    """A curve that turns at its very beginning keeps points before the turn."""
    x = np.concatenate([np.zeros(50), np.linspace(0, 1, 100_000)])
    y = np.concatenate([np.linspace(0, 1, 50), np.ones(100_000)])
    kept = thinned(x, y)
    assert (kept < 50).sum() > 20


def test_smoothing():
    values = np.random.default_rng(0).normal(size=500) + 3
    smooth = smoothed(values)
    assert smooth[0] == values[0]
    assert smooth[100:].std() < 0.5 * values.std()
    assert len(smoothed(np.zeros(0))) == 0
    keep = 1 - 1 / 20
    weights = keep ** np.arange(500)[::-1]
    assert smooth[-1] == pytest.approx((weights * values).sum() / weights.sum())
