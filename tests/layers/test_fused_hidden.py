"""The fused kernels against torch's own modules and against float64."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.layers import cross, mlp
from recsys.layers import fused_hidden as module
from recsys.layers.cross import CrossNetwork
from recsys.layers.fused_hidden import FusedHidden, fused_hidden, fused_hidden_kernel
from recsys.layers.mlp import HiddenLayers

pytestmark = pytest.mark.skipif(
    fused_hidden_kernel() is None, reason="no C++ compiler: the kernel cannot be built"
)

DIMS = [[1], [7, 1], [400, 33], [16, 64, 5]]


def build(dims: list[int], in_dim: int = 10, seed: int = 0, **options: object) -> HiddenLayers:
    torch.manual_seed(seed)
    hidden = HiddenLayers(in_dim, dims, kernel="fused", **options)
    for name, parameter in hidden.named_parameters():
        if not name.endswith("weight") or parameter.dim() == 1:  # biases, gains and shifts
            nn.init.normal_(parameter)
    return hidden


def by_torch(layers: nn.Module, dtype: torch.dtype = torch.float32) -> nn.Module:
    twin = copy.deepcopy(layers).to(dtype)
    twin.kernel = "torch"
    return twin


def run(layers: nn.Module, x: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """The output, the buffers after it, and every gradient of its sum weighted by `weight`."""
    dtype = next(layers.parameters()).dtype
    layers.zero_grad()
    x = x.detach().clone().to(dtype).requires_grad_()
    out = layers(x)
    out.backward(weight.to(dtype))
    assert x.grad is not None
    gradients = {
        f"d {name}": parameter.grad.clone() for name, parameter in layers.named_parameters()
    }
    buffers = {name: buffer.clone() for name, buffer in layers.named_buffers()}
    return {"out": out.detach(), "dx": x.grad, **gradients, **buffers}


def assert_same(found: dict[str, Tensor], exact: dict[str, Tensor], scale: float) -> None:
    """Equal to 1e-5 of each tensor's largest number, or of `scale` where that is zero."""
    assert found.keys() == exact.keys()
    for name, value in found.items():
        error = (value.double() - exact[name].double()).abs().max()
        largest = exact[name].abs().max().double()
        assert error <= 1e-5 * max(largest, scale if largest < 1e-8 else 0.0), name


@pytest.mark.parametrize("batch", [2, 3, 37, 128, 129, 700])
@pytest.mark.parametrize(
    ("dims", "batch_norm"), list(itertools.product(DIMS, [True, False])), ids=str
)
def test_forward_and_backward_equal_the_modules_in_float64(
    dims: list[int], batch_norm: bool, batch: int
) -> None:
    hidden = build(dims, batch_norm=batch_norm)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 10, generator=generator)
    if batch_norm and batch < 4:  # two rows normalise to signs: rounding is all that is left
        for layer in hidden:
            if isinstance(layer, nn.BatchNorm1d):
                layer.eps = 1.0
    weight = torch.randn(batch, dims[-1], generator=generator)
    exact = run(by_torch(hidden, torch.float64), x, weight)
    assert_same(run(hidden, x, weight), exact, scale=batch)


@pytest.mark.parametrize("batch", [4, 129, 700])
@pytest.mark.parametrize("factorize", ["concat", "sum"])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_factorised_layers_equal_the_modules_in_float64(
    factorize: str, batch_norm: bool, batch: int
) -> None:
    hidden = build([40, 6, 18], batch_norm=batch_norm, factorize=factorize)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batch, 10, generator=generator)
    weight = torch.randn(batch, 18, generator=generator)
    double = by_torch(hidden, torch.float64)
    exact = run(double, x, weight)
    assert_same(run(hidden, x, weight), exact, scale=batch)
    hidden.eval()
    double.eval()
    with torch.no_grad():
        torch.testing.assert_close(hidden(x), double(x.double()).float(), rtol=1e-4, atol=1e-4)


def test_parameters_follow_the_modules_over_many_steps() -> None:
    hidden = build([24, 8], batch_norm=True)
    twin = by_torch(hidden)
    for layers in (hidden, twin):
        optimizer = torch.optim.SGD(layers.parameters(), lr=0.05)
        generator = torch.Generator().manual_seed(2)
        for _ in range(20):
            x = torch.randn(50, 10, generator=generator)
            optimizer.zero_grad()
            (layers(x).sum(dim=1) - x.sum(dim=1)).square().mean().backward()
            optimizer.step()
    for name, value in hidden.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name], rtol=1e-4, atol=1e-5)


