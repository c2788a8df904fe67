"""The fused kernel against the layers' own code, which test_attention.py holds to the loops."""

from __future__ import annotations

import itertools
import platform
import threading
from pathlib import Path

import pytest
import torch

from recsys import native
from recsys.layers import fused_attention as module
from recsys.layers.attention import AttentionStack, FieldAttention
from recsys.layers.fused_attention import fused_attention, fused_attention_kernel

pytestmark = pytest.mark.skipif(
    fused_attention_kernel() is None, reason="no C++ compiler: the kernel cannot be built"
)

OPTIONS = [
    {"residual": residual, "project_residual": projected, "scale": scale, "layer_norm": norm}
    for (residual, projected), scale, norm in itertools.product(
        [(False, False), (True, False), (True, True)], [True, False], [True, False]
    )
]
SIZES = [  # slots, width in, width out, heads, layers
    (1, 1, 1, 1, 1),
    (3, 4, 6, 3, 2),
    (5, 16, 16, 2, 3),
    (39, 16, 16, 2, 1),
    (17, 7, 15, 3, 2),
    (20, 40, 34, 1, 2),
]


def build(
    in_dim: int, out_dim: int, heads: int, depth: int, seed: int = 0, **options: float
) -> AttentionStack:
    torch.manual_seed(seed)
    layers = [
        FieldAttention(out_dim if index else in_dim, out_dim, heads, **options)
        for index in range(depth)
    ]
    for layer in layers:
        if layer.norm is not None:
            torch.nn.init.normal_(layer.norm.weight)
            torch.nn.init.normal_(layer.norm.bias)
    return AttentionStack(*layers, kernel="fused")


def run(stack: AttentionStack, fields: torch.Tensor, weight: torch.Tensor) -> list[torch.Tensor]:
    """The output, then the gradient of the input and of every parameter."""
    stack.zero_grad()
    fields = fields.detach().clone().requires_grad_()
    out = stack(fields)
    out.backward(weight)
    gradients = [fields.grad, *(parameter.grad for parameter in stack.parameters())]
    return [out.detach(), *(gradient.clone() for gradient in gradients)]


def relative_error(value: torch.Tensor, exact: torch.Tensor) -> float:
    return ((value - exact).abs().max() / exact.abs().max().clamp_min(1e-30)).item()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_forward_and_backward_equal_the_layers_in_float64(sizes: tuple, options: dict) -> None:
    slots, in_dim, out_dim, heads, depth = sizes
    stack = build(in_dim, out_dim, heads, depth, **options)
    generator = torch.Generator().manual_seed(1)
    fields = torch.randn(21, slots, in_dim, generator=generator)
    weight = torch.randn(21, slots, out_dim, generator=generator)
    fused = run(stack, fields, weight)
    stack.kernel = "torch"
    exact = run(stack.double(), fields.double(), weight.double())
    for value, expected in zip(fused, exact, strict=True):
        if out_dim == 1 and options.get("layer_norm"):  # only rounding is left
            torch.testing.assert_close(value.double(), expected, atol=1e-2, rtol=1e-5)
        else:
            assert relative_error(value, expected) < 1e-5


@pytest.mark.parametrize("batch", [0, 1, 15, 16, 17, 63, 64, 65, 200])
def test_any_number_of_rows(batch: int) -> None:
    stack = build(8, 8, 2, 2, layer_norm=True)
    fields, weight = torch.randn(batch, 5, 8), torch.randn(batch, 5, 8)
    fused = run(stack, fields, weight)
    stack.kernel = "torch"
    for value, expected in zip(fused, run(stack, fields, weight), strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-5)


def test_a_row_does_not_depend_on_its_place() -> None:
    stack = build(8, 8, 2, 2)
    fields = torch.randn(40, 5, 8)
    assert torch.equal(stack(fields)[3:37], stack(fields[3:37]))
    assert torch.equal(stack(fields.flip(0)).flip(0), stack(fields))


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    stack = build(8, 16, 2, 2, layer_norm=True)
    fields, weight = torch.randn(700, 5, 8), torch.randn(700, 5, 16)
    before = torch.get_num_threads()
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(run(stack, fields, weight))
    torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_calls_from_several_python_threads_do_not_disturb_each_other() -> None:
    stack = build(8, 16, 2, 2)
    inputs = [torch.randn(300, 5, 8) for _ in range(4)]
    expected = [stack(x) for x in inputs]
    found: dict[int, list[bool]] = {}

    def work(index: int) -> None:
        found[index] = [torch.equal(stack(inputs[index]), expected[index]) for _ in range(5)]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(all(found[index]) for index in range(4))


