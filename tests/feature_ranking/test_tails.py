"""Tails against closed forms, and adjusted probabilities against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from recsys.feature_ranking.tails import q_values, tail


def test_tail_is_the_gamma_and_the_normal_at_its_ends() -> None:
    score = np.linspace(0.5, 12, 24)
    for degrees in (1, 3, 10):
        z, p = tail(score, degrees, math.sqrt(2 * degrees), math.sqrt(8 / degrees))
        assert p == pytest.approx(stats.chi2.sf(score, degrees), rel=1e-6)
        assert z == pytest.approx(stats.norm.isf(stats.chi2.sf(score, degrees)), abs=1e-6)
    z, p = tail(score, np.zeros(1), np.ones(1), np.zeros(1))
    assert z == pytest.approx(score, rel=1e-2)


def test_tail_goes_on_where_probabilities_end() -> None:
    z, p = tail(np.array([50.0, 500.0, 5e6]), 1.0, math.sqrt(2), math.sqrt(8))
    assert (np.diff(z) > 0).all()
    assert np.isfinite(z).all()
    assert p[-1] == 0.0
    z, p = tail(np.array([1.0]), 1.0, 0.0, 0.0)
    assert (z[0], p[0]) == (0.0, 1.0)


def test_q_values_against_statsmodels_definition() -> None:
    p = np.random.default_rng(0).random(40) ** 3
    order = np.argsort(p)
    slow = np.empty(40)
    for rank, at in enumerate(order):
        above = [p[other] * 40 / (k + 1) for k, other in enumerate(order) if k >= rank]
        slow[at] = min(1.0, *above)
    assert q_values(p) == pytest.approx(slow)