def test_a_large_mean_spoils_no_more_than_in_the_modules() -> None:
    hidden = build([5], in_dim=5, batch_norm=True)
    nn.init.eye_(hidden[0].weight)
    x = torch.randn(500, 5) + 1000.0
    weight = torch.randn(500, 5)
    exact = run(by_torch(hidden, torch.float64), x, weight)
    found, modules = run(copy.deepcopy(hidden), x, weight), run(by_torch(hidden), x, weight)
    torch.testing.assert_close(found["1.running_mean"].double(), exact["1.running_mean"])
    torch.testing.assert_close(found["1.running_var"].double(), exact["1.running_var"])
    for name in ("out", "d 1.weight", "d 1.bias"):
        allowed = (modules[name] - exact[name]).abs().max()
        assert (found[name] - exact[name]).abs().max() <= 2 * allowed + 1e-5, name


def test_gradients_equal_finite_differences_under_dropout() -> None:
    """The mask of backward is the mask of forward: the same seed, a parameter moved by epsilon."""
    hidden = build([16, 8], batch_norm=True, dropout=0.4)
    x, weight = torch.randn(40, 10), torch.randn(40, 8)

    def loss(layers: HiddenLayers) -> Tensor:
        torch.manual_seed(3)
        return (layers(x) * weight).double().sum()

    loss(hidden).backward()
    for parameter in (hidden[0].weight, hidden[1].weight, hidden[5].bias):
        direction = torch.randn_like(parameter)
        expected = (parameter.grad * direction).sum().item()
        values = []
        for sign in (1, -1):
            moved = copy.deepcopy(hidden)
            twin = dict(zip(map(id, hidden.parameters()), moved.parameters(), strict=True))
            with torch.no_grad():
                twin[id(parameter)].add_(direction, alpha=sign * 1e-3)
                values.append(loss(moved).item())
        assert (values[0] - values[1]) / 2e-3 == pytest.approx(expected, rel=0.03, abs=0.05)


@pytest.mark.parametrize("dropout", [0.1, 0.4, 0.9])
def test_dropout_keeps_its_share_and_scales(dropout: float) -> None:
    hidden = build([203], dropout=dropout)
    with torch.no_grad():
        hidden[0].weight.zero_()
        hidden[0].bias.fill_(2.0)
    out = hidden(torch.randn(1000, 10)).detach()
    kept = out != 0
    assert torch.allclose(out[kept], torch.tensor(2.0 / (1 - dropout)))
    deviation = (dropout * (1 - dropout)) ** 0.5
    assert abs(kept.double().mean() - (1 - dropout)) < 4 * deviation / kept.numel() ** 0.5
    for axis, count in ((0, 1000), (1, 203)):  # no row or column is special
        z_scores = (kept.double().mean(axis) - (1 - dropout)) * count**0.5 / deviation
        assert z_scores.abs().max() < 5
        assert z_scores.square().mean().item() == pytest.approx(1.0, abs=0.4)
    noise = (kept.double() - (1 - dropout)) / deviation
    shifts = [(1, 0), (0, 1), (1, 1), (0, 16), (128, 0), (2, 3)]
    for rows, columns in shifts:  # neighbours are independent
        product = noise[rows:, columns:] * noise[: 1000 - rows, : 203 - columns]
        assert abs(product.mean()) < 4.5 / product.numel() ** 0.5


def test_layers_and_calls_draw_different_masks() -> None:
    hidden = build([64, 64], dropout=0.5)
    with torch.no_grad():
        for layer in (hidden[0], hidden[3]):
            layer.weight.zero_()
            layer.bias.fill_(1.0)
    x = torch.randn(200, 10)
    torch.manual_seed(5)
    whole = hidden(x)
    torch.manual_seed(5)
    alone = fused_hidden(x, [FusedHidden(hidden[0], None, 0.5)], training=True)
    assert ((whole != 0) == (alone != 0)).double().mean().item() == pytest.approx(0.5, abs=0.03)
    assert ((whole != 0) == (hidden(x) != 0)).double().mean().item() == pytest.approx(0.5, abs=0.03)


