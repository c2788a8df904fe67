"""The activation unit against Eq. 3 written as loops, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from recsys.embedding.embedded import History
from recsys.errors import ConfigError
from recsys.layers import target_attention as module
from recsys.layers.target_attention import (
    PairLinear,
    TargetAttention,
    check_pooling,
    pool,
    target_attention_kernel,
)

LENGTHS = [[3, 0, 1, 4], [0, 0, 0], [4, 4], [0, 1]]
SIZES = [(1, 1), (4, 3), (17, 37), (16, 80), (40, 16)]


def draw(
    lengths: list[int], dim: int, dtype: torch.dtype = torch.float64
) -> tuple[History, Tensor]:
    generator = torch.Generator().manual_seed(7)
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    values = torch.randn(sum(lengths), dim, generator=generator, dtype=torch.float64)
    target = torch.randn(len(lengths), dim, generator=generator, dtype=torch.float64)
    return History(values.to(dtype), offsets, max(1, *lengths)), target.to(dtype)


def unit(dim: int, dtype: torch.dtype = torch.float64, **options: object) -> TargetAttention:
    torch.manual_seed(1)
    made = TargetAttention(dim, options.pop("hidden_dims", [6, 3]), **options)  # type: ignore[arg-type]
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.to(dtype)


def score(made: TargetAttention, event: Tensor, target: Tensor) -> Tensor:
    """a(e_j, v_A) of one event, layer by layer; without Dice, whose rows depend on each other."""
    x = torch.cat([target, event, target - event, target * event])
    x = made.first.weight @ x + made.first.bias
    for layer in made.rest:
        x = layer(x.unsqueeze(0)).squeeze(0)
    return x[0]


def by_loop(made: TargetAttention, history: History, target: Tensor) -> Tensor:
    rows = []
    for row in range(len(history)):
        start, stop = int(history.offsets[row]), int(history.offsets[row + 1])
        scores = [score(made, history.values[j], target[row]) for j in range(start, stop)]
        if made.softmax:
            total = sum((s.exp() for s in scores), torch.zeros(()))
            scores = [s.exp() / total for s in scores]
        interest = 0 * target[row]
        for weight, j in zip(scores, range(start, stop), strict=True):
            interest = interest + weight * history.values[j]
        rows.append(interest)
    return torch.stack(rows)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("softmax", [True, False])
@pytest.mark.parametrize("activation", ["relu", "prelu", "sigmoid"])
def test_unit_and_its_gradients_equal_a_loop(
    lengths: list[int], softmax: bool, activation: str
) -> None:
    made = unit(5, softmax=softmax, activation=activation)
    history, target = draw(lengths, 5)
    found = []
    for function in (made, lambda *both: by_loop(made, *both)):
        made.zero_grad(set_to_none=True)
        values = history.values.clone().requires_grad_()
        wanted = target.clone().requires_grad_()
        out = function(History(values, history.offsets, history.longest), wanted)
        (out * torch.linspace(-1, 2, 5)).sum().backward()
        grads = [values.grad, wanted.grad, *(p.grad for p in made.parameters())]
        zeros = [torch.zeros_like(p) for p in (values, wanted, *made.parameters())]
        found.append([out, *(z if g is None else g for g, z in zip(grads, zeros, strict=True))])
    for ours, loop in zip(*found, strict=True):
        torch.testing.assert_close(ours, loop, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_dice_sees_the_events_of_all_rows_and_nothing_else(lengths: list[int]) -> None:
    made = unit(5, activation="dice", hidden_dims=[6])
    history, target = draw(lengths, 5)
    rows = history.row_of_event()
    q, k = target[rows], history.values
    x = torch.cat([q, k, q - k, q * k], dim=1) @ made.first.weight.T + made.first.bias
    if len(x):
        z = (x - x.mean(0)) / (x.var(0, correction=0) + 1e-8).sqrt()
        p, alpha = torch.sigmoid(z), made.rest[0].alpha
        x = p * x + (1 - p) * alpha * x
    weights = (x @ made.rest[-1].weight.T + made.rest[-1].bias).squeeze(1)
    torch.testing.assert_close(made.weights(history, target), weights)


@pytest.mark.parametrize("lengths", [*LENGTHS, [100, 0, 7], [1] * 70, [5, 2] * 40], ids=str)
@pytest.mark.parametrize(("dim", "units"), SIZES)
def test_kernel_equals_the_concatenation_in_float64(
    lengths: list[int], dim: int, units: int
) -> None:
    if target_attention_kernel() is None:
        pytest.skip("no C++ compiler: the kernel cannot be built")
    torch.manual_seed(0)
    layer = PairLinear(dim, units)
    history, target = draw(lengths, dim, torch.float32)
    weight = torch.randn(sum(lengths), units)
    keys, queries = history.values.requires_grad_(), target.requires_grad_()
    out = layer(keys, history.offsets, queries)
    out.backward(weight)
    exact = nn.Linear(4 * dim, units).double()
    exact.load_state_dict(layer.state_dict())
    k, q = (one.detach().double().requires_grad_() for one in (keys, queries))
    of_row = q[history.row_of_event()]
    expected = exact(torch.cat([of_row, k, of_row - k, of_row * k], dim=1))
    expected.backward(weight.double())
    pairs = [(out, expected), (keys.grad, k.grad), (queries.grad, q.grad)]
    pairs += [(layer.weight.grad, exact.weight.grad), (layer.bias.grad, exact.bias.grad)]
    for found, wanted in pairs:
        scale = float(wanted.abs().max()) if wanted.numel() else 1.0
        torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-6 * max(scale, 1e-3))


def test_torch_and_kernel_agree_without_a_gradient_of_the_events(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for raw in (module.raw_float32, lambda *_: False):
        monkeypatch.setattr(module, "raw_float32", raw)
        torch.manual_seed(0)
        layer = PairLinear(8, 12)
        history, target = draw([3, 0, 9], 8, torch.float32)
        layer(history.values, history.offsets, target).square().sum().backward()
        found.append(torch.cat([layer.weight.grad.flatten(), layer.bias.grad]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_nothing_of_the_concatenations_size_is_kept() -> None:
    """What the first layer holds on to for the backward pass is its inputs and its weights."""
    dim, units, events = 16, 8, 1000
    layer = PairLinear(dim, units)
    history, target = draw([500, 500], dim, torch.float32)
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        layer(history.values.requires_grad_(), history.offsets, target.requires_grad_())
    assert sum(kept.values()) < 4 * (events * dim * 1.5)  # the events themselves, once


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    history, target = draw([5, 0, 12] * 40, 16, torch.float32)
    weights = [torch.randn(120, 24), *torch.randn(2, 24, 16)]
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        inputs = [history.values, target, *weights]
        inputs = [one.clone().requires_grad_() for one in inputs]
        out = module._Pair.apply(inputs[0], history.offsets, *inputs[1:])
        out.square().sum().backward()
        found.append(torch.cat([one.grad.flatten() for one in inputs]))
    torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_softmax_has_no_bias_that_could_not_learn() -> None:
    assert unit(4, softmax=True).rest[-1].bias is None
    assert unit(4).rest[-1].bias is not None


@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_pooling_equals_a_loop(pooling: str) -> None:
    history, _ = draw([3, 0, 1], 5)
    out = pool(history, pooling)
    for row, length in enumerate([3, 0, 1]):
        start = int(history.offsets[row])
        total = torch.zeros(5, dtype=torch.float64)
        for j in range(start, start + length):
            total += history.values[j]
        torch.testing.assert_close(out[row], total / (length or 1 if pooling == "mean" else 1))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: check_pooling("average"), "pooling"),
        (lambda: TargetAttention(4, []), "hidden_dims"),
        (lambda: TargetAttention(4, [3], activation="dic"), "Did you mean dice"),
        (lambda: TargetAttention(4, [3], dropout=1.0), "attention_dropout is 1"),
    ],
)
def test_options_out_of_range_are_named(make: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()  # type: ignore[operator]


def test_dropout_is_active_in_training_only() -> None:
    made = unit(4, dropout=0.5, activation="relu", hidden_dims=[64])
    history, target = draw([3, 2], 4)
    torch.manual_seed(0)
    assert not torch.equal(made(history, target), made(history, target))
    made.eval()
    assert torch.equal(made(history, target), made(history, target))
    assert math.isfinite(float(made(history, target).sum()))
