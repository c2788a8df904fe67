"""Alpha-entmax against bisection in plain Python, numerical derivatives, and its own properties."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.errors import ConfigError
from recsys.layers import entmax as module
from recsys.layers.entmax import MAX_FUSED, entmax, entmax_kernel

ALPHAS = [1.0, 1.2, 1.5, 1.7, 2.0, 2.5, 4.0]
needs_kernel = pytest.mark.skipif(entmax_kernel() is None, reason="no C++ compiler")
every_case = pytest.mark.parametrize(
    ("alpha", "kernel"),
    [(alpha, "torch") for alpha in ALPHAS]
    + [pytest.param(alpha, "fused", marks=needs_kernel) for alpha in (1.5, 2.0)],
)
every_kernel = pytest.mark.parametrize(
    "kernel", [pytest.param("torch"), pytest.param("fused", marks=needs_kernel)]
)
LAYOUTS = ["rows", "columns", "strided"]


def scores(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=dtype) * 2


def laid_out(x: Tensor, layout: str) -> Tensor:
    """The same [B, R, F] numbers in another order of memory."""
    if layout == "columns":
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "strided":
        return x.repeat_interleave(2, dim=2)[..., ::2]
    return x.contiguous()


def by_bisection(row: list[float], alpha: float) -> list[float]:
    """p_j = max((alpha - 1) x_j - tau, 0)^(1 / (alpha - 1)), for the tau where they sum to 1."""
    z = [(alpha - 1) * value for value in row]
    low, high = max(z) - 1.0, max(z)
    for _ in range(200):
        tau = (low + high) / 2
        total = sum(max(value - tau, 0.0) ** (1 / (alpha - 1)) for value in z)
        low, high = (tau, high) if total >= 1.0 else (low, tau)
    return [max(value - low, 0.0) ** (1 / (alpha - 1)) for value in z]


@pytest.mark.parametrize("alpha", ALPHAS[1:])
@pytest.mark.parametrize("length", [1, 2, 10, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_forward_equals_bisection(alpha: float, length: int, dtype: torch.dtype) -> None:
    x = scores(20, length, dtype=dtype)
    expected = torch.tensor([by_bisection(row, alpha) for row in x.tolist()], dtype=torch.float64)
    found = entmax(x, alpha)
    assert found.dtype == dtype
    tolerance = 2e-6 if dtype == torch.float32 else 1e-12
    # A large alpha takes a high root of z - tau, and with it of tau's rounding.
    tolerance **= min(1.0, 1 / (alpha - 1))
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)


def test_alpha_one_is_softmax_and_two_a_projection() -> None:
    x = scores(9, 7, dtype=torch.float64)
    torch.testing.assert_close(entmax(x, 1.0), x.softmax(dim=-1))
    # Sparsemax is the nearest point of the simplex: no mixture with another point is nearer.
    nearest = entmax(x, 2.0)
    for seed in range(20):
        other = scores(9, 7, seed=seed, dtype=torch.float64).softmax(dim=-1)
        mixed = 0.99 * nearest + 0.01 * other
        assert ((mixed - x).norm(dim=-1) >= (nearest - x).norm(dim=-1)).all()


@pytest.mark.parametrize("alpha", ALPHAS)
def test_backward_equals_numerical_derivatives(alpha: float) -> None:
    x = scores(6, 5, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: entmax(x, alpha), x, eps=1e-7, atol=1e-5)


@needs_kernel
@pytest.mark.parametrize("alpha", [1.5, 2.0])
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 2), (2, 8, 10), (4, 33, 7), (2, 3, MAX_FUSED)])
def test_fused_equals_torch_in_float64(shape: tuple[int, ...], layout: str, alpha: float) -> None:
    x = laid_out(scores(*shape), layout).requires_grad_()
    dp = laid_out(scores(*shape, seed=1), "columns" if layout == "rows" else "rows")
    p = entmax(x, alpha, kernel="fused")
    (dx,) = torch.autograd.grad(p, x, dp)
    exact_x = x.detach().double().requires_grad_()
    exact = entmax(exact_x, alpha, kernel="torch")
    (exact_dx,) = torch.autograd.grad(exact, exact_x, dp.double())
    torch.testing.assert_close(p.double(), exact, rtol=0, atol=1e-6)
    torch.testing.assert_close(dx.double(), exact_dx, rtol=0, atol=1e-4 if alpha == 1.5 else 1e-5)


@needs_kernel
@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_bits_do_not_depend_on_the_number_of_threads(alpha: float) -> None:
    x = scores(700, 9)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(entmax(x, alpha, kernel="fused"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)


@every_case
@pytest.mark.parametrize("seed", range(5))
def test_properties(seed: int, alpha: float, kernel: str) -> None:
    length = 2 + 7 * seed
    # In steps of 1/64, so that adding 3 and subtracting the largest are exact.
    x = (scores(300, length, seed=seed) * 10.0 ** (seed - 2) * 64).round() / 64
    p = entmax(x, alpha, kernel=kernel)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(dim=-1), torch.ones(300), rtol=0, atol=1e-5)
    order = torch.randperm(length, generator=torch.Generator().manual_seed(seed))
    loose = 2e-6 ** min(1.0, 1 / (alpha - 1 or 1))
    permuted = entmax(x[:, order], alpha, kernel=kernel)
    torch.testing.assert_close(permuted, p[:, order], rtol=0, atol=loose)
    assert torch.equal(entmax(x + 3.0, alpha, kernel=kernel), p)
    larger = x[:, :1] > x[:, 1:]
    assert (p[:, :1].expand_as(larger)[larger] >= p[:, 1:][larger] - 1e-6).all()


@every_kernel
@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_far_scores_get_exactly_zero(alpha: float, kernel: str) -> None:
    gap = 1.0 / (alpha - 1.0)  # from here on the largest entry has everything
    p = entmax(
        torch.tensor([[0.0, -gap, -1.01 * gap], [0.0, -0.5 * gap, -50.0]]), alpha, kernel=kernel
    )
    assert p[0].tolist() == [1.0, 0.0, 0.0]
    assert (p[1] > 0).tolist() == [True, True, False]


def test_larger_alpha_is_sparser() -> None:
    x = scores(500, 10)
    sizes = [(entmax(x, alpha) > 0).sum().item() for alpha in ALPHAS]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 5000
    assert sizes[4] < 1500


@every_case
def test_masked_entries_do_not_exist(alpha: float, kernel: str) -> None:
    x = scores(4, 6).requires_grad_()
    mask = torch.tensor([1, 0, 1, 1, 0, 1], dtype=torch.bool)
    p = entmax(x, alpha, mask=mask, kernel=kernel)
    (dx,) = torch.autograd.grad(p, x, scores(4, 6, seed=1))
    assert not p[:, ~mask].any()
    assert not dx[:, ~mask].any()
    kept = x.detach()[:, mask].clone().requires_grad_()
    alone = entmax(kept, alpha, kernel=kernel)
    (dkept,) = torch.autograd.grad(alone, kept, scores(4, 6, seed=1)[:, mask])
    torch.testing.assert_close(p[:, mask], alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(dx[:, mask], dkept, rtol=1e-3, atol=1e-4)


@every_kernel
@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_a_row_without_entries_is_zero(alpha: float, kernel: str) -> None:
    x = scores(2, 3).requires_grad_()
    mask = torch.tensor([[True, True, True], [False, False, False]])
    p = entmax(x, alpha, mask=mask, kernel=kernel)
    p.square().sum().backward()
    assert p[1].tolist() == [0.0, 0.0, 0.0]
    assert p[0].sum().item() == pytest.approx(1.0)
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert not x.grad[1].any()


@every_kernel
@pytest.mark.parametrize("alpha", [1.5, 2.0])
def test_extreme_scores(alpha: float, kernel: str) -> None:
    p = entmax(torch.tensor([[1e30, -1e30], [1e-30, -1e-30], [3e38, 3e38]]), alpha, kernel=kernel)
    expected = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
    torch.testing.assert_close(p, expected)
    broken = entmax(torch.tensor([[1.0, float("nan"), 2.0], [1.0, 2.0, 3.0]]), alpha, kernel=kernel)
    assert not torch.isfinite(broken[0]).any()
    assert torch.isfinite(broken[1]).all()


@every_kernel
@pytest.mark.parametrize("shape", [(0, 4), (0, 3, 4), (2, 0, 4)])
def test_no_rows(shape: tuple[int, ...], kernel: str) -> None:
    assert entmax(torch.zeros(shape), 1.5, kernel=kernel).shape == shape


@pytest.mark.parametrize("alpha", [0.99, 0.0, -1.0, float("inf"), float("nan")])
def test_alpha_out_of_range_is_named(alpha: float) -> None:
    with pytest.raises(ConfigError, match=r"alpha is .* at least 1"):
        entmax(torch.zeros(2), alpha)


def test_where_the_kernel_does_not_apply_torch_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = torch.zeros(2, MAX_FUSED + 1)
    for x, alpha, message in [
        (torch.zeros(2, 3), 1.7, "alpha is 1.7"),
        (torch.zeros(2, 3, dtype=torch.float64), 2.0, "float64"),
        (wide, 2.0, "at most 256"),
    ]:
        with pytest.raises(ConfigError, match=message):
            entmax(x, alpha, kernel="fused")
        assert torch.equal(entmax(x, alpha), entmax(x, alpha, kernel="torch"))
    monkeypatch.setattr(module, "entmax_kernel", lambda: None)
    with pytest.raises(ConfigError, match="could not be built"):
        entmax(torch.zeros(2, 3), 2.0, kernel="fused")
    assert entmax(torch.zeros(2, 2), 2.0).tolist() == [[0.5, 0.5], [0.5, 0.5]]
    with pytest.raises(ConfigError, match=r'kernel is "fusd".*fused'):
        entmax(torch.zeros(2, 3), 2.0, kernel="fusd")
