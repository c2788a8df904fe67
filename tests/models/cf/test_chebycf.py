"""ChebyCF against dense matrices, its polynomial evaluated directly."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.polynomial import chebyshev

from recsys.errors import ConfigError
from recsys.models.cf.chebycf import ChebyCF, plateau_coefficients
from tests.models.cf.planted import (
    I,
    U,
    assert_scores,
    check_contract,
    dense,
    draw,
    item_degrees,
    normalized,
)

RANK = 6


def test_contract() -> None:
    check_contract(lambda users, items: ChebyCF(users, items, rank=RANK))


@pytest.mark.parametrize("degree", [1, 2, 5, 8])
@pytest.mark.parametrize("flatness", [0.5, 1.5, 10.0])
def test_coefficients_interpolate_the_plateau(degree: int, flatness: float) -> None:
    coefficients = plateau_coefficients(degree, flatness)
    assert len(coefficients) == degree + 1
    for m in range(degree + 1):
        # The authors lay the target's grid on the interval's ends, and interpolate at the nodes.
        place = np.cos((degree - m) * np.pi / degree)
        size = abs(place) ** flatness
        target = 0.5 + 0.5 * size if place < 0 else 0.5 - 0.5 * size
        node = np.cos((degree + 0.5 - m) * np.pi / (degree + 1))
        value = sum(c * np.cos(j * np.arccos(node)) for j, c in enumerate(coefficients))
        assert value == pytest.approx(target, abs=1e-12)


@pytest.mark.parametrize(("users", "items"), [(U, I), (I, U)])
@pytest.mark.parametrize("item_power", [0.0, 0.4])
@pytest.mark.parametrize(("degree", "tolerance"), [(8, 0.0), (8, 1e-4), (1, 0.0), (2, 1e-6)])
def test_scores_equal_the_formula(
    users: int, items: int, item_power: float, degree: int, tolerance: float
) -> None:
    train = draw(users, items)
    matrix = normalized(train)
    laplacian = np.eye(items) - 2 * matrix.T @ matrix
    coefficients = plateau_coefficients(degree, 1.5)
    values, turns = np.linalg.eigh(laplacian)
    polynomial = turns * chebyshev.chebval(values, coefficients) @ turns.T
    v = np.linalg.svd(matrix)[2][:RANK].T
    popularity = item_degrees(train) ** item_power
    rows = dense(train) / popularity
    expected = rows @ (polynomial + 0.2 * v @ v.T) * popularity
    model = ChebyCF(
        users, items, degree=degree, rank=RANK, item_power=item_power, tolerance=tolerance
    )
    model.fit(train)
    assert_scores(model, expected, rtol=1e-3)


def test_tolerance_saves_products() -> None:
    degrees = []
    for tolerance in (0.0, 1e-3, 1e-2):
        model = ChebyCF(U, I, rank=20, tolerance=tolerance)
        model.fit(draw())
        degrees.append(len(model.coefficients) - 1)
    assert degrees[0] == 8
    assert degrees == sorted(degrees, reverse=True)
    assert degrees[2] < 8


@pytest.mark.parametrize(
    "setting",
    [{"degree": 0}, {"flatness": 0.0}, {"rank": 0}, {"ideal": -0.1}, {"tolerance": -1.0}],
    ids=str,
)
def test_bad_settings(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        ChebyCF(U, I, **setting)
