"""Propagation against powers of the dense matrix, by the kernel and by torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.errors import SchemaError
from recsys.layers import propagation
from recsys.layers.propagation import Both, Graph, LayerSum, propagation_kernel
from recsys.layers.row_noise import Noise

USERS, ITEMS = 13, 9


def make_pairs(users: int = USERS, items: int = ITEMS, seed: int = 0) -> Pairs:
    """Random pairs; user 2 and item 3 have none."""
    rng = np.random.default_rng(seed)
    u, i = rng.integers(0, users, 3 * users), rng.integers(0, items, 3 * users)
    kept = (u != 2) & (i != 3)
    return Pairs.of(u[kept], i[kept], users, items)


def dense_matrix(pairs: Pairs) -> Tensor:
    """Ahat [U + I, U + I] in float64, entry by entry."""
    size = pairs.num_users + pairs.num_items
    a = torch.zeros(size, size, dtype=torch.float64)
    for user, item in zip(pairs.users.tolist(), pairs.items.tolist(), strict=True):
        a[user, pairs.num_users + item] = a[pairs.num_users + item, user] = 1.0
    degrees = a.sum(1)
    root = torch.where(degrees > 0, degrees.clamp(min=1).rsqrt(), 0.0)
    return root[:, None] * a * root[None, :]


def draw(width: int, pairs: Pairs, dtype: torch.dtype = torch.float32) -> Both:
    generator = torch.Generator().manual_seed(1)
    users = torch.randn(pairs.num_users, width, generator=generator, dtype=torch.float64)
    items = torch.randn(pairs.num_items, width, generator=generator, dtype=torch.float64)
    return Both(users.to(dtype).requires_grad_(), items.to(dtype).requires_grad_())


@pytest.fixture(params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(propagation, "raw_float32", lambda *_: False)
    elif propagation_kernel() is None:
        pytest.skip("no C++ compiler: the kernel cannot be built")
    return request.param


ROWS = Both(torch.tensor([0, 2, 3, 11]), torch.tensor([8, 3, 5]))
SUMS = {
    "lightgcn": [LayerSum.mean(3), LayerSum.single(0)],
    "simgcl": [LayerSum.mean(2, skip_ego=True), LayerSum.single(1)],
    "ego alone": [LayerSum.single(0)],
    "one layer": [LayerSum.single(1)],
    "uneven": [LayerSum((0.5, 0.0, -2.0, 0.0))],
}


@pytest.mark.parametrize("sums", SUMS)
@pytest.mark.parametrize("rows", [None, ROWS], ids=["all rows", "some rows"])
@pytest.mark.parametrize("width", [1, 7, 32, 100])
def test_sums_and_their_gradients_equal_powers_of_the_dense_matrix(
    sums: str, rows: Both | None, width: int, way: str
) -> None:
    pairs = make_pairs()
    x = draw(width, pairs)
    found = Graph(pairs).propagate(*x, SUMS[sums], rows)

    twin = torch.cat([x.users, x.items]).detach().double().requires_grad_()
    ahat, loss, slow_loss = dense_matrix(pairs), torch.zeros(()), torch.zeros(())
    for one, both in zip(SUMS[sums], found, strict=True):
        expected = sum(
            weight * torch.linalg.matrix_power(ahat, k) @ twin
            for k, weight in enumerate(one.weights)
        )
        assert isinstance(expected, Tensor)
        users, items = expected[:USERS], expected[USERS:]
        if rows is not None:
            users, items = users[rows.users], items[rows.items]
        torch.testing.assert_close(both.users.double(), users, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(both.items.double(), items, atol=1e-6, rtol=1e-5)
        loss = loss + (both.users**2).sum() + (both.items**3).sum()
        slow_loss = slow_loss + (users**2).sum() + (items**3).sum()
    loss.backward()
    slow_loss.backward()
    assert twin.grad is not None
    expected = (twin.grad[:USERS], twin.grad[USERS:])
    for part, wanted in zip(x, expected, strict=True):
        assert part.grad is not None
        torch.testing.assert_close(part.grad.double(), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rows", [None, ROWS], ids=["all rows", "some rows"])
def test_gradients_in_float64(rows: Both | None) -> None:
    pairs = make_pairs()
    graph, x = Graph(pairs), draw(2, pairs, torch.float64)

    def outputs(users: Tensor, items: Tensor) -> tuple[Tensor, ...]:
        wanted = [LayerSum.mean(3), LayerSum.single(1), LayerSum.single(0)]
        return tuple(part for both in graph.propagate(users, items, wanted, rows) for part in both)

    assert torch.autograd.gradcheck(outputs, (x.users, x.items))


def test_a_sum_that_the_loss_does_not_use(way: str) -> None:
    pairs = make_pairs()
    x = draw(4, pairs)
    mean, ego = Graph(pairs).propagate(*x, [LayerSum.mean(2), LayerSum.single(0)], ROWS)
    ego.users.sum().backward()
    expected = torch.zeros(USERS, 4).index_fill(0, ROWS.users, 1.0)
    assert torch.equal(x.users.grad, expected)
    assert torch.equal(x.items.grad, torch.zeros(ITEMS, 4))
    assert mean.users.requires_grad


def slow_noise(noise: Noise, layer: int, side: int, x: Tensor) -> Tensor:
    """The formula, number by number, in Python's whole numbers."""

    def mixed(v: int) -> int:
        v = ((v ^ (v >> 16)) * 0x85EBCA6B) % 2**32
        v = ((v ^ (v >> 13)) * 0xC2B2AE35) % 2**32
        return v ^ (v >> 16)

    low, high = (int(v) for v in noise.key(layer, side))
    out = torch.zeros(x.shape, dtype=torch.float64)
    for row in range(x.shape[0]):
        start = mixed(mixed(row ^ low) ^ high)
        for column in range(x.shape[1]):
            out[row, column] = (mixed((start + column * 0x9E3779B9) % 2**32) >> 8) / 2**24
    return noise.eps * x.sign() * out / out.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("rows", [None, ROWS], ids=["all rows", "some rows"])
