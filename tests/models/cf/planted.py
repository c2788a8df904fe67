"""Small random sets of pairs for closed forms, and checks that hold for every one of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from recsys.data.pairs import Pairs
from recsys.errors import ConfigError, SchemaError
from recsys.models.collaborative import ClosedForm

U, I = 37, 53  # noqa: E741


def draw(num_users: int = U, num_items: int = I, seed: int = 0) -> Pairs:
    """Pairs of which two users have no item, and two items no user."""
    rng = np.random.default_rng(seed)
    matrix = rng.random((num_users, num_items)) < rng.uniform(0.05, 0.5, num_items)
    matrix[[3, num_users - 1]] = False
    matrix[:, [0, num_items - 4]] = False
    users, items = matrix.nonzero()
    return Pairs.of(users, items, num_users, num_items)


def dense(pairs: Pairs) -> np.ndarray:
    """R, [U, I] float64."""
    matrix = np.zeros((pairs.num_users, pairs.num_items))
    matrix[pairs.users, pairs.items] = 1
    return matrix


def normalized(pairs: Pairs, user_power: float = 0.5, item_power: float = 0.5) -> np.ndarray:
    """Du^-a R Di^-c, [U, I] float64."""
    matrix = dense(pairs)
    degrees = [np.maximum(matrix.sum(axis), 1) for axis in (1, 0)]
    return degrees[0][:, None] ** -user_power * matrix * degrees[1] ** -item_power


def item_degrees(pairs: Pairs) -> np.ndarray:
    """Degrees of items, 1 where they are 0, [I] float64."""
    return np.maximum(pairs.item_degrees, 1).astype(float)


def all_scores(model: ClosedForm) -> np.ndarray:
    return model.scores(torch.arange(model.num_users)).numpy()


def assert_scores(model: ClosedForm, expected: np.ndarray, rtol: float = 1e-4) -> None:
    """Scores equal a matrix [U, I] up to float32, for all users and for some in any order."""
    found = all_scores(model)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol * np.abs(expected).max())
    some = torch.tensor([5, 3, 5, 0])
    np.testing.assert_allclose(model.scores(some).numpy(), found[some], rtol=1e-5, atol=1e-6)
    assert model.scores(some[:0]).shape == (0, model.num_items)


def check_contract(make: Callable[[int, int], ClosedForm]) -> None:
    """What every closed form must do, whatever it computes."""
    train = draw()
    model = make(U, I)
    model.fit(train)
    before = all_scores(model)
    assert np.isfinite(before).all()
    loaded = make(U, I)
    loaded.load_state_dict(model.state_dict())
    assert np.array_equal(all_scores(loaded), before)
    # A second fit forgets the first, and the same pairs give the same bits.
    loaded.fit(draw(seed=1))
    assert not np.array_equal(all_scores(loaded), before)
    loaded.load_state_dict(model.state_dict())
    assert np.array_equal(all_scores(loaded), before)
    loaded.fit(train)
    assert np.array_equal(all_scores(loaded), before)
    with pytest.raises(SchemaError, match="37 users and 54 items"):
        model.fit(draw(U, I + 1))
    with pytest.raises(RuntimeError, match="size mismatch"):
        make(U, I + 1).load_state_dict(model.state_dict())
    if type(model).__name__ != "Popularity":
        with pytest.raises(ConfigError, match="call fit"):
            make(U, I).scores(torch.tensor([0]))
