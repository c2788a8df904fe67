"""The sampled softmax against its formula, and against the softmax it stands for."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from recsys.layers import sampled_softmax as module
from recsys.layers.sampled_softmax import log_inclusion, sampled_softmax

Hidden = tuple[Tensor, Tensor] | None


def slow_loss(
    users: Tensor, items: Tensor, positives: Tensor, probability: Tensor | None, hidden: Hidden
) -> Tensor:
    """Row by row, item by item."""
    left_out = set() if hidden is None else set(zip(*(t.tolist() for t in hidden), strict=True))
    total = users.new_zeros(())
    for row, own in enumerate(positives.tolist()):
        positive = (users[row] @ items[own]).exp()
        others = users.new_zeros(())
        for column in range(len(items)):
            if column == own or (row, column) in left_out:
                continue
            weight = 1.0 if probability is None else 1 / float(probability[column])
            others = others + weight * (users[row] @ items[column]).exp()
        total = total - (positive / (positive + others)).log()
    return total / len(users)


def draw(rows: int, columns: int, width: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    users = torch.randn(rows, width, generator=generator, dtype=torch.float64).requires_grad_()
    items = torch.randn(columns, width, generator=generator, dtype=torch.float64).requires_grad_()
    positives = torch.randint(columns, (rows,), generator=generator)
    probability = 0.05 + 0.9 * torch.rand(columns, generator=generator, dtype=torch.float64)
    return users, items, positives, probability


@pytest.mark.parametrize("corrected", [True, False])
@pytest.mark.parametrize("hides", [True, False])
@pytest.mark.parametrize("block", [1, 17, 1 << 20])
def test_loss_and_gradients_equal_the_formula(
    block: int, hides: bool, corrected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BLOCK_LOGITS", block)
    users, items, positives, probability = draw(7, 6)
    # Row 2 hides nothing, row 3 also its own item, row 5 everything.
    pairs = [(0, 1), (1, 0), (1, 5), (3, int(positives[3])), (3, 2), *((5, k) for k in range(6))]
    rows, columns = (torch.tensor(one) for one in zip(*pairs, strict=True))
    hidden = (rows, columns) if hides else None
    given = probability if corrected else None
    found = sampled_softmax(users, items, positives, given.log() if corrected else None, hidden)
    expected = slow_loss(users, items, positives, given, hidden)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, (users, items))
    torch.testing.assert_close(
        torch.autograd.grad(3.0 * found, (users, items)), tuple(3 * one for one in wanted)
    )


def test_gradients() -> None:
    users, items, positives, probability = draw(4, 3)
    assert torch.autograd.gradcheck(
        lambda u, v: sampled_softmax(u, v, positives, probability.log()), (users, items)
    )


def test_one_row_with_its_item_alone_has_nothing_to_learn() -> None:
    users, items, _, _ = draw(1, 1)
    never = log_inclusion(torch.tensor([0.3], dtype=torch.float64), 0, 0, 10)
    assert never.item() == -math.inf
    loss = sampled_softmax(users, items, torch.tensor([0]), never)
    assert loss.item() == 0
    assert all(not g.any() for g in torch.autograd.grad(loss, (users, items)))


def test_large_scores_do_not_overflow() -> None:
    users = torch.eye(3).requires_grad_()
    loss = sampled_softmax(users * 1e3, -torch.eye(3), torch.arange(3))
    torch.testing.assert_close(loss, torch.tensor(1000 + math.log(2)))
    loss.backward()
    assert users.grad is not None
    assert users.grad.isfinite().all()


@pytest.mark.parametrize(("draws", "uniform"), [(0, 1), (1, 0), (2, 1), (3, 2)])
def test_the_probability_of_being_there_is_counted(draws: int, uniform: int) -> None:
    """Every outcome of a few draws from four items, enumerated."""
    shares = [0.5, 0.3, 0.2, 0.0]
    there = [0.0] * 4
    for outcome in itertools.product(range(4), repeat=draws + uniform):
        chance = math.prod([*(shares[k] for k in outcome[:draws]), *(uniform * [0.25])])
        for item in set(outcome):
            there[item] += chance
    found = log_inclusion(torch.tensor(shares, dtype=torch.float64), draws, uniform, 4)
    torch.testing.assert_close(found.exp(), torch.tensor(there, dtype=torch.float64))


@pytest.mark.parametrize("size", [1, 5])
def test_an_item_that_is_always_there_needs_no_correction(size: int) -> None:
    always = torch.tensor([1.0], dtype=torch.float64)
    assert log_inclusion(always, 3, 0, size).item() == 0
    assert log_inclusion(always, 0, 4, 1).item() == 0


def distance(rows: int, uniform: int, corrected: bool, batches: int = 150) -> float:
    """How far the mean gradient of sampled batches is from that of the full softmax, relatively.

    A user who has item 1 of a catalogue whose popularity falls like 1 / rank; the popular items
    differ from the others in a coordinate that does not matter to its scores.
    """
    num_items, width = 3000, 4
    generator = torch.Generator().manual_seed(0)
    shares = 1 / torch.arange(1, num_items + 1, dtype=torch.float64)
    shares /= shares.sum()
    user = torch.tensor([[0.0, 1.0, -1.0, 0.5]], dtype=torch.float64, requires_grad=True)
    catalogue = torch.randn(num_items, width, generator=generator, dtype=torch.float64)
    catalogue[:100, 0] += 3
    catalogue[100:, 0] -= 3
    own = torch.tensor([1])
    (full,) = torch.autograd.grad(sampled_softmax(user, catalogue, own), user)
    total = torch.zeros_like(full)
    for _ in range(batches):
        others = torch.multinomial(shares, rows - 1, replacement=True, generator=generator)
        more = torch.randint(num_items, (uniform,), generator=generator)
        items, at = torch.cat([own, others, more]).unique(return_inverse=True)
        there = log_inclusion(shares[items], rows - 1, uniform, num_items) if corrected else None
        loss = sampled_softmax(user, catalogue[items], at[:1], there)
        total += torch.autograd.grad(loss, user)[0]
    return float((total / batches - full).norm() / full.norm())


@pytest.mark.parametrize("uniform", [0, 32])
def test_the_correction_leads_to_the_full_softmax(uniform: int) -> None:
    few, many = distance(8, uniform, corrected=True), distance(512, uniform, corrected=True)
    assert many < 0.02
    assert many < few / 2
    assert distance(512, uniform, corrected=False) > 0.2