def test_views_with_noise_equal_their_formula(rows: Both | None, way: str) -> None:
    """Two noisy views and a clean one: values layer by layer, one gradient for all."""
    pairs = make_pairs()
    x = draw(20, pairs)
    noises = [Noise(0.1, 7), Noise(0.1, 8), None]
    wanted = [LayerSum.mean(3, skip_ego=True, noise=noise) for noise in noises]
    found = Graph(pairs).propagate(*x, [*wanted, LayerSum.single(1, noises[0])], rows)

    ahat = dense_matrix(pairs)
    twin = torch.cat([x.users, x.items]).detach().double().requires_grad_()
    slow = []
    for noise in noises:
        layers, here = [], twin
        for layer in (1, 2, 3):
            here = ahat @ here
            if noise is not None:
                steps = [
                    slow_noise(noise, layer, side, part.detach())
                    for side, part in enumerate((here[:USERS], here[USERS:]))
                ]
                here = here + torch.cat(steps)
            layers.append(here)
        slow.append(torch.stack(layers).mean(0))
        if noise is noises[0]:
            first = layers[0]
    loss, slow_loss = torch.zeros(()), torch.zeros(())
    for both, expected in zip(found, [*slow, first], strict=True):
        parts = Both(expected[:USERS], expected[USERS:])
        if rows is not None:
            parts = Both(parts.users[rows.users], parts.items[rows.items])
        for part, one in zip(both, parts, strict=True):
            torch.testing.assert_close(part.double(), one, atol=1e-6, rtol=1e-5)
            loss, slow_loss = loss + (part**2).sum(), slow_loss + (one**2).sum()
    loss.backward()
    slow_loss.backward()
    assert twin.grad is not None
    torch.testing.assert_close(
        torch.cat([x.users.grad, x.items.grad]).double(), twin.grad, atol=1e-5, rtol=1e-4
    )


def test_users_and_items_without_pairs_keep_their_first_layer_alone(way: str) -> None:
    pairs = make_pairs()
    x = draw(8, pairs)
    mean, last = Graph(pairs).propagate(*x, [LayerSum.mean(1), LayerSum.single(2, Noise(0.1, 1))])
    torch.testing.assert_close(mean.users[2], x.users[2] / 2)
    torch.testing.assert_close(mean.items[3], x.items[3] / 2)
    assert not last.users[2].any()  # sign(0) = 0: no noise either
    assert not last.items[3].any()


def test_the_input_is_left_alone(way: str) -> None:
    pairs = make_pairs()
    x = draw(8, pairs)
    before = [part.detach().clone() for part in x]
    for rows in (None, ROWS):
        Graph(pairs).propagate(*x, [LayerSum.single(0), LayerSum.mean(2)], rows)
    assert all(torch.equal(a, b) for a, b in zip(x, before, strict=True))


def test_no_pair_at_all_is_an_error() -> None:
    nothing = np.empty(0, np.int64)
    with pytest.raises(SchemaError, match="no pair"):
        Graph(Pairs.of(nothing, nothing, 3, 4))


def test_a_matrix_of_another_size_is_an_error() -> None:
    with pytest.raises(SchemaError, match=r"users has shape \[4, 2\]; the graph needs \[13, D\]"):
        Graph(make_pairs()).propagate(torch.zeros(4, 2), torch.zeros(ITEMS, 2), [LayerSum.mean(1)])


def test_memory_is_at_most_16_bytes_a_pair() -> None:
    """At 11 pairs a user or item, which is Gowalla's share, and less than half of Yelp's."""
    rng = np.random.default_rng(0)
    pairs = Pairs.of(rng.integers(0, 300, 8000), rng.integers(0, 400, 8000), 300, 400)
    graph = Graph(pairs)
    assert graph.nbytes <= 16 * len(pairs)
    kinds = {name: buffer.dtype for name, buffer in graph.named_buffers()}
    assert kinds["user_items"] == kinds["item_users"] == torch.int32


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    pairs = make_pairs(400, 300)
    graph, x = Graph(pairs), draw(16, pairs)
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(graph.propagate(*x, [LayerSum.mean(3, noise=Noise(0.1, 5))])[0])
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))
