from __future__ import annotations

import copy
import itertools
import math
import pickle

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from recsys.errors import ConfigError
from recsys.layers import attention
from recsys.layers.attention import MAX_FUSED_DIM, AttentionStack, FieldAttention

NAMES = ("residual", "project_residual", "scale", "layer_norm", "norm_first")
SWITCHES = [dict(zip(NAMES, x, strict=True)) for x in itertools.product([True, False], repeat=5)]


@torch.no_grad()
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


def stack(kernel: str = "auto", **options: object) -> AttentionStack:
    torch.manual_seed(0)
    return AttentionStack(
        FieldAttention(6, 8, 2, **options), FieldAttention(8, 8, 2, **options), kernel=kernel
    )


def test_a_stack_is_its_layers_one_after_another() -> None:
    fields = torch.randn(4, 5, 6)
    layers = stack("torch")
    torch.testing.assert_close(layers(fields), layers[1](layers[0](fields)))
    weights = layers.explain(fields)
    assert weights.shape == (4, 2, 2, 5, 5)
    torch.testing.assert_close(weights[:, 1], layers[1].explain(layers[0](fields))[1])


@pytest.mark.parametrize("kernel", ["auto", "torch"])
def test_every_kernel_gives_the_same_numbers(kernel: str) -> None:
    fields = torch.randn(4, 5, 6)
    torch.testing.assert_close(stack(kernel)(fields), stack("torch")(fields))


def test_what_the_fused_kernel_cannot_do_runs_in_torch_and_is_named() -> None:
    fields = torch.randn(4, 5, 6)

    def refused(layers: AttentionStack, given: torch.Tensor) -> str:
        layers.kernel = "auto"
        assert layers(given).shape == (4, 5, 8)
        layers.kernel = "fused"
        with pytest.raises(ConfigError, match=r"kernel is fused, but .* Use kernel=auto") as info:
            layers(given)
        return str(info.value)

    assert "float64" in refused(stack().double(), fields.double())
    assert "meta" in refused(stack().to("meta"), fields.to("meta"))
    assert "after the ReLU" in refused(stack(layer_norm=True, norm_first=False), fields)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert "autocast" in refused(stack(), fields)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        assert "tracing" in refused(stack(), mode.from_tensor(fields))


def test_wide_layers_are_left_to_torch() -> None:
    wide = AttentionStack(FieldAttention(6, MAX_FUSED_DIM + 1, 1))
    obstacle = wide.obstacle(torch.randn(4, 5, 6))
    assert obstacle is not None
    assert f"width {MAX_FUSED_DIM + 1}" in obstacle


def test_without_a_compiler_torch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = torch.randn(4, 5, 6)
    expected = stack("torch")(fields)
    monkeypatch.setattr(attention, "fused_attention_kernel", lambda: None)
    assert torch.equal(stack("auto")(fields), expected)
    with pytest.raises(ConfigError, match="could not be built"):
        stack("fused")(fields)


def test_a_stack_can_be_compiled_by_torch() -> None:
    fields = torch.randn(4, 5, 6)
    compiled = torch.compile(stack("auto"), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(fields), stack("torch")(fields))


def test_a_stack_survives_copy_and_pickle() -> None:
    fields = torch.randn(4, 5, 6)
    layers = stack()
    expected = layers(fields)
    assert torch.equal(copy.deepcopy(layers)(fields), expected)
    assert torch.equal(pickle.loads(pickle.dumps(layers))(fields), expected)


def test_an_unknown_kernel_and_no_layers_are_errors() -> None:
    with pytest.raises(ConfigError, match=r'kernel is "fuse".*Did you mean fused'):
        stack("fuse")
    with pytest.raises(ConfigError, match="num_layers is 0"):
        AttentionStack()
