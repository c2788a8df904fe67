"""Losses against a float64 loop, and their additivity over blocks."""

import math

import pytest
import torch

from recsys.training.losses import binary_cross_entropy_sum, label_mass


@pytest.mark.parametrize("tasks", [0, 3])
@pytest.mark.parametrize("weighted", [False, True])
def test_equals_a_loop(tasks: int, weighted: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    shape = (20, tasks) if tasks else (20,)
    logits = torch.randn(shape, generator=generator) * 3
    labels = (torch.rand(shape, generator=generator) < 0.4).float()
    labels[torch.rand(shape, generator=generator) < 0.2] = math.nan
    weights = torch.rand(20, generator=generator) if weighted else None
    total, mass = torch.zeros(shape[1:]), torch.zeros(shape[1:])
    for index in torch.cartesian_prod(*(torch.arange(n) for n in shape)).view(-1, len(shape)):
        place = tuple(index.tolist())
        y, z = labels[place].item(), logits[place].item()
        if math.isnan(y):
            continue
        w = weights[place[0]].item() if weights is not None else 1.0
        p = 1 / (1 + math.exp(-z))
        total[place[1:]] -= w * math.log(p if y else 1 - p)
        mass[place[1:]] += w
    found = binary_cross_entropy_sum(logits, labels, weights)
    torch.testing.assert_close(found, total, rtol=1e-5, atol=0)
    torch.testing.assert_close(label_mass(labels, weights), mass, rtol=1e-5, atol=0)


def test_missing_labels_send_no_gradient() -> None:
    logits = torch.tensor([1.0, -2.0], requires_grad=True)
    binary_cross_entropy_sum(logits, torch.tensor([1.0, math.nan])).backward()
    assert logits.grad is not None
    assert logits.grad[1] == 0
    assert logits.grad[0] != 0


def test_extreme_logits_stay_finite() -> None:
    loss = binary_cross_entropy_sum(torch.tensor([200.0, -200.0]), torch.tensor([0.0, 1.0]))
    assert loss.item() == pytest.approx(400.0)


def test_blocks_add_up() -> None:
    logits, labels = torch.randn(10), (torch.arange(10) % 2).float()
    whole = binary_cross_entropy_sum(logits, labels)
    parts = sum(
        binary_cross_entropy_sum(logits[i : i + 3], labels[i : i + 3]) for i in (0, 3, 6, 9)
    )
    torch.testing.assert_close(parts, whole)
