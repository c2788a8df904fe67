"""Differences: against scipy and scikit-learn, and on cases whose answer is known."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import log_loss, roc_auc_score

from recsys.comparison.paired import (
    holm,
    resample,
    resampled_auc,
    resampled_mean,
    row_difference,
    row_losses,
    seed_difference,
)


def test_the_paired_test_is_scipys() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=6), rng.normal(size=6)
    one, baseline = dict(enumerate(a)), dict(enumerate(b)) | {9: 100.0}
    found = seed_difference(one, baseline)
    expected = stats.ttest_rel(a, b)
    assert found is not None
    assert found.n == 6
    assert found.p == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_no_test_is_claimed_without_two_common_seeds_or_without_spread() -> None:
    assert seed_difference({0: 1.0}, {1: 1.0}) is None
    single = seed_difference({0: 0.8, 1: 0.9}, {0: 0.7})
    assert single is not None
    assert (single.mean, single.n) == (pytest.approx(0.1), 1)
    assert math.isnan(single.p)
    assert math.isnan(single.low)
    same = seed_difference({0: 0.8, 1: 0.9}, {0: 0.7, 1: 0.8})
    assert same is not None
    assert math.isnan(same.p)


def test_holm_by_hand() -> None:
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([]) == []


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_resampled_auc_is_the_auc_of_the_drawn_rows(grouped: bool, weighted: bool) -> None:
    rng = np.random.default_rng(1)
    n = 200
    logits = np.round(rng.normal(size=n), 1).astype(np.float32)  # with ties
    labels = rng.integers(0, 2, n)
    block = rng.integers(0, 20, n) if grouped else None
    weights = rng.random(n) if weighted else None
    value = resampled_auc(logits, labels, block, weights)
    drawn = rng.integers(0, 4, 20 if grouped else n).astype(np.float64)
    mass = (drawn if block is None else drawn[block]) * (1 if weights is None else weights)
    assert value(drawn) == pytest.approx(roc_auc_score(labels, logits, sample_weight=mass))


def test_losses_and_means() -> None:
    rng = np.random.default_rng(2)
    logits, labels = rng.normal(size=50) * 3, rng.integers(0, 2, 50)
    expected = log_loss(labels, 1 / (1 + np.exp(-logits)))
    assert row_losses(logits, labels).mean() == pytest.approx(expected)
    value = resampled_mean(np.array([1.0, math.nan, 3.0]), np.array([1.0, 5.0, 2.0]))
    assert value(np.array([2.0, 7.0, 1.0])) == pytest.approx((2 * 1 + 2 * 3) / 4)
    assert math.isnan(value(np.array([0.0, 1.0, 0.0])))


def test_the_bootstrap_interval_of_a_mean_is_that_of_the_normal_law() -> None:
    rng = np.random.default_rng(3)
    change = rng.normal(0.5, 1.0, 2000)
    one = resample(resampled_mean(change), 2000, 2000, seed=0)
    none = resample(resampled_mean(np.zeros(2000)), 2000, 2000, seed=0)
    found = row_difference([(one, none)], 2000, "rows")
    assert found is not None
    reach = 1.96 * change.std() / math.sqrt(2000)
    assert found.mean == pytest.approx(change.mean())
    assert found.low == pytest.approx(change.mean() - reach, abs=0.1 * reach)
    assert found.high == pytest.approx(change.mean() + reach, abs=0.1 * reach)


def test_models_are_resampled_on_the_same_rows() -> None:
    """Two models that differ by a constant differ by it on every draw."""
    rng = np.random.default_rng(4)
    values = rng.normal(size=300)
    pair = [resample(resampled_mean(values + add), 300, 50, seed=7) for add in (0.25, 0.0)]
    found = row_difference([(pair[0], pair[1])], 300, "rows")
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.25, 0.25))
    assert row_difference([], 300, "rows") is None
