"""The kernel against its definition in float64, with widths that fill no vector register."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recsys.layers import expert_mixture
from recsys.layers.expert_mixture import fused_mixture, mixture_kernel
from recsys.layers.experts import Experts, expert_names
from recsys.layers.stacked import StackedNorm

pytestmark = pytest.mark.skipif(mixture_kernel() is None, reason="no C++ compiler")
SHAPES = [(300, 3, 8, 2), (129, 5, 33, 7), (2, 1, 1, 1), (1, 2, 16, 4), (64, 24, 20, 9)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


def make(shape: tuple[int, ...], norm: str) -> tuple[Tensor, Tensor, StackedNorm | None, Tensor]:
    rows, experts, width, readers = shape
    torch.manual_seed(0)
    z = torch.randn(rows, experts, width) * 2 + 0.5
    weights = torch.rand(rows, readers, experts)
    module = None
    if norm != "none":
        module = StackedNorm(experts, width, eps=1e-3).train(norm == "batch")
        nn.init.normal_(module.weight)
        nn.init.normal_(module.bias)
        module.running_mean.normal_()
        module.running_var.uniform_(0.5, 2)
    return z, weights, module, torch.randn(rows, readers, width)


def slow(z: Tensor, weights: Tensor, norm: StackedNorm | None, activation: nn.Module) -> Tensor:
    return torch.einsum("brg,bgo->bro", weights, activation(z if norm is None else norm(z)))


@every_shape
@pytest.mark.parametrize("norm", ["none", "batch", "running"])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.SiLU()], ids=["relu", "silu"])
@pytest.mark.parametrize("threads", [1, 2])
def test_equals_its_definition(
    shape: tuple[int, ...], norm: str, activation: nn.Module, threads: int
) -> None:
    if norm == "batch" and shape[0] < 2:
        pytest.skip("one row has no statistics")
    z, weights, module, above = make(shape, norm)
    z.requires_grad_(True)
    weights.requires_grad_(True)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = fused_mixture(z, weights, module, activation)
        assert found is not None
        found.backward(above)
    finally:
        torch.set_num_threads(before)
    z64, w64, module64, _ = make(shape, norm)
    z64, w64 = z64.double().requires_grad_(True), w64.double().requires_grad_(True)
    if module64 is not None:
        module64.double()
    expected = slow(z64, w64, module64, activation)
    expected.backward(above.double())
    close = {"rtol": 1e-4, "atol": 2e-5 * float(expected.abs().max() + 1)}
    torch.testing.assert_close(found, expected.float(), **close)
    pairs = [(z.grad, z64.grad), (weights.grad, w64.grad)]
    if module is not None and module64 is not None:
        pairs += [
            (module.weight.grad, module64.weight.grad),
            (module.bias.grad, module64.bias.grad),
        ]
        torch.testing.assert_close(module.running_mean, module64.running_mean.float())
        torch.testing.assert_close(module.running_var, module64.running_var.float())
        assert module.num_batches_tracked == module64.num_batches_tracked
    for mine, right in pairs:
        assert mine is not None
        assert right is not None
        atol = 2e-5 * float(right.abs().max() + 1)
        torch.testing.assert_close(mine, right.float(), rtol=1e-4, atol=atol)


def test_threads_change_no_bit() -> None:
    def run(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        z, weights, module, above = make((1000, 4, 24, 3), "batch")
        z.requires_grad_(True)
        found = fused_mixture(z, weights, module, nn.SiLU())
        assert found is not None
        assert module is not None
        found.backward(above)
        return [found.detach(), z.grad, module.weight.grad, module.running_var]

    before = torch.get_num_threads()
    try:
        for one, other in zip(run(1), run(2), strict=True):
            assert torch.equal(one, other)
    finally:
        torch.set_num_threads(before)


def test_a_number_that_is_none_stays_visible() -> None:
    for activation in (nn.ReLU(), nn.SiLU()):
        z, weights, _, _ = make((8, 2, 16, 2), "none")
        z[3, 1, 5] = torch.nan
        found = fused_mixture(z, weights, None, activation)
        assert found is not None
        assert found[3].isnan().any()
        assert not found[[0, 1, 2, 4]].isnan().any()


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("float64", {}),
        ("dropout", {"dropout": 0.5}),
        ("tanh", {"activation": "tanh"}),
        ("hooked", {}),
        ("kernel", {"batch_norm": True, "activation": "silu"}),
        ("kernel", {"batch_norm": True}),
        ("kernel", {}),
    ],
)
def test_experts_use_it_where_they_may(
    case: str, options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    used = []
    real = expert_mixture._forward
    monkeypatch.setattr(expert_mixture, "_forward", lambda *a: used.append(True) or real(*a))
    torch.manual_seed(0)
    experts = Experts(expert_names([("a", 3)]), 6, [5, 4], **options).eval()  # type: ignore[arg-type]
    x, weights = torch.randn(9, 6), torch.rand(9, 2, 3)
    if case == "float64":
        experts, x, weights = experts.double(), x.double(), weights.double()
    seen = []
    if case == "hooked":
        experts.register_forward_hook(lambda *_: seen.append(True))
    mixed = experts.mixed(x, weights)
    assert bool(used) == (case == "kernel")
    assert bool(seen) == (case == "hooked")
    expected = torch.einsum("brg,bgo->bro", weights, experts(x))
    torch.testing.assert_close(mixed, expected, rtol=1e-4, atol=1e-6)
