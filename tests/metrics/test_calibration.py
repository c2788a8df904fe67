"""Calibration against slow references and planted cases."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.metrics.calibration import (
    calibration_curve,
    calibration_ratio,
    expected_calibration_error,
    wilson_interval,
)


def logit(p):
    return np.log(p) - np.log1p(-np.asarray(p, dtype=np.float64))


def slow_bins(logits, labels, weights, num_bins):
    """Bins by the middle of each distinct logit's share of the mass, in plain Python."""
    total, before, bins = sum(weights), 0.0, {}
    for z in sorted(set(logits)):
        here = [i for i, other in enumerate(logits) if other == z]
        mass = sum(weights[i] for i in here)
        index = min(int((before + mass / 2) / total * num_bins), num_bins - 1)
        entry = bins.setdefault(index, [0.0, 0.0, 0.0])
        entry[0] += mass
        entry[1] += mass / (1 + math.exp(-z))
        entry[2] += sum(weights[i] * labels[i] for i in here)
        before += mass
    return [(m, p / m, o / m) for _, (m, p, o) in sorted(bins.items())]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_bins", [1, 3, 20])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_slow_reference(seed, num_bins, ties, weighted):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=211).astype(np.float32)
    logits = np.round(logits, 1 if ties else 7).astype(np.float32)
    labels = (rng.random(211) < 0.3).astype(int)
    weights = rng.random(211) + 0.1 if weighted else np.ones(211)
    expected = slow_bins(logits.tolist(), labels.tolist(), weights.tolist(), num_bins)
    given_weights = weights if weighted else None
    curve = calibration_curve(logits, labels, given_weights, num_bins)
    np.testing.assert_allclose(
        np.stack([curve.mass, curve.predicted, curve.observed], axis=1), expected, rtol=1e-10
    )
    ece = sum(m * abs(p - o) for m, p, o in expected) / weights.sum()
    assert expected_calibration_error(logits, labels, given_weights, num_bins) == pytest.approx(ece)
    ratio = np.average(1 / (1 + np.exp(-logits.astype(float))), weights=weights)
    ratio /= np.average(labels, weights=weights)
    assert calibration_ratio(logits, labels, given_weights) == pytest.approx(ratio, rel=1e-12)


@pytest.mark.parametrize("rate", [0.001, 0.25, 0.9])
def test_constant_predictor_of_the_base_rate_is_calibrated(rate):
    labels = np.arange(1000) < 1000 * rate
    logits = np.full(1000, logit(rate), dtype=np.float32)
    assert calibration_ratio(logits, labels) == pytest.approx(1.0, rel=1e-6)
    assert expected_calibration_error(logits, labels) == pytest.approx(0.0, abs=1e-7)
    assert len(calibration_curve(logits, labels)) == 1  # one tie, one bin


def test_planted_overconfidence_is_found():
    rng = np.random.default_rng(0)
    truth = rng.uniform(0.02, 0.2, 200_000)
    labels = rng.random(200_000) < truth
    assert calibration_ratio(logit(truth), labels) == pytest.approx(1.0, abs=0.02)
    doubled = logit(2 * truth)
    assert calibration_ratio(doubled, labels) == pytest.approx(2.0, abs=0.04)
    ece = expected_calibration_error(doubled, labels)
    assert ece == pytest.approx(truth.mean(), abs=0.003)
    curve = calibration_curve(logit(truth), labels)
    inside = (curve.low <= curve.predicted) & (curve.predicted <= curve.high)
    assert inside.mean() >= 0.8  # a 95 % interval over 20 bins
    assert not ((curve.low <= 2 * curve.predicted) & (2 * curve.predicted <= curve.high)).any()


def test_bins_hold_equal_mass_without_ties():
    logits = np.random.default_rng(0).normal(size=1000)
    curve = calibration_curve(logits, logits > 0, num_bins=20)
    np.testing.assert_array_equal(curve.mass, np.full(20, 50.0))
    assert (np.diff(curve.predicted) > 0).all()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(-4, 4), st.booleans()), min_size=1, max_size=60))
def test_properties(sample):
    logits, labels = (np.array(column, dtype=np.float32) for column in zip(*sample, strict=True))
    curve = calibration_curve(logits, labels, num_bins=7)
    assert curve.mass.sum() == len(sample)
    assert (curve.low <= curve.observed + 1e-12).all()
    assert (curve.observed <= curve.high + 1e-12).all()
    assert ((curve.low >= 0) & (curve.high <= 1)).all()
    assert 0 <= curve.error <= 1
    order = np.random.default_rng(1).permutation(len(sample))
    shuffled = calibration_curve(logits[order], labels[order], num_bins=7)
    np.testing.assert_array_equal(shuffled.observed, curve.observed)
    np.testing.assert_array_equal(shuffled.predicted, curve.predicted)
    # One bin: the error is the gap between mean prediction and base rate.
    gap = abs(
        float((1 / (1 + np.exp(-logits.astype(float)))).mean()) - labels.mean(dtype=np.float64)
    )
    assert expected_calibration_error(logits, labels, num_bins=1) == pytest.approx(gap)


def test_undefined_is_nan():
    assert math.isnan(calibration_ratio([1.0, 2.0], [0, 0]))
    assert math.isnan(calibration_ratio([], []))
    assert math.isnan(expected_calibration_error([], []))
    assert len(calibration_curve([], [])) == 0


def test_extreme_logits_do_not_overflow():
    with np.errstate(all="raise", under="ignore"):
        assert calibration_ratio([1e4, -1e4], [1, 0]) == 1.0
        assert expected_calibration_error([3e38, -3e38], [0, 1], num_bins=2) == 1.0


def test_weights_scale_the_interval_by_effective_size():
    logits, labels = np.zeros(100), np.arange(100) % 4 == 0
    plain = calibration_curve(logits, labels)
    scaled = calibration_curve(logits, labels, np.full(100, 9.0))
    np.testing.assert_allclose([scaled.low, scaled.high], [plain.low, plain.high])
    uneven = calibration_curve(logits, labels, np.where(np.arange(100) < 4, 100.0, 1e-9))
    low, high = wilson_interval(np.array([0.25]), np.array([4.0]))
    np.testing.assert_allclose([uneven.low, uneven.high], [low, high], rtol=1e-6)


def test_wilson_against_published_values():
    """Newcombe (Statistics in Medicine, 1998), Table I, method 3."""
    low, high = wilson_interval(np.array([81 / 263, 15 / 148, 0 / 20]), np.array([263.0, 148, 20]))
    np.testing.assert_allclose(low, [0.2553, 0.0624, 0.0], atol=5e-5)
    np.testing.assert_allclose(high, [0.3662, 0.1605, 0.1611], atol=5e-5)


def test_bin_count_must_be_positive():
    with pytest.raises(ValueError, match="num_bins=0"):
        calibration_curve([0.0], [1], num_bins=0)
