"""BPR-MF's loss against its formula."""

from __future__ import annotations

import math

import numpy as np
import torch

from recsys.data.pairs import Pairs
from recsys.data.triples import Triples
from recsys.models.cf.bprmf import BPRMF


def make_model() -> BPRMF:
    torch.manual_seed(0)
    pairs = Pairs.of(np.array([0, 1, 3]), np.array([0, 1, 2]), num_users=4, num_items=5)
    return BPRMF(pairs, embed_dim=3, l2=0.1, init_std=1.0)


def test_losses_equal_the_formula_and_move_the_rows_of_the_batch_alone() -> None:
    model = make_model()
    batch = Triples(torch.tensor([0, 3, 0]), torch.tensor([0, 2, 0]), torch.tensor([[1], [0], [1]]))
    bpr = l2 = 0.0
    for u, i, (j,) in zip(*(t.tolist() for t in vars(batch).values()), strict=True):
        x, y, z = (
            part.detach().double() for part in (model.users[u], model.items[i], model.items[j])
        )
        bpr -= math.log(1 / (1 + math.exp(-float(x @ y - x @ z)))) / 3
        l2 += float(x @ x + y @ y + z @ z) / (2 * 3)
    losses = model.losses(batch)
    torch.testing.assert_close(losses["bpr"].item(), bpr)
    torch.testing.assert_close(losses["l2"].item(), 0.1 * l2)
    torch.stack(list(losses.values())).sum().backward()
    assert model.users.grad is not None
    assert model.items.grad is not None
    assert model.users.grad.any(1).tolist() == [True, False, False, True]
    assert model.items.grad.any(1).tolist() == [True, True, True, False, False]


def test_scores_are_dot_products() -> None:
    model = make_model()
    expected = model.users[[3, 1]] @ model.items.T
    assert torch.equal(model.scores(torch.tensor([3, 1])), expected)
