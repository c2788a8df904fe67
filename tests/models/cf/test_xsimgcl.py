"""XSimGCL's losses against the paper's formulas."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as nnf

from recsys.data.pairs import Pairs
from recsys.data.triples import Triples
from recsys.errors import ConfigError
from recsys.layers.row_noise import Noise, perturbed_rows
from recsys.models.cf.xsimgcl import XSimGCL

USERS, ITEMS = 7, 9
BATCH = Triples(torch.tensor([0, 5, 0]), torch.tensor([2, 8, 2]), torch.tensor([[4], [0], [0]]))


def make_pairs() -> Pairs:
    has = np.random.default_rng(0).random((USERS, ITEMS)) < 0.4
    return Pairs.of(*has.nonzero(), USERS, ITEMS)


@pytest.mark.parametrize("layer", [1, 3])
def test_losses_and_gradients_equal_the_formulas(layer: int) -> None:
    torch.manual_seed(0)
    pairs = make_pairs()
    model = XSimGCL(pairs, embed_dim=5, l2=0.01, contrast_layer=layer)
    torch.manual_seed(3)
    losses = model.losses(BATCH)
    torch.stack(list(losses.values())).sum().backward()

    torch.manual_seed(3)
    noise = Noise.draw(0.2)
    r = torch.zeros(USERS, ITEMS, dtype=torch.float64)
    r[torch.from_numpy(pairs.users).long(), torch.from_numpy(pairs.items).long()] = 1.0
    r = r / (r.sum(1, keepdim=True) * r.sum(0, keepdim=True)).clamp(min=1).sqrt()
    u0, i0 = (p.detach().double().requires_grad_() for p in (model.users, model.items))
    u, i, layers = u0, i0, []
    for k in (1, 2, 3):
        u, i = r @ i, r.T @ u
        u = u + perturbed_rows(u.detach(), 0.2, noise.key(k, 0)) - u.detach()
        i = i + perturbed_rows(i.detach(), 0.2, noise.key(k, 1)) - i.detach()
        layers.append((u, i))
    users = torch.stack([x for x, _ in layers]).mean(0)
    items = torch.stack([y for _, y in layers]).mean(0)
    x, y, z = users[BATCH.users], items[BATCH.positives], items[BATCH.negatives[:, 0]]
    bpr = -((x * y).sum(1) - (x * z).sum(1)).sigmoid().log().mean()
    egos = (u0[BATCH.users], i0[BATCH.positives], i0[BATCH.negatives[:, 0]])
    l2 = 0.01 * sum(ego.square().sum() for ego in egos) / (2 * 3)
    contrast = torch.zeros((), dtype=torch.float64)
    near = layers[layer - 1]
    for mean, one, rows in ((users, near[0], [0, 5]), (items, near[1], [2, 8])):
        a, b = nnf.normalize(mean[rows], dim=1), nnf.normalize(one[rows], dim=1)
        shares = (a @ b.T / 0.15).exp()
        contrast = contrast - (shares.diag() / shares.sum(1)).log().mean()
    expected = {"bpr": bpr, "l2": l2, "contrast": 0.2 * contrast}
    assert list(losses) == list(expected)
    for name, loss in expected.items():
        torch.testing.assert_close(losses[name].double(), loss, atol=1e-5, rtol=1e-5)
    torch.stack(list(expected.values())).sum().backward()
    for parameter, twin in ((model.users, u0), (model.items, i0)):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.double(), twin.grad, atol=1e-5, rtol=1e-4)


def test_a_layer_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"contrast_layer=4 with cf.num_layers=3"):
        XSimGCL(make_pairs(), contrast_layer=4)
