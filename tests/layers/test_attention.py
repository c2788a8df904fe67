from __future__ import annotations

import itertools
import math

import pytest
import torch

from recsys.errors import ConfigError
from recsys.layers.attention import FieldAttention

NAMES = ("residual", "project_residual", "scale", "layer_norm", "norm_first")
SWITCHES = [dict(zip(NAMES, x, strict=True)) for x in itertools.product([True, False], repeat=5)]


def reference(layer: FieldAttention, fields: torch.Tensor) -> torch.Tensor:
    """Slot by slot, head by head."""
    query, key, value, *projection = layer.weight
    num_heads = layer.num_heads
    width = query.shape[0] // num_heads
    rows = []
    for row in fields:
        slots = []
        for m in range(len(row)):
            heads = []
            for head in range(num_heads):
                part = slice(head * width, (head + 1) * width)
                scores = [
                    float((query[part] @ row[m]) @ (key[part] @ row[n])) * layer.scale
                    for n in range(len(row))
                ]
                weights = [math.exp(s) for s in scores]
                heads.append(
                    sum(w / sum(weights) * (value[part] @ row[n]) for n, w in enumerate(weights))
                )
            out = torch.cat(heads)
            if layer.residual:
                out = out + (projection[0] @ row[m] if projection else row[m])
            steps = [lambda x: x, torch.relu] if layer.norm is None else [layer.norm, torch.relu]
            for step in steps if layer.norm_first else reversed(steps):
                out = step(out)
            slots.append(out)
        rows.append(torch.stack(slots))
    return torch.stack(rows)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize(("in_dim", "out_dim", "num_heads"), [(6, 6, 2), (4, 6, 3)])
def test_equals_the_loops(switches: dict, in_dim: int, out_dim: int, num_heads: int) -> None:
    torch.manual_seed(in_dim)
    layer = FieldAttention(in_dim, out_dim, num_heads, **switches).double()
    if layer.norm is not None:
        torch.nn.init.normal_(layer.norm.weight)
        torch.nn.init.normal_(layer.norm.bias)
    fields = torch.randn(2, 3, in_dim, dtype=torch.float64)
    torch.testing.assert_close(layer(fields), reference(layer, fields))


@pytest.mark.parametrize(
    ("in_dim", "residual", "project_residual", "matrices"),
    [(4, True, False, 4), (6, True, False, 3), (6, True, True, 4), (6, False, True, 3)],
)
def test_the_residual_is_projected_only_where_needed(
    in_dim: int, residual: bool, project_residual: bool, matrices: int
) -> None:
    layer = FieldAttention(in_dim, 6, 2, residual=residual, project_residual=project_residual)
    assert layer.weight.shape == (matrices, 6, in_dim)


def test_attention_weights_sum_to_one_and_explain_the_output() -> None:
    layer = FieldAttention(6, 6, 2, residual=False)
    fields = torch.randn(3, 5, 6)
    out, weights = layer.explain(fields)
    assert weights.shape == (3, 2, 5, 5)
    torch.testing.assert_close(weights.sum(dim=3), torch.ones(3, 2, 5))
    torch.testing.assert_close(out, layer(fields))
    value = (fields @ layer.weight[2].T).unflatten(2, (2, 3)).transpose(1, 2)
    torch.testing.assert_close(out, torch.relu((weights @ value).transpose(1, 2).flatten(2)))


def test_slots_are_treated_alike() -> None:
    """Attention has no positions: permuting the slots permutes the output."""
    layer = FieldAttention(6, 8, 2, layer_norm=True)
    fields, order = torch.randn(3, 5, 6), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(layer(fields[:, order]), layer(fields)[:, order])


def test_large_scores_do_not_overflow() -> None:
    layer = FieldAttention(6, 6, 2, scale=False)
    fields = (torch.randn(3, 5, 6) * 1000).requires_grad_()
    layer(fields).sum().backward()
    assert torch.isfinite(fields.grad).all()
    assert torch.isfinite(layer.weight.grad).all()


def test_dropout_acts_in_training_alone_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = FieldAttention(4, 4, 1, dropout=0.5, residual=False)
    layer.weight.data[2] = layer.weight.data[2].abs()
    fields = torch.rand(1, 3, 4).expand(20_000, 3, 4)
    mean = layer(fields).mean(dim=0)
    layer.eval()
    torch.testing.assert_close(mean, layer(fields)[0], rtol=0.02, atol=0.02)
    assert torch.equal(layer(fields), layer(fields))


def test_each_matrix_starts_xavier_normal() -> None:
    torch.manual_seed(0)
    layer = FieldAttention(200, 400, 2)
    for matrix in layer.weight:
        assert matrix.std().item() == pytest.approx(math.sqrt(2 / 600), rel=0.02)


@pytest.mark.parametrize(("out_dim", "num_heads"), [(6, 4), (6, 0), (0, 1)])
def test_heads_must_divide_the_width(out_dim: int, num_heads: int) -> None:
    with pytest.raises(
        ConfigError, match=f"num_heads is {num_heads} and attention_dim is {out_dim}"
    ):
        FieldAttention(4, out_dim, num_heads)
