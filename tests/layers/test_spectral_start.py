"""Vectors to start from: popularity in one coordinate, singular vectors in the others."""

import numpy as np
import pytest
import torch

from recsys.data.pairs import Pairs
from recsys.layers.spectral_start import spectral_start


def draw(users: int = 30, items: int = 20) -> Pairs:
    rng = np.random.default_rng(0)
    likes = rng.random((users, items)) < rng.uniform(0.1, 0.6, items)
    likes[:, -1] = False  # an item without a user
    return Pairs.of(*np.nonzero(likes), users, items)


def test_coordinates_are_popularity_and_singular_vectors() -> None:
    train = draw()
    users, items = spectral_start(train, 5, 0.1)
    degrees = np.maximum(train.item_degrees, 1)
    popularity = torch.from_numpy(np.log(degrees / degrees.mean())).float()
    torch.testing.assert_close(users[:, :1] @ items[:, :1].T, popularity.expand(30, 20))
    matrix = np.zeros((30, 20))
    matrix[train.users, train.items] = 1
    matrix /= np.sqrt(np.maximum(matrix.sum(1, keepdims=True), 1))
    matrix /= np.sqrt(np.maximum((matrix > 0).sum(0, keepdims=True), 1))
    left, values, right = np.linalg.svd(matrix)
    expected = (left[:, 1:5] * values[1:5]) @ right[1:5] * 0.01 * np.sqrt(30 * 20)
    np.testing.assert_allclose(users[:, 1:] @ items[:, 1:].T, expected, atol=1e-4)


@pytest.mark.parametrize("width", [1, 3, 8])
def test_there_may_be_more_coordinates_than_directions(width: int) -> None:
    train = Pairs.of(np.array([0, 1, 2]), np.array([0, 0, 0]), num_users=3, num_items=2)
    torch.manual_seed(0)
    users, items = spectral_start(train, width, 0.1)
    assert users.shape == (3, width)
    assert items.shape == (2, width)
    assert users.isfinite().all()
    assert items.isfinite().all()
    assert (users != 0).all()  # what starts at zero on both sides never learns
    assert (items[:, 1:] != 0).all()
