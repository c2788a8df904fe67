"""The published score against its loops, and the defects that are not taken over."""

from __future__ import annotations

import itertools

import numpy as np
import polars as pl
import pytest

from recsys.feature_ranking.classic import BATCH_ROWS, batch_score, classic_score
from recsys.feature_ranking.counts import count_column
from recsys.feature_ranking.rows import count_rows
from tests.feature_ranking.planted import dataset


def slow(codes: np.ndarray, labels: np.ndarray) -> float:
    """Value by value, as the package computes it."""
    n, real, noise = len(codes), 0.0, 0.0
    for value in np.unique(codes):
        at = np.flatnonzero(codes == value)
        if len(at) == 1:
            continue
        for which, shift in (("real", 0), ("noise", len(at))):
            drawn = labels[(at + shift) % n]
            p = np.array([(drawn == k).mean() for k in np.unique(labels)])
            p = p[p > 0]
            entropy = -(len(at) / n) * (p * np.log(p)).sum()
            if which == "real":
                real += entropy
            else:
                noise += entropy
    return noise - real


@pytest.mark.parametrize("cardinality", [2, 30, 900])
def test_against_the_loops(cardinality: int) -> None:
    generator = np.random.default_rng(cardinality)
    codes, labels = generator.integers(0, cardinality, 1_500), generator.integers(0, 3, 1_500)
    assert batch_score(codes, labels) == pytest.approx(slow(codes, labels), abs=1e-12)


def test_median_over_batches_of_rows_in_order() -> None:
    generator = np.random.default_rng(0)
    size = 2 * BATCH_ROWS + 1_500
    values, click = generator.integers(0, 50, size), generator.integers(0, 2, size)
    raw = dataset(pl.DataFrame({"x": values, "click": click}))
    rows = count_rows(raw, "click", rule=None)
    column = count_column(rows, raw.schema["x"])
    edges = [0, BATCH_ROWS, 2 * BATCH_ROWS, size]
    parts = [batch_score(values[a:b], click[a:b]) for a, b in itertools.pairwise(edges)]
    assert classic_score(rows, column) == pytest.approx(np.median(parts), abs=1e-12)
    short = dataset(pl.DataFrame({"x": values[:900], "click": click[:900]}))
    rows = count_rows(short, "click", rule=None)
    assert np.isnan(classic_score(rows, count_column(rows, short.schema["x"])))


def test_it_depends_on_the_order_of_rows_and_ours_does_not() -> None:
    """Bursts of one label: what a value tells drowns in the labels that follow."""
    from recsys.feature_ranking.score import Scorer

    generator = np.random.default_rng(0)
    burst = np.repeat(generator.integers(0, 8, 256), 64)
    click = (generator.random(len(burst)) < 0.1 + 0.1 * burst).astype(int)
    session = np.repeat(np.arange(256), 64)
    found = []
    for order in (np.arange(len(burst)), generator.permutation(len(burst))):
        raw = dataset(pl.DataFrame({"x": session[order], "click": click[order]}))
        rows = count_rows(raw, "click", rule=None)
        column = count_column(rows, raw.schema["x"])
        found.append((classic_score(rows, column), Scorer(rows, 0).score(column).excess))
    assert found[0][0] < 0.3 * found[1][0]
    assert found[0][1] == found[1][1] > 0.1