@pytest.mark.parametrize("grad", [True, False])
def test_with_and_without_gradient_the_output_is_the_same(grad: bool) -> None:
    stack = build(8, 8, 2, 3, layer_norm=True)
    fields = torch.randn(20, 5, 8)
    with torch.set_grad_enabled(grad):
        out = stack(fields)
    assert out.requires_grad is grad
    torch.testing.assert_close(out, build(8, 8, 2, 3, layer_norm=True)(fields))


def test_only_what_asks_for_a_gradient_gets_one() -> None:
    stack = build(8, 8, 2, 1)
    stack(torch.randn(20, 5, 8)).sum().backward()
    assert stack[0].weight.grad is not None
    frozen = build(8, 8, 2, 1).requires_grad_(False)
    fields = torch.randn(20, 5, 8, requires_grad=True)
    frozen(fields).sum().backward()
    assert fields.grad is not None
    assert frozen[0].weight.grad is None
    assert not frozen(fields.detach()).requires_grad


def test_views_and_strides_are_read_right() -> None:
    stack = build(8, 8, 2, 1)
    fields = torch.randn(5, 20, 8)
    turned = fields.transpose(0, 1)
    assert torch.equal(stack(turned), stack(turned.contiguous()))
    assert torch.equal(stack(turned[1:]), stack(turned)[1:])
    whole = torch.randn(20, 5, 8, requires_grad=True)
    stack(whole).expand(2, 20, 5, 8).sum().backward()  # an incoming gradient of stride zero
    assert torch.isfinite(whole.grad).all()


def test_large_scores_do_not_overflow() -> None:
    stack = build(8, 8, 2, 2, scale=False)
    fields = (torch.randn(20, 5, 8) * 100).requires_grad_()
    out = stack(fields)
    out.sum().backward()
    assert torch.isfinite(fields.grad).all()
    stack.kernel = "torch"
    torch.testing.assert_close(out, stack(fields), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_stays_visible_in_its_own_row(bad: float) -> None:
    stack = build(8, 8, 2, 2)
    fields = torch.randn(20, 5, 8)
    expected = stack(fields)
    fields[7, 2, 3] = bad
    out = stack(fields)
    assert not torch.isfinite(out[7]).all()
    others = torch.arange(20) != 7
    assert torch.equal(out[others], expected[others])


def test_tiny_numbers_do_not_disturb_the_next_operation() -> None:
    """The kernel counts denormal numbers as zero; the rest of the program does not."""
    build(8, 8, 2, 1)(torch.randn(200, 5, 8))
    tiny = torch.tensor([1e-30]) * torch.tensor([1e-10])
    assert tiny.item() > 0


def scramble(x: torch.Tensor) -> torch.Tensor:
    """MurmurHash3's last step on uint32 values kept in int64."""
    mask = 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & mask
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & mask
    return x ^ (x >> 16)


def kept_weights(seed: int, rows: int, heads: int, slots: int, dropout: float) -> torch.Tensor:
    """Which attention weights stay, [B, H, F, F], as fused_attention.cpp decides."""
    lanes = scramble((torch.arange(rows) + seed) & 0xFFFFFFFF)
    query = scramble((torch.arange(heads * slots) * 0x9E3779B9) & 0xFFFFFFFF)
    cell = (query.view(heads, slots, 1) + torch.arange(slots)) & 0xFFFFFFFF
    return scramble(lanes.view(-1, 1, 1, 1) ^ cell) >= int(dropout * 2**32)


@pytest.mark.parametrize("seed", range(3))
def test_dropout_equals_the_layers_with_the_same_weights_dropped(seed: int) -> None:
    rows, slots, heads, dropout = 37, 9, 2, 0.3
    stack = build(6, 6, heads, 2, dropout=dropout, layer_norm=True)
    generator = torch.Generator().manual_seed(seed)
    fields = torch.randn(rows, slots, 6, generator=generator)
    weight = torch.randn(rows, slots, 6, generator=generator)
    torch.manual_seed(seed)
    fused = run(stack, fields, weight)

    torch.manual_seed(seed)
    seeds = iter(torch.randint(2**32, (2,)).tolist())

    def drop(weights: torch.Tensor, p: float, training: bool) -> torch.Tensor:
        assert (p, training) == (dropout, True)
        return weights * kept_weights(next(seeds), rows, heads, slots, p) / (1 - p)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.nn.functional, "dropout", drop)
        stack.kernel = "torch"
        exact = run(stack.double(), fields.double(), weight.double())
    for value, expected in zip(fused, exact, strict=True):
        assert relative_error(value, expected) < 1e-5


