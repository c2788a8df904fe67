"""The null of a numeric label against permutations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from recsys.feature_ranking.number_null import variance_null


@pytest.mark.parametrize("heavy", [False, True])
@pytest.mark.parametrize("cardinality", [2, 10, 100, 1_500])
def test_variance_null_against_permutations(heavy: bool, cardinality: int) -> None:
    generator = np.random.default_rng(cardinality)
    rows, shuffles = 2_000, 400
    y = generator.lognormal(0, 1, rows) if heavy else generator.normal(size=rows)
    y = (y - y.mean()) / y.std()
    values = np.unique(generator.integers(0, cardinality, rows), return_inverse=True)[1]
    size = np.bincount(values)
    found = np.array([
        (np.bincount(values, generator.permutation(y)) ** 2 / size).sum() / rows
        for _ in range(shuffles)
    ])  # fmt: skip
    moments = variance_null(size, float((y**4).mean()))
    assert abs(found.mean() - moments.mean) < 4 * found.std() / math.sqrt(shuffles)
    kurtosis = stats.kurtosis(found) + 3
    spread = math.sqrt((kurtosis - 1) / (4 * shuffles))
    assert found.std() / moments.deviation == pytest.approx(1, abs=4.5 * spread)
