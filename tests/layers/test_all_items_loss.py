"""Losses over all and over chosen items against dense autograd in float64, by kernel and torch."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as nnf
from torch import Tensor

from recsys.layers import all_items_loss as module
from recsys.layers.all_items_loss import (
    all_items_kernel,
    all_items_loss,
    chosen_items_loss,
    group_length,
)

SHAPES = [(1, 1, 1), (3, 7, 5), (20, 300, 16), (17, 70, 64), (5, 33, 67), (600, 9, 3)]


@pytest.fixture(params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(module, "raw_float32", lambda *_: False)
    elif all_items_kernel() is None:
        pytest.skip("no C++ compiler: the kernel cannot be built")
    return request.param


class Draw:
    """Vectors of users and items, weights of rows and items."""

    def __init__(self, rows: int, items: int, dim: int, spread: float = 1.0) -> None:
        generator = torch.Generator().manual_seed(rows + items)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator)

        self.users = (normal(rows, dim) * spread).requires_grad_()
        self.items = normal(items, dim).requires_grad_()
        self.weights, self.scales = normal(rows).abs(), normal(rows).abs()
        self.item_scales = normal(items).abs()
        self.generator = generator

    def doubled(self) -> tuple[Tensor, Tensor]:
        return tuple(t.detach().double().requires_grad_() for t in (self.users, self.items))  # type: ignore[return-value]

    def all_items(self) -> Tensor:
        arguments = (self.weights, self.scales, self.item_scales)
        return all_items_loss(self.users, self.items, *arguments)

    def dense(self, users: Tensor, items: Tensor) -> Tensor:
        weights = self.weights.unsqueeze(1) + self.scales.unsqueeze(1) * self.item_scales
        return (weights.double() * nnf.softplus(users @ items.T)).sum()


def assert_near(found: Tensor | None, expected: Tensor | None) -> None:
    assert found is not None
    assert expected is not None
    scale = float(expected.abs().max()) + 1e-30
    torch.testing.assert_close(found.double(), expected, rtol=2e-6, atol=2e-6 * scale)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("spread", [1e-4, 1.0, 30.0])
def test_all_items_and_gradients_equal_dense_autograd(
    shape: tuple[int, int, int], spread: float, way: str
) -> None:
    draw = Draw(*shape, spread=spread)
    users, items = draw.doubled()
    expected = draw.dense(users, items)
    expected.backward()
    found = draw.all_items()
    found.backward()
    assert found.dtype == torch.float32
    assert_near(found.detach(), expected.detach())
    assert_near(draw.users.grad, users.grad)
    assert_near(draw.items.grad, items.grad)


@pytest.mark.parametrize(("rows", "width"), [(1, 1), (7, 3), (1000, 1000)])
def test_blocks_do_not_show(
    rows: int, width: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_ROWS", rows)
    monkeypatch.setattr(module, "BLOCK_ITEMS", width)
    draw = Draw(20, 50, 8)
    users, items = draw.doubled()
    draw.dense(users, items).backward()
    draw.all_items().backward()
    assert_near(draw.users.grad, users.grad)
    assert_near(draw.items.grad, items.grad)


def slow_chosen(
    users: Tensor, items: Tensor, chosen: Tensor, weights: Tensor, label: int
) -> Tensor:
    length = group_length(len(users), len(chosen))
    total = torch.zeros((), dtype=torch.float64)
    for row, user in enumerate(users):
        for place, item in enumerate(chosen[row // length]):
            score = (user * items[item]).sum()
            probability = torch.sigmoid(score if label else -score)
            total = total - weights[row, place].double() * probability.log()
    return total


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("groups", [1, 2, 3, 7])
@pytest.mark.parametrize(("n", "dim"), [(1, 5), (70, 8), (9, 67)])
def test_chosen_items_and_gradients_equal_a_loop(
    n: int, dim: int, groups: int, label: int, way: str
) -> None:
    draw = Draw(7, 40, dim)
    chosen = torch.randint(40, (groups, n), generator=draw.generator)  # with repetitions
    weights = torch.rand(7, n, generator=draw.generator)
    users, items = draw.doubled()
    expected = slow_chosen(users, items, chosen, weights, label)
    expected.backward()
    kept = weights.clone()
    found = chosen_items_loss(draw.users, draw.items, chosen, weights, label=label)
    found.backward()
    assert_near(found.detach(), expected.detach())
    assert_near(draw.users.grad, users.grad)
    assert_near(draw.items.grad, items.grad)
    assert torch.equal(weights, kept)


def test_many_groups_in_several_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = Draw(29, 40, 8)
    chosen = torch.randint(40, (10, 6), generator=draw.generator)
    weights = torch.rand(29, 6, generator=draw.generator)
    arguments = (draw.users, draw.items, chosen, weights)
    expected = module._chosen_plain(*arguments, sign=-1)
    monkeypatch.setattr(module, "BLOCK_GATHERED", 100)
    for found, one in zip(module._chosen_plain(*arguments, sign=-1), expected, strict=True):
        torch.testing.assert_close(found, one)


def test_choosing_every_item_is_all_items(way: str) -> None:
    draw = Draw(6, 50, 8)
    weights = draw.weights.unsqueeze(1) + draw.scales.unsqueeze(1) * draw.item_scales
    for groups in (1, 6):
        chosen = torch.arange(50).expand(groups, 50)
        found = chosen_items_loss(draw.users, draw.items, chosen, weights, label=0)
        torch.testing.assert_close(found, draw.all_items())


@pytest.mark.parametrize("score", [-1000.0, -90.0, -20.0, -1e-6, 0.0, 1e-6, 20.0, 90.0, 1000.0])
def test_extreme_scores(score: float, way: str) -> None:
    """Relative precision where softplus is tiny; no overflow where it is large."""
    user, item = torch.tensor([[1.0]], requires_grad=True), torch.tensor([[score]])
    one, none = torch.ones(1), torch.zeros(1)
    loss = all_items_loss(user, item, one, none, none)
    expected = score if score > 50 else math.log1p(math.exp(score)) if score > -80 else 0.0
    assert loss.item() == pytest.approx(expected, rel=3e-7, abs=1e-37)
    mirrored = chosen_items_loss(
        user, -item, torch.zeros(1, 1, dtype=torch.int64), one.unsqueeze(1), label=1
    )
    assert mirrored.item() == pytest.approx(expected, rel=3e-7, abs=1e-37)


def test_a_nan_stays_visible_in_its_row(way: str) -> None:
    users, items = torch.ones(2, 9), torch.ones(20, 9)
    users[1, 3] = math.nan
    users.requires_grad_()
    all_items_loss(users, items, torch.ones(2), torch.ones(2), torch.ones(20)).backward()
    assert users.grad is not None
    assert users.grad[0].isfinite().all()
    assert users.grad[1].isnan().all()
    chosen = torch.zeros(2, 3, dtype=torch.int64)
    assert chosen_items_loss(users, items, chosen, torch.ones(2, 3), label=1).isnan()


def test_a_factor_of_the_loss_reaches_the_gradients(way: str) -> None:
    draw = Draw(6, 50, 8)
    draw.all_items().backward()
    once = draw.items.grad
    draw.items.grad = None
    (draw.all_items() * 3).backward()
    assert once is not None
    torch.testing.assert_close(draw.items.grad, once * 3)


def test_backward_twice_adds_the_same_again() -> None:
    draw = Draw(6, 50, 8)
    loss = draw.all_items()
    loss.backward(retain_graph=True)
    assert draw.items.grad is not None
    once = draw.items.grad.clone()
    loss.backward()
    torch.testing.assert_close(draw.items.grad, once * 2)


def test_nothing_is_kept_without_gradients(way: str) -> None:
    draw = Draw(6, 50, 8)
    with torch.no_grad():
        assert not draw.all_items().requires_grad
    torch.testing.assert_close(draw.all_items().detach(), draw.all_items().detach())


def test_no_rows(way: str) -> None:
    draw = Draw(1, 50, 8)
    none = draw.users[:0]
    empty = torch.zeros(0)
    assert all_items_loss(none, draw.items, empty, empty, draw.item_scales).item() == 0
    chosen, weights = torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3)
    assert chosen_items_loss(none, draw.items, chosen, weights, label=1).item() == 0


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        draw = Draw(50, 40, 20)
        chosen = torch.randint(40, (50, 30), generator=draw.generator)
        weights = torch.rand(50, 30, generator=draw.generator)
        loss = chosen_items_loss(draw.users, draw.items, chosen, weights, label=0)
        loss.backward()
        found.append((loss.detach(), draw.users.grad, draw.items.grad))
    torch.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_float64_is_computed_in_float64() -> None:
    draw = Draw(4, 20, 6)
    users, items = draw.doubled()
    arguments = (draw.weights.double(), draw.scales.double(), draw.item_scales.double())
    assert torch.autograd.gradcheck(
        lambda u, i: all_items_loss(u, i, *arguments), (users, items), fast_mode=True
    )


@pytest.mark.parametrize("wrong", [-1, 50])
def test_items_that_do_not_exist(wrong: int, way: str) -> None:
    draw = Draw(2, 50, 8)
    chosen = torch.tensor([[0, 1], [wrong, 2]])
    with pytest.raises(IndexError):
        chosen_items_loss(draw.users, draw.items, chosen, torch.ones(2, 2), label=0)


def test_weights_of_another_shape() -> None:
    draw, one = Draw(2, 50, 8), torch.zeros(2, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"weights \[2, 4\], but 2 rows with 3 chosen items"):
        chosen_items_loss(draw.users, draw.items, one, torch.ones(2, 4), label=0)
    with pytest.raises(ValueError, match="one for each item"):
        all_items_loss(draw.users, draw.items, draw.weights, draw.scales, torch.ones(49))