def test_dropped_weights_are_the_given_share_and_look_independent() -> None:
    kept = kept_weights(12345, 2000, 2, 10, 0.3).double()
    assert kept.mean().item() == pytest.approx(0.7, abs=0.002)
    for dim in range(4):  # neither rows, heads, queries nor keys share their luck
        others = [other for other in range(4) if other != dim]
        spread = kept.mean(dim=others).std().item()
        assert spread < 4 * (0.21 * kept.shape[dim] / kept.numel()) ** 0.5
        neighbours = (kept - 0.7).narrow(dim, 0, kept.shape[dim] - 1) * (kept - 0.7).narrow(
            dim, 1, kept.shape[dim] - 1
        )
        assert abs(neighbours.mean().item()) < 4 * 0.21 / neighbours.numel() ** 0.5
    other = kept_weights(12346, 2000, 2, 10, 0.3).double()
    assert abs(((kept - 0.7) * (other - 0.7)).mean().item()) < 4 * 0.21 / kept.numel() ** 0.5


def test_dropout_follows_the_seed_of_torch_and_leaves_evaluation_alone() -> None:
    stack = build(8, 8, 2, 2, dropout=0.5)
    fields = torch.randn(20, 5, 8)
    torch.manual_seed(3)
    first, second = stack(fields), stack(fields)
    assert not torch.equal(first, second)
    torch.manual_seed(3)
    assert torch.equal(stack(fields), first)
    stack.eval()
    assert torch.equal(stack(fields), build(8, 8, 2, 2)(fields))


def test_without_dropout_no_random_number_is_drawn() -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    stack = build(8, 8, 2, 1, dropout=0.5).eval()
    torch.set_rng_state(before)
    stack(torch.zeros(3, 5, 8))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_parameter_changed_before_backward_is_an_error() -> None:
    stack = build(8, 8, 2, 1)
    out = stack(torch.randn(20, 5, 8))
    with torch.no_grad():
        stack[0].weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_a_second_derivative_is_an_error() -> None:
    fields = torch.randn(4, 5, 8, requires_grad=True)
    output_weight = torch.randn(8, requires_grad=True)
    logit = (build(8, 8, 2, 1)(fields) @ output_weight).sum()
    (grad,) = torch.autograd.grad(logit, fields, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_without_the_kernel_the_message_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "fused_attention_kernel", lambda: None)
    with pytest.raises(RuntimeError, match="kernel=torch"):
        fused_attention(torch.randn(2, 5, 8), [build(8, 8, 2, 1)[0].fused()])


def test_memory_that_runs_out_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    class NoMemory:
        def __getattr__(self, name: str) -> object:
            return lambda *arguments: int(name == "attention_forward")

    monkeypatch.setattr(module, "fused_attention_kernel", NoMemory)
    with pytest.raises(MemoryError, match="5 slots"), torch.no_grad():
        fused_attention(torch.randn(2, 5, 8), [build(8, 8, 2, 1)[0].fused()])


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="names x86 instruction sets")
@pytest.mark.parametrize("level", ["x86-64", "x86-64-v3"])
def test_narrower_registers_give_the_same_numbers(
    level: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """4 and 8 lanes, as processors without AVX-512 have."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path))
    flags = tuple(f"-march={level}" if flag == "-march=native" else flag for flag in native.FLAGS)
    monkeypatch.setattr(native, "FLAGS", flags)
    narrow = fused_attention_kernel.__wrapped__()
    monkeypatch.setattr(module, "fused_attention_kernel", lambda: narrow)
    assert narrow.attention_lanes() == {"x86-64": 4, "x86-64-v3": 8}[level]
    for options in ({"layer_norm": True}, {"scale": False, "project_residual": True}):
        test_forward_and_backward_equal_the_layers_in_float64((17, 7, 15, 3, 2), options)
    test_dropout_equals_the_layers_with_the_same_weights_dropped(0)
