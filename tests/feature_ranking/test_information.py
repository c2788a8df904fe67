"""Plug-in information against scikit-learn and against plain sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score
from sklearn.metrics.cluster import expected_mutual_information

from recsys.feature_ranking.information import mutual_information, standard_error, x_log_x
from recsys.feature_ranking.null import InformationNull


@pytest.mark.parametrize("cardinality", [2, 7, 500, 20_000])
@pytest.mark.parametrize("classes", [2, 5])
def test_equals_scikit_learn(cardinality: int, classes: int) -> None:
    generator = np.random.default_rng(cardinality)
    values, labels = (
        generator.integers(0, cardinality, 30_000),
        generator.integers(0, classes, 30_000),
    )
    table = np.zeros((cardinality, classes), np.int64)
    np.add.at(table, (values, labels), 1)
    assert abs(mutual_information(table) - mutual_info_score(values, labels)) < 1e-12


def test_chance_equals_that_of_adjusted_mutual_information() -> None:
    generator = np.random.default_rng(0)
    values, labels = generator.integers(0, 300, 5_000), generator.integers(0, 3, 5_000)
    table = np.zeros((300, 3), np.int64)
    np.add.at(table, (values, labels), 1)
    expected = expected_mutual_information(table, 5_000)
    found = InformationNull(table.sum(axis=0)).moments(table.sum(axis=1)).mean
    assert found == pytest.approx(expected, rel=1e-6)


def test_no_bit_changes_with_the_order_of_values_or_classes() -> None:
    generator = np.random.default_rng(0)
    for high in (50, 3_000_000):  # both ways of adding up
        table = generator.integers(0, high, (400, 3))
        whole = mutual_information(table)
        for _ in range(5):
            shuffled = table[generator.permutation(400)][:, generator.permutation(3)]
            assert mutual_information(shuffled) == whole


def test_empty_and_weighted_tables() -> None:
    assert mutual_information(np.zeros((4, 2), int)) == 0.0
    table = np.array([[1.5, 0.5], [0.25, 2.0]])
    assert mutual_information(table * 4) == pytest.approx(mutual_information(table))


def test_standard_error_is_that_of_new_rows() -> None:
    generator = np.random.default_rng(0)
    chance = np.array([[0.3, 0.1], [0.1, 0.2], [0.05, 0.25]]).ravel()
    draws = generator.multinomial(4_000, chance, 2_000).reshape(-1, 3, 2)
    found = [mutual_information(one) for one in draws]
    table = (chance * 4_000).reshape(3, 2)
    assert standard_error(table, mutual_information(table)) == pytest.approx(np.std(found), rel=0.1)


def test_x_log_x() -> None:
    assert x_log_x(np.array([0, 1, 2])).tolist() == [0.0, 0.0, 2 * math.log(2)]
