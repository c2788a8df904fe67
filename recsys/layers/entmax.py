"""Alpha-entmax: softmax's sparse relatives, with their exact gradient.

Peters et al., ACL 2019, arXiv:1905.05702: p = argmax over the simplex of p.x + H_alpha(p), which is
p_j = max((alpha - 1) x_j - tau, 0)^(1 / (alpha - 1)) for the tau at which the p_j sum to 1.
alpha = 1 is softmax, alpha = 2 sparsemax; above 1, small scores get exactly zero.

Letters   R rows (all leading axes together), F entries of a row.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.errors import ConfigError, did_you_mean
from recsys.native import load_kernel

KERNELS = ("auto", "torch", "fused")
MAX_FUSED = 256
"""The longest row that the kernel keeps at hand."""


def check_alpha(alpha: float) -> float:
    """Return `alpha` when it is a number of at least 1, else raise ConfigError."""
    if not 1.0 <= alpha < float("inf"):
        raise ConfigError(
            f"alpha is {alpha}; alpha-entmax needs a number of at least 1: 1 is softmax, 1.5 and 2 "
            "are the usual sparse ones."
        )
    return float(alpha)


def entmax(x: Tensor, alpha: float, *, mask: Tensor | None = None, kernel: str = "auto") -> Tensor:
    """Sparse probabilities along the last axis.

    On a CPU, in float32, with alpha 1.5 or 2 and rows of at most `MAX_FUSED` entries, a fused
    kernel runs; elsewhere sorting (1.5 and 2), softmax (1) or bisection (any other alpha). Same
    numbers to rounding.

    Args:
        x: Scores; at least one per row.
        alpha: At least 1; the larger, the sparser.
        mask: True where an entry takes part, broadcast to `x`; others get zero, and a row without
            any is all zeros.
        kernel: auto, torch, or fused (an error where the kernel does not apply).

    Shape:
        x       [..., F]
        mask    [..., F]  bool
        return  [..., F]  of x's dtype; non-negative, each row sums to 1

    Raises:
        ConfigError: alpha is below 1, or `kernel` does not exist or does not apply.

    Example:
        >>> entmax(torch.tensor([1.0, 0.8, -1.0]), alpha=2)
        tensor([0.6000, 0.4000, 0.0000])
    """
    check_alpha(alpha)
    if kernel not in KERNELS:
        raise ConfigError(f'kernel is "{kernel}".{did_you_mean(kernel, KERNELS)}')
    if mask is not None:
        x = x.masked_fill(~mask, -torch.inf)
    fused = False
    if kernel != "torch":
        obstacle = _obstacle(x, alpha)
        if kernel == "fused" and obstacle is not None:
            raise ConfigError(f"kernel is fused, but {obstacle}. Use kernel=auto.")
        fused = obstacle is None
    result: Tensor = _Entmax.apply(x, float(alpha), fused)
    return result


class _Entmax(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, alpha: float, fused: bool) -> Tensor:
        p = _forward_fused(x, alpha) if fused else _forward_torch(x, alpha)
        ctx.alpha, ctx.fused = alpha, fused
        ctx.save_for_backward(p)
        return p

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dp: Tensor) -> tuple[Tensor, None, None]:
        (p,) = ctx.saved_tensors
        dx = _backward_fused(p, dp, ctx.alpha) if ctx.fused else _backward_torch(p, dp, ctx.alpha)
        return dx, None, None


# -- torch ---------------------------------------------------------------------------------------


def _forward_torch(x: Tensor, alpha: float) -> Tensor:
    largest = x.amax(dim=-1, keepdim=True)
    # Without any entry that takes part, -inf - (-inf) would be NaN.
    z = (x - largest.masked_fill(largest == -torch.inf, 0.0)) * (alpha - 1.0 or 1.0)
    if alpha == 1.0:
        p = z.exp()
        return p / p.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(p.dtype).tiny)
    if alpha == 2.0:
        return (z - _tau_2(z)).clamp_min(0.0)
    if alpha == 1.5:
        return (z - _tau_15(z)).clamp_min(0.0).square()
    return _bisect(z, alpha)


def _tau_2(z: Tensor) -> Tensor:
    """Sparsemax: with the k largest in the support, their sum - k tau = 1."""
    ordered, count = _descending(z)
    tau = (ordered.cumsum(dim=-1) - 1.0) / count
    return _at_support(tau, ordered)


def _tau_15(z: Tensor) -> Tensor:
    """1.5-entmax: with the k largest in the support, sum of (z - tau)^2 = 1, a quadratic."""
    ordered, count = _descending(z)
    mean = ordered.cumsum(dim=-1) / count
    spread = (ordered.square().cumsum(dim=-1) / count - mean.square()).clamp_min(0.0)
    tau = mean - (1.0 / count - spread).clamp_min(0.0).sqrt()
    return _at_support(tau, ordered)


def _descending(z: Tensor) -> tuple[Tensor, Tensor]:
    """Each row from its largest, and 1..F. Below -2 nothing is in the support (its largest entry,
    0, is at most 1 above tau), so that minus infinity becomes a finite number."""
    ordered = z.sort(dim=-1, descending=True).values.clamp_min(-2.0)
    return ordered, torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)


def _at_support(tau: Tensor, ordered: Tensor) -> Tensor:
    """The tau of the largest support that is consistent: its smallest entry is above its tau."""
    size = (ordered > tau).sum(dim=-1, keepdim=True).clamp_min(1)
    return tau.gather(-1, size - 1)


def _bisect(z: Tensor, alpha: float) -> Tensor:
    """Halve the interval that holds tau until it is as narrow as the dtype can tell; p is then
    divided by its sum, which takes most of the remaining error away."""
    power = 1.0 / (alpha - 1.0)
    low = torch.full_like(z[..., :1], -1.0)  # the largest entry, 0, alone would give p = 1
    width = 1.0 - z.shape[-1] ** (1.0 - alpha)  # above: all F entries equal
    for _ in range(30 if z.dtype == torch.float32 else 60):
        width /= 2
        middle = low + width
        enough = (z - middle).clamp_min(0.0).pow(power).sum(dim=-1, keepdim=True) >= 1.0
        low = torch.where(enough, middle, low)
    p = (z - low).clamp_min(0.0).pow(power)
    return p / p.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(p.dtype).tiny)


def _backward_torch(p: Tensor, dp: Tensor, alpha: float) -> Tensor:
    """Peters et al.: dp/dx = diag(s) - s s^T / sum(s), with s = p^(2 - alpha) in the
    support and 0 outside."""
    support = p > 0.0
    slope = torch.where(support, p, 1.0).pow(2.0 - alpha) * support
    total = slope.sum(dim=-1, keepdim=True)
    mean = (slope * dp).sum(dim=-1, keepdim=True) / total.masked_fill(total == 0.0, 1.0)
    return slope * (dp - mean)


# -- fused ---------------------------------------------------------------------------------------


@functools.cache
def entmax_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    i32, i64, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    layout = [i64] * 6
    library.entmax_forward.argtypes = [*layout, i32, ptr, ptr, i32]
    library.entmax_backward.argtypes = [*layout, i32, ptr, ptr, ptr, i32]
    library.entmax_forward.restype = library.entmax_backward.restype = None
    return library


def _obstacle(x: Tensor, alpha: float) -> str | None:
    """Why the kernel does not apply, or None where it does."""
    if alpha not in (1.5, 2.0):
        return f"alpha is {alpha}, not 1.5 or 2"
    if x.device.type != "cpu" or x.dtype != torch.float32 or not 1 <= x.shape[-1] <= MAX_FUSED:
        return (
            f"the scores are {x.dtype} {list(x.shape)} on {x.device}, not float32 rows of at most "
            f"{MAX_FUSED} on a CPU"
        )
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return "torch is tracing the model"
    return None if entmax_kernel() else "the kernel could not be built"


def _layout(x: Tensor) -> tuple[int, ...] | None:
    """x as blocks x rows x entries, three sizes and three strides; None where it is neither
    contiguous nor a [B, R, F] view of contiguous [B, F, R]."""
    length = x.shape[-1]
    if x.is_contiguous():
        return 1, x.numel() // length, length, 0, length, 1
    if x.dim() == 3 and x.transpose(1, 2).is_contiguous():
        rows = x.shape[1]
        return x.shape[0], rows, length, rows * length, 1, rows
    return None


def _forward_fused(x: Tensor, alpha: float) -> Tensor:
    layout = _layout(x)
    if layout is None:
        x = x.contiguous()
        layout = _layout(x)
    p = torch.empty_like(x)
    _call("entmax_forward", layout, alpha, x, p)
    return p


def _backward_fused(p: Tensor, dp: Tensor, alpha: float) -> Tensor:
    if dp.stride() != p.stride():
        dp = torch.empty_like(p).copy_(dp)
    dx = torch.empty_like(p)
    _call("entmax_backward", _layout(p), alpha, p, dp, dx)
    return dx


def _call(name: str, layout: tuple[int, ...] | None, alpha: float, *tensors: Tensor) -> None:
    library = entmax_kernel()
    assert library is not None
    assert layout is not None
    pointers = (tensor.data_ptr() for tensor in tensors)
    getattr(library, name)(*layout, round(2 * alpha), *pointers, torch.get_num_threads())
