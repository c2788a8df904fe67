"""Polynomials of the graph of pairs against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.polynomial import chebyshev

from recsys.errors import ConfigError, SchemaError
from recsys.layers.pair_graph import PairGraph
from tests.models.cf.planted import I, U, dense, draw, item_degrees, normalized


def graph() -> PairGraph:
    made = PairGraph(U, I)
    made.fit(draw())
    return made


def function(matrix: np.ndarray, coefficients: list[float], bound: float) -> np.ndarray:
    """The polynomial of a symmetric matrix."""
    values, turns = np.linalg.eigh(matrix)
    return turns * chebyshev.chebval(2 * values / bound - 1, coefficients) @ turns.T


@pytest.mark.parametrize("degree", [0, 1, 2, 3, 8])
@pytest.mark.parametrize(("user_power", "item_power"), [(0.5, 0.5), (0.6, 0.4), (0.0, 1.0)])
def test_rows_are_filtered(degree: int, user_power: float, item_power: float) -> None:
    coefficients = np.random.default_rng(degree).normal(size=degree + 1).tolist()
    matrix = normalized(draw(), user_power, item_power)
    square = matrix.T @ matrix
    bound = float(np.linalg.eigvalsh(square)[-1])
    weights = torch.rand(I) + 0.5
    users = torch.tensor([7, 0, 7, 3, *range(U)])
    found = graph().filtered(
        users,
        coefficients,
        bound=bound,
        user_power=user_power,
        item_power=item_power,
        before=weights,
        after=1 / weights,
    )
    scale = weights.double().numpy()
    expected = dense(draw()) * scale @ function(square, coefficients, bound) / scale
    np.testing.assert_allclose(found, expected[users], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("degree", [0, 1, 2, 5])
def test_columns_are_filtered(degree: int) -> None:
    coefficients = np.random.default_rng(degree).normal(size=degree + 1).tolist()
    matrix = normalized(draw())
    x = torch.randn(I, 9)
    found = graph().polynomial(x, coefficients)
    expected = function(matrix.T @ matrix, coefficients, 1.0) @ x.double().numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_degrees_of_nobody_are_one() -> None:
    made, train = graph(), draw()
    np.testing.assert_allclose(made.item_powers(0.5), item_degrees(train) ** 0.5, rtol=1e-6)
    assert made.user_powers(-0.5)[3] == 1


def test_no_pairs_at_all() -> None:
    none = np.zeros(0, np.int64)
    made = PairGraph(4, 5)
    made.fit(draw(4, 5).of(none, none, 4, 5))
    assert made.filtered(torch.arange(4), [1.0, 2.0, 3.0]).tolist() == [[0.0] * 5] * 4


def test_state_is_the_graph() -> None:
    made, loaded = graph(), PairGraph(U, I)
    with pytest.raises(ConfigError, match="PairGraph knows nothing yet"):
        loaded.filtered(torch.tensor([0]), [1.0])
    loaded.load_state_dict(made.state_dict())
    users = torch.arange(U)
    assert torch.equal(loaded.filtered(users, [0.5, 0.5]), made.filtered(users, [0.5, 0.5]))
    with pytest.raises(RuntimeError, match="size mismatch for user_offsets"):
        PairGraph(U + 1, I).load_state_dict(made.state_dict())


def test_other_sizes_are_refused() -> None:
    with pytest.raises(SchemaError, match="37 users and 53 items, the model is of 37 and 54"):
        PairGraph(U, I + 1).fit(draw())
