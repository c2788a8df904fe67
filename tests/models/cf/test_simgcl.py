"""SimGCL's losses against the paper's formulas."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.data.triples import Triples
from recsys.layers.row_noise import Noise, perturbed_rows
from recsys.models.cf.simgcl import SimGCL

USERS, ITEMS = 7, 9


def make_model(eps: float = 0.1) -> SimGCL:
    torch.manual_seed(0)
    has = np.random.default_rng(0).random((USERS, ITEMS)) < 0.4
    pairs = Pairs.of(*has.nonzero(), USERS, ITEMS)
    return SimGCL(pairs, embed_dim=5, l2=0.01, contrast=0.5, temperature=0.2, eps=eps)


def slow_mean(model: SimGCL, noise: Noise | None) -> tuple[Tensor, Tensor]:
    """Eq. 8: layers 1 to 3, noise in each."""
    graph = model.graph
    r = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    rows = torch.arange(USERS).repeat_interleave(graph.user_offsets.diff())
    r[rows, graph.user_items.long()] = 1.0
    r = r / (r.sum(1, keepdim=True) * r.sum(0, keepdim=True)).clamp(min=1).sqrt()
    u, i = model.users.detach().double(), model.items.detach().double()
    layers = []
    for layer in (1, 2, 3):
        u, i = r @ i, r.T @ u
        if noise is not None:
            u = perturbed_rows(u, noise.eps, noise.key(layer, 0))
            i = perturbed_rows(i, noise.eps, noise.key(layer, 1))
        layers.append((u, i))
    return torch.stack([x for x, _ in layers]).mean(0), torch.stack([y for _, y in layers]).mean(0)


def slow_contrast(x: Tensor, y: Tensor, temperature: float) -> float:
    """Eq. 2 over the given rows."""
    x, y = x / x.norm(dim=1, keepdim=True), y / y.norm(dim=1, keepdim=True)
    total = 0.0
    for a in range(len(x)):
        shares = [math.exp(float(x[a] @ y[b]) / temperature) for b in range(len(y))]
        total -= math.log(shares[a] / sum(shares)) / len(x)
    return total


BATCH = Triples(torch.tensor([0, 5, 0]), torch.tensor([2, 8, 2]), torch.tensor([[4], [0], [0]]))


def test_losses_equal_the_formulas() -> None:
    model = make_model()
    torch.manual_seed(3)
    losses = model.losses(BATCH)
    torch.manual_seed(3)
    views = [slow_mean(model, Noise.draw(0.1)) for _ in range(2)]
    users, items = slow_mean(model, None)
    bpr = 0.0
    for u, i, (j,) in zip(*(t.tolist() for t in vars(BATCH).values()), strict=True):
        bpr -= math.log(1 / (1 + math.exp(-float(users[u] @ items[i] - users[u] @ items[j])))) / 3
    unique_users, unique_items = [0, 5], [2, 8]
    contrast = slow_contrast(views[0][0][unique_users], views[1][0][unique_users], 0.2)
    contrast += slow_contrast(views[0][1][unique_items], views[1][1][unique_items], 0.2)
    assert list(losses) == ["bpr", "l2", "contrast"]
    torch.testing.assert_close(losses["bpr"].item(), bpr, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(losses["contrast"].item(), 0.5 * contrast, atol=1e-5, rtol=1e-5)


def test_scoring_has_no_noise() -> None:
    model = make_model(eps=10.0)
    users, items = slow_mean(model, None)
    torch.testing.assert_close(model()[0].double(), users, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(model()[1].double(), items, atol=1e-6, rtol=1e-5)


def test_noise_comes_from_torchs_generator() -> None:
    model, found = make_model(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(model.losses(BATCH)["contrast"].item())
    assert found[0] == found[1] != found[2]
