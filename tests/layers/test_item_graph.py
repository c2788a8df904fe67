"""The item graph against dense float64 products and the definition of omega, by both forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.pairs import Pairs
from recsys.errors import ConfigError
from recsys.layers import item_graph as module
from recsys.layers.item_graph import ItemGraph, item_graph, item_graph_kernel


@pytest.fixture(params=["kernel", "plain"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "plain":
        monkeypatch.setattr(module, "item_graph_kernel", lambda: None)
    elif item_graph_kernel() is None:
        pytest.skip("no C++ compiler: the kernel cannot be built")
    return request.param


def draw(num_users: int, num_items: int, count: int, seed: int = 0) -> Pairs:
    rng = np.random.default_rng(seed)
    users, items = rng.integers(num_users, size=count), rng.integers(num_items, size=count)
    return Pairs.of(users, items, num_users, num_items)


def dense_omega(train: Pairs, keep_diagonal: bool) -> tuple[np.ndarray, np.ndarray]:
    """omega [I, I] as in the paper, and the integers it ranks by."""
    ratings = np.zeros((train.num_users, train.num_items))
    ratings[train.users, train.items] = 1
    shared = ratings.T @ ratings
    if not keep_diagonal:
        np.fill_diagonal(shared, 0)
    sums = shared.sum(1)
    omega = np.zeros_like(shared)
    for i, j in np.argwhere(shared):
        omega[i, j] = shared[i, j] / sums[i] * np.sqrt((sums[i] + 1) / (sums[j] + 1))
    return omega, shared**2 / (sums + 1)


def check(found: ItemGraph, train: Pairs, k: int, keep_diagonal: bool) -> None:
    omega, strength = dense_omega(train, keep_diagonal)
    for i in range(train.num_items):
        ranked = sorted(range(train.num_items), key=lambda j: (-strength[i, j], j))
        best = [j for j in ranked if omega[i, j] > 0][:k]
        assert found.neighbors[i].tolist() == best + [i] * (k - len(best))
        expected = np.zeros(k)
        expected[: len(best)] = omega[i, best]
        np.testing.assert_allclose(found.weights[i], expected, rtol=1e-6)
        assert (np.diff(found.weights[i]) <= 1e-7).all()


@pytest.mark.parametrize("keep_diagonal", [True, False])
@pytest.mark.parametrize("k", [1, 3, 10, 40])
def test_equals_the_dense_form(k: int, keep_diagonal: bool, way: str) -> None:
    train = draw(20, 30, 150)
    check(item_graph(train, k, keep_diagonal=keep_diagonal), train, k, keep_diagonal)


@settings(max_examples=30, deadline=None)
@given(
    users=st.integers(1, 8),
    items=st.integers(1, 12),
    count=st.integers(0, 60),
    k=st.integers(1, 14),
    keep_diagonal=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_small_graph(
    users: int, items: int, count: int, k: int, keep_diagonal: bool, seed: int
) -> None:
    """Small numbers collide: ties, also those of unequal counts, go to the lower index."""
    train = draw(users, items, count, seed)
    found = item_graph(train, k, keep_diagonal=keep_diagonal)
    check(found, train, k, keep_diagonal)


def test_ties_go_to_the_lower_index(way: str) -> None:
    """One user has all items: every neighbour is as strong as every other."""
    train = Pairs.of(np.zeros(9, int), np.arange(9), num_users=1, num_items=9)
    assert (item_graph(train, 4).neighbors == [0, 1, 2, 3]).all()
    without = item_graph(train, 3, keep_diagonal=False).neighbors
    assert without[[0, 1, 8]].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 2]]


def test_items_nobody_has_are_their_own_neighbours_of_weight_0(way: str) -> None:
    train = Pairs.of(np.array([0, 0]), np.array([1, 3]), num_users=3, num_items=5)
    found = item_graph(train, 2)
    assert found.neighbors.tolist() == [[0, 0], [1, 3], [2, 2], [1, 3], [4, 4]]
    assert (found.weights[[0, 2, 4]] == 0).all()
    assert (found.weights[[1, 3]] > 0).all()


def test_no_pairs_at_all(way: str) -> None:
    nothing = np.zeros(0, int)
    found = item_graph(Pairs.of(nothing, nothing, num_users=2, num_items=3), 2)
    assert found.neighbors.tolist() == [[0, 0], [1, 1], [2, 2]]
    assert (found.weights == 0).all()


def test_blocks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    train = draw(20, 30, 150)
    monkeypatch.setattr(module, "item_graph_kernel", lambda: None)
    whole = item_graph(train, 5)
    monkeypatch.setattr(module, "BLOCK_COUNTS", 70)
    assert (item_graph(train, 5).neighbors == whole.neighbors).all()


def test_the_number_of_threads_does_not_show() -> None:
    train, before, found = draw(200, 300, 3000), torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(item_graph(train, 10))
    torch.set_num_threads(before)
    assert (found[0].neighbors == found[1].neighbors).all()
    assert (found[0].weights == found[1].weights).all()


def test_no_neighbours_wanted() -> None:
    with pytest.raises(ConfigError, match="num_neighbors is 0; it must be at least 1"):
        item_graph(draw(3, 3, 5), 0)


def test_the_kernel_was_built() -> None:
    """Where this suite runs there is a compiler; without, only the plain form was tested."""
    assert Path(module.__file__).with_suffix(".cpp").is_file()
