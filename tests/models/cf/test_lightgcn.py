"""LightGCN's loss against the paper's formula, and a planted graph."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.data.triple_sampler import TripleSampler
from recsys.data.triples import Triples
from recsys.models.cf.lightgcn import LightGCN


def make_pairs() -> Pairs:
    has = np.random.default_rng(0).random((7, 9)) < 0.4
    has[3] = has[:, 4] = False
    return Pairs.of(*has.nonzero(), 7, 9)


def slow_vectors(pairs: Pairs, users: Tensor, items: Tensor, num_layers: int) -> tuple[Tensor, ...]:
    """Eq. 3-4, user by user and item by item, in float64."""
    u, i = users.detach().double(), items.detach().double()
    degrees, total_u, total_i = (pairs.user_degrees, pairs.item_degrees), u.clone(), i.clone()
    for _ in range(num_layers):
        next_u, next_i = torch.zeros_like(u), torch.zeros_like(i)
        for a, b in zip(pairs.users.tolist(), pairs.items.tolist(), strict=True):
            weight = 1 / math.sqrt(degrees[0][a] * degrees[1][b])
            next_u[a] += weight * i[b]
            next_i[b] += weight * u[a]
        u, i = next_u, next_i
        total_u, total_i = total_u + u, total_i + i
    return total_u / (num_layers + 1), total_i / (num_layers + 1)


def test_vectors_and_losses_equal_the_formula() -> None:
    torch.manual_seed(0)
    pairs = make_pairs()
    model = LightGCN(pairs, embed_dim=5, num_layers=3, l2=0.01, init_std=1.0)
    users, items = slow_vectors(pairs, model.users, model.items, 3)
    found = model()
    torch.testing.assert_close(found[0].double(), users, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found[1].double(), items, atol=1e-6, rtol=1e-5)
    expected = (users @ items.T)[[2, 0]].float()
    torch.testing.assert_close(model.scores(torch.tensor([2, 0])), expected)

    batch = Triples(torch.tensor([0, 1, 0]), torch.tensor([2, 8, 2]), torch.tensor([[4], [0], [0]]))
    bpr = l2 = 0.0
    for u, i, (j,) in zip(*(t.tolist() for t in vars(batch).values()), strict=True):
        bpr -= math.log(1 / (1 + math.exp(-float(users[u] @ items[i] - users[u] @ items[j])))) / 3
        ego = (model.users[u], model.items[i], model.items[j])
        l2 += sum(float(part.detach().double().square().sum()) for part in ego) / (2 * 3)
    losses = model.losses(batch)
    assert list(losses) == ["bpr", "l2"]
    torch.testing.assert_close(losses["bpr"].item(), bpr, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses["l2"].item(), 0.01 * l2, atol=1e-5, rtol=1e-5)


def test_gradients_equal_those_through_all_vectors() -> None:
    """The shortcut over the batch's rows changes nothing."""
    torch.manual_seed(0)
    pairs = make_pairs()
    model = LightGCN(pairs, embed_dim=5, l2=0.0, init_std=1.0)
    batch = next(iter(TripleSampler(pairs, model.sampling, 16)))
    model.losses(batch)["bpr"].backward()
    fast = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    users, items = model()
    u, i, j = users[batch.users], items[batch.positives], items[batch.negatives[:, 0]]
    torch.nn.functional.softplus((u * j).sum(1) - (u * i).sum(1)).mean().backward()
    slow = [p.grad for p in model.parameters() if p.grad is not None]
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_state_is_the_whole_model() -> None:
    pairs = make_pairs()
    model, other = LightGCN(pairs, embed_dim=3), LightGCN(pairs, embed_dim=3)
    other.load_state_dict(model.state_dict())
    users = torch.arange(7)
    assert torch.equal(model.scores(users), other.scores(users))
