"""The pairwise loss against its formula, and a batch's rows against indexing."""

from __future__ import annotations

import math

import torch

from recsys.data.triples import Triples
from recsys.layers.pairwise import BatchRows, bpr_loss, squared_norms
from recsys.layers.propagation import Both


def draw() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    users, positives = torch.randn(2, 5, 4, generator=generator, dtype=torch.float64)
    return users, positives, torch.randn(5, 3, 4, generator=generator, dtype=torch.float64)


def test_bpr_equals_its_formula() -> None:
    users, positives, negatives = draw()
    total = 0.0
    for b in range(5):
        for k in range(3):
            margin = float(users[b] @ positives[b] - users[b] @ negatives[b, k])
            total -= math.log(1 / (1 + math.exp(-margin)))
    torch.testing.assert_close(bpr_loss(users, positives, negatives).item(), total / 15)


def test_squared_norms_equal_their_formula() -> None:
    parts = draw()
    total = sum(float(x) ** 2 for part in parts for x in part.flatten())
    torch.testing.assert_close(squared_norms(*parts).item(), total / 10)


def test_large_margins_are_finite() -> None:
    huge = torch.full((1, 1), 1e4)
    assert bpr_loss(huge, huge, -huge[None]).item() == 0.0
    torch.testing.assert_close(bpr_loss(huge, -huge, huge[None]).item(), 2e8)


def test_rows_of_a_batch_equal_indexing() -> None:
    generator = torch.Generator().manual_seed(1)
    users = torch.randint(10, (20,), generator=generator)
    positives = torch.randint(12, (20,), generator=generator)
    negatives = torch.randint(12, (20, 3), generator=generator)
    rows = BatchRows.of(Triples(users, positives, negatives))
    all_users, all_items = torch.randn(10, 2), torch.randn(12, 2)
    once = Both(all_users[rows.once.users], all_items[rows.once.items])
    found = rows.of_batch(once)
    expected = all_users[users], all_items[positives], all_items[negatives]
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(rows.once.items[rows.positives_once], positives.unique())
