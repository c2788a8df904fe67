"""The analytic null against permutations, enumeration and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from recsys.feature_ranking.information import mutual_information
from recsys.feature_ranking.null import InformationNull
from recsys.feature_ranking.tails import tail


def table_of(values: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    size = int(values.max()) + 1
    return np.bincount(values * classes + labels, minlength=size * classes).reshape(size, classes)


@pytest.mark.parametrize("sizes", [(2, 3), (1, 1, 3), (1, 2, 2, 1), (4, 1)])
@pytest.mark.parametrize("classes", [(2, 3), (1, 4), (2, 2, 1), (2, 1, 2, 1)])
def test_mean_is_that_of_all_permutations(sizes: tuple, classes: tuple) -> None:
    if sum(sizes) != sum(classes):
        return
    values = np.repeat(np.arange(len(sizes)), sizes)
    labels = np.repeat(np.arange(len(classes)), classes)
    every = set(itertools.permutations(labels.tolist()))
    found = [mutual_information(table_of(values, np.array(one), len(classes))) for one in every]
    moments = InformationNull(classes).moments(np.array(sizes))
    assert moments.mean == pytest.approx(np.mean(found), rel=1e-9)


@pytest.mark.parametrize("share", [0.16, 0.5])
@pytest.mark.parametrize("cardinality", [2, 10, 200, 3_000, 30_000])
@pytest.mark.parametrize("zipf", [False, True])
def test_moments_against_permutations(share: float, cardinality: int, zipf: bool) -> None:
    generator = np.random.default_rng(cardinality)
    rows, shuffles = 6_000, 300
    weight = 1 / np.arange(1, cardinality + 1) if zipf else np.ones(cardinality)
    values = generator.choice(cardinality, rows, p=weight / weight.sum())
    values = np.unique(values, return_inverse=True)[1]
    labels = (np.arange(rows) < rows * share).astype(int)
    found = np.array([
        mutual_information(table_of(values, generator.permutation(labels), 2))
        for _ in range(shuffles)
    ])  # fmt: skip
    moments = InformationNull(np.bincount(labels)).moments(np.bincount(values))
    assert abs(found.mean() - moments.mean) < 4 * moments.deviation / math.sqrt(shuffles)
    # The error of a deviation of skewed numbers: kurtosis of the fitted distribution.
    spread = math.sqrt((2 + 1.5 * moments.skewness**2) / (4 * shuffles))
    assert found.std() / moments.deviation == pytest.approx(1, abs=4.5 * spread)
    z, _ = tail(found, moments.mean, moments.deviation, moments.skewness)
    assert stats.kstest(z, "norm").pvalue > 1e-3


@pytest.mark.parametrize("classes", [3, 6])
@pytest.mark.parametrize("cardinality", [2, 15, 400, 8_000])
def test_several_classes_against_permutations(classes: int, cardinality: int) -> None:
    generator = np.random.default_rng(classes * cardinality)
    rows, shuffles = 6_000, 300
    labels = generator.choice(classes, rows, p=generator.dirichlet(np.full(classes, 3.0)))
    values = np.unique(generator.integers(0, cardinality, rows), return_inverse=True)[1]
    found = np.array([
        mutual_information(table_of(values, generator.permutation(labels), classes))
        for _ in range(shuffles)
    ])  # fmt: skip
    moments = InformationNull(np.bincount(labels)).moments(np.bincount(values))
    assert abs(found.mean() - moments.mean) < 4 * moments.deviation / math.sqrt(shuffles)
    spread = math.sqrt((2 + 1.5 * moments.skewness**2) / (4 * shuffles))
    assert found.std() / moments.deviation == pytest.approx(1, abs=4.5 * spread)


@pytest.mark.slow
@pytest.mark.parametrize("cardinality", [2, 10, 100, 1_000, 10_000, 100_000])
def test_calibration_over_noise_columns(cardinality: int) -> None:
    """500 columns of noise per cardinality, as data sets have them: z is standard normal."""
    generator = np.random.default_rng(cardinality)
    rows = 50_000
    labels = (generator.random(rows) < 0.16).astype(int)
    null, z = InformationNull(np.bincount(labels)), []
    for _ in range(500):
        values = np.unique(generator.integers(0, cardinality, rows), return_inverse=True)[1]
        moments = null.moments(np.bincount(values))
        found = mutual_information(table_of(values, labels, 2))
        z.append(tail(np.array([found]), moments.mean, moments.deviation, moments.skewness)[0][0])
    assert stats.kstest(z, "norm").pvalue > 0.01


def test_two_values_are_one_degree_of_freedom() -> None:
    moments = InformationNull([5_000, 5_000]).moments(np.array([5_000, 5_000]))
    n = 10_000
    assert moments.mean * 2 * n == pytest.approx(1, rel=1e-3)
    assert moments.deviation * 2 * n == pytest.approx(math.sqrt(2), rel=1e-2)
    assert moments.skewness == pytest.approx(math.sqrt(8), rel=2e-2)


def test_many_frequent_values_are_chi_square() -> None:
    for classes in (2, 5):
        moments = InformationNull([20_000] * classes).moments(np.full(50, 400 * classes))
        degrees, n = 49 * (classes - 1), 20_000 * classes
        assert moments.mean * 2 * n == pytest.approx(degrees, rel=1e-2)
        assert moments.deviation * 2 * n == pytest.approx(math.sqrt(2 * degrees), rel=2e-2)


def test_what_cannot_vary_has_no_deviation() -> None:
    null = InformationNull([70, 30])
    assert null.moments(np.array([100])).deviation == 0.0  # constant
    unique = null.moments(np.ones(100, int))  # an id
    assert unique.deviation == 0.0
    entropy = -(0.7 * math.log(0.7) + 0.3 * math.log(0.3))
    assert unique.mean == pytest.approx(entropy, rel=1e-9)


def test_sum_and_expansion_agree_where_they_meet() -> None:
    from recsys.feature_ranking import null as module

    sizes = np.array([900, 5_000, 40_000])
    for share in (0.02, 0.2, 0.5):
        for both in (True, False):
            rows = 1_000_000
            expanded = module._cell_moments(sizes, rows, int(rows * share), both)
            summed = module._summed(sizes.astype(float), rows, int(rows * share), both)
            variance = sizes * share * (1 - share)
            far = variance > module.EXACT_VARIANCE
            assert expanded.packed[far, 0] == pytest.approx(summed[far, 0], rel=3e-4)
            assert expanded.packed[far, 1] == pytest.approx(summed[far, 1], rel=0.05)


def test_class_counts_are_checked() -> None:
    for counts in ([5], [5, 0]):
        with pytest.raises(ValueError, match="two classes with rows"):
            InformationNull(counts)