def test_the_seed_of_torch_gives_the_masks_and_resumes() -> None:
    hidden = build([64], dropout=0.5)
    x = torch.randn(30, 10)
    torch.manual_seed(7)
    first = hidden(x)
    state = torch.get_rng_state()
    second = hidden(x)
    torch.set_rng_state(state)
    assert torch.equal(hidden(x), second)
    torch.manual_seed(7)
    assert torch.equal(hidden(x), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_bits_do_not_depend_on_the_number_of_threads(batch_norm: bool) -> None:
    """The kernel's, at equal products: torch's own may be split by the threads."""
    hidden = build([40], batch_norm=batch_norm, dropout=0.3, in_dim=40)
    nn.init.eye_(hidden[0].weight)  # a product that is exact in any order
    x, weight = torch.randn(1500, 40), torch.randn(1500, 40)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            torch.manual_seed(0)
            results.append(run(copy.deepcopy(hidden), x, weight))
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for name, value in results[0].items():
            if name != "d 0.weight":
                assert torch.equal(value, other[name]), name


@pytest.mark.parametrize("batch_norm", [True, False])
def test_inference_equals_the_modules(batch_norm: bool) -> None:
    hidden = build([33, 7], batch_norm=batch_norm, dropout=0.5)
    for _ in range(5):
        hidden(torch.randn(64, 10) * 3 + 1)
    hidden.eval()
    x = torch.randn(21, 10)
    with torch.no_grad():
        torch.testing.assert_close(hidden(x), by_torch(hidden)(x), rtol=1e-5, atol=1e-6)
        assert hidden(x[:1]).shape == (1, 7)
        assert hidden(x[:0]).shape == (0, 7)
    state = copy.deepcopy(hidden.state_dict())
    with torch.no_grad():
        hidden(x)
    assert all(torch.equal(value, hidden.state_dict()[name]) for name, value in state.items())


def test_names_and_counts_stay_those_of_the_modules() -> None:
    state = HiddenLayers(3, [4, 5], batch_norm=True, dropout=0.1).state_dict()
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = [
        *("0.weight", "0.bias", *(f"1.{name}" for name in norm)),
        *("4.weight", "4.bias", *(f"5.{name}" for name in norm)),
    ]
    assert list(state) == expected


def test_views_and_expanded_gradients_are_read_right() -> None:
    hidden = build([8])
    turned = torch.randn(10, 20).T
    assert torch.equal(hidden(turned), hidden(turned.contiguous()))
    # Products of 17 and of 20 rows may add up in another order.
    torch.testing.assert_close(hidden(turned[3:]), hidden(turned)[3:])
    x = torch.randn(20, 10, requires_grad=True)
    hidden(x).sum().backward()  # an incoming gradient of stride zero
    twin = x.detach().clone().requires_grad_()
    by_torch(hidden)(twin).sum().backward()
    torch.testing.assert_close(x.grad, twin.grad)


def test_the_incoming_gradient_is_not_overwritten() -> None:
    hidden = build([8, 8], batch_norm=True)
    weight = torch.randn(20, 8)
    before = weight.clone()
    out = hidden(torch.randn(20, 10))
    out.backward(weight, retain_graph=True)
    first = hidden[0].weight.grad.clone()
    assert torch.equal(weight, before)
    hidden.zero_grad()
    out.backward(weight)
    assert torch.equal(hidden[0].weight.grad, first)


def test_only_what_asks_for_a_gradient_gets_one() -> None:
    hidden = build([8, 8], batch_norm=True).requires_grad_(False)
    x = torch.randn(20, 10, requires_grad=True)
    hidden(x).sum().backward()
    assert x.grad is not None
    assert all(parameter.grad is None for parameter in hidden.parameters())
    assert not hidden(x.detach()).requires_grad
    hidden[0].weight.requires_grad_()
    hidden(x.detach()).sum().backward()
    assert hidden[0].weight.grad is not None


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_stays_visible(bad: float) -> None:
    x = torch.randn(20, 10)
    x[7, 3] = bad
    assert not torch.isfinite(build([8], batch_norm=True)(x)).all()
    out = build([8])(x)
    assert not torch.isfinite(out[7]).all()
    assert torch.isfinite(out[torch.arange(20) != 7]).all()


def test_one_row_cannot_be_normalised() -> None:
    hidden = build([8], batch_norm=True)
    hidden.kernel = "auto"
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        hidden(torch.randn(1, 10))


def test_no_rows_without_normalisation() -> None:
    found = run(build([8]), torch.empty(0, 10), torch.empty(0, 8))
    assert found["out"].shape == (0, 8)
    assert not found["d 0.weight"].any()
    assert not found["d 0.bias"].any()


def test_a_parameter_changed_before_backward_is_an_error() -> None:
    hidden = build([8])
    out = hidden(torch.randn(20, 10))
    with torch.no_grad():
        hidden[0].weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_second_derivative_is_an_error() -> None:
    x = torch.randn(4, 10, requires_grad=True)
    output_weight = torch.randn(8, requires_grad=True)
    (grad,) = torch.autograd.grad((build([8])(x) @ output_weight).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_where_the_kernel_does_not_apply_the_modules_run() -> None:
    x = torch.randn(20, 10)
    obstacles = {
        "float64": (build([8]).double(), x.double()),
        "not Linear": (build([8], activation="gelu"), x),
        "some layers are in training": (build([8], dropout=0.5), x),
        "hooks": (build([8]), x),
        "in this order": (build([8]).append(nn.Linear(8, 2)), x),
        "no momentum": (build([8], batch_norm=True), x),
        "eval mode": (build([8]).eval(), x),
        "no bias": (build([8]), x),
    }
    obstacles["some layers are in training"][0][2].eval()
    obstacles["hooks"][0][0].register_forward_hook(lambda *arguments: None)
    obstacles["no momentum"][0][1].momentum = None
    obstacles["no bias"][0][0].bias = None
    for message, (hidden, value) in obstacles.items():
        with pytest.raises(ConfigError, match=message):
            hidden(value)
        hidden.kernel = "auto"
        assert torch.equal(hidden(value), by_torch(hidden, value.dtype)(value))


def test_under_autocast_and_vmap_the_modules_run() -> None:
    hidden = build([8])
    x = torch.randn(20, 10)
    with torch.autocast("cpu", torch.bfloat16), pytest.raises(ConfigError, match="autocast"):
        hidden(x)
    hidden.kernel = "auto"
    with torch.autocast("cpu", torch.bfloat16):
        assert hidden(x).dtype == torch.bfloat16
    torch.testing.assert_close(torch.vmap(hidden)(x.unflatten(0, (4, 5))).flatten(0, 1), hidden(x))


def test_without_a_compiler_the_modules_run(monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (mlp, cross, module):
        monkeypatch.setattr(place, "fused_hidden_kernel", lambda: None)
    hidden, network, x = build([8]), CrossNetwork(10, 2, kernel="fused"), torch.randn(20, 10)
    for layers in (hidden, network):
        with pytest.raises(ConfigError, match="could not be built"):
            layers(x)
        layers.kernel = "auto"
        assert torch.equal(layers(x), by_torch(layers)(x))
    with pytest.raises(RuntimeError, match="kernel=torch"):
        fused_hidden(x, [FusedHidden(hidden[0])], training=True)


@pytest.mark.parametrize("kernel", ["fast", ""])
def test_a_kernel_that_does_not_exist_is_an_error(kernel: str) -> None:
    for make in (
        lambda: HiddenLayers(3, [4], kernel=kernel),
        lambda: CrossNetwork(3, 1, kernel=kernel),
    ):
        with pytest.raises(ConfigError, match=f'kernel is "{kernel}"'):
            make()


@pytest.mark.parametrize("batch", [0, 1, 37, 300])
@pytest.mark.parametrize(("width", "depth"), [(1, 1), (7, 3), (100, 4)])
def test_cross_layers_equal_the_modules_in_float64(width: int, depth: int, batch: int) -> None:
    torch.manual_seed(0)
    network = CrossNetwork(width, depth, kernel="fused")
    for layer in network.layers:
        nn.init.normal_(layer.bias)
    x, weight = torch.randn(batch, width), torch.randn(batch, width)
    found = run(network, x, weight)
    if batch:
        assert_same(found, run(by_torch(network, torch.float64), x, weight), scale=batch)
        with torch.no_grad():
            assert torch.equal(network(x), found["out"])
    else:
        assert found["out"].shape == (0, width)
        assert not found["d layers.0.bias"].any()
