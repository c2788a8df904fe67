"""The mixtures that readers see of experts, from what the experts' last matrix product gave.

Letters   B rows, G experts, O width of an expert, R readers.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsys.layers.dice import column_statistics, dice_kernel
from recsys.layers.segments import raw_float32
from recsys.layers.stacked import StackedNorm
from recsys.native import load_kernel

ACTIVATIONS = (nn.ReLU, nn.SiLU)
"""What the kernel can apply."""


def fused_mixture(
    z: Tensor, weights: Tensor, norm: StackedNorm | None, activation: nn.Module
) -> Tensor | None:
    """`mix(weights, activation(norm(z)))` in one pass, on a CPU in float32.

    Batch normalisation moves its running averages as its own code does.

    Shape:
        z        [B, G, O]  before normalisation and activation
        weights  [B, R, G]
        return   [B, R, O]; None where the kernel does not apply
    """
    if not isinstance(activation, ACTIVATIONS) or not len(z):
        return None
    parts = [z, weights]
    if norm is not None:
        if norm.momentum is None or norm.running_mean is None or not norm.affine:
            return None
        if norm.training and len(z) < 2:
            return None
        parts += [norm.weight, norm.bias, norm.running_mean]
    if not raw_float32(*parts) or mixture_kernel() is None or dice_kernel() is None:
        return None
    z, weights = z.contiguous(), weights.contiguous()
    width = z.shape[1] * z.shape[2]
    batch = norm is not None and norm.training
    if norm is None:
        mean, shift = z.new_zeros(2, width)
        scale, gain = z.new_ones(2, width)
    else:
        gain, shift = norm.weight, norm.bias
        mean, scale = _normalisation(z.detach(), norm)
    swish = isinstance(activation, nn.SiLU)
    if torch.is_grad_enabled():
        out: Tensor = _Mixture.apply(z, weights, gain, shift, mean, scale, swish, batch)
        return out
    return _forward(z, weights, gain, shift, mean, scale, swish)


def _normalisation(z: Tensor, norm: StackedNorm) -> tuple[Tensor, Tensor]:
    """Mean and 1 / deviation of each unit, [G O] each."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    if not norm.training:
        return norm.running_mean, (norm.running_var.double() + norm.eps).rsqrt().float()
    rows = len(z)
    mean, variance = column_statistics(z.flatten(1))
    assert norm.momentum is not None
    norm.running_mean.lerp_(mean.float(), norm.momentum)
    norm.running_var.lerp_((variance * (rows / (rows - 1))).float(), norm.momentum)
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return mean.float(), (variance + norm.eps).rsqrt().float()


@functools.cache
def mixture_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    i32, i64, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    signatures = {
        "mixture_forward": [*6 * [ptr], i32, ptr, i32],
        "mixture_backward": [*6 * [ptr], i32, ptr, i32, *6 * [ptr], i32],
    }
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [*4 * [i64], *arguments], None
    library.mixture_chunk_rows.restype = i64
    return library


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        z: Tensor,
        weights: Tensor,
        gain: Tensor,
        shift: Tensor,
        mean: Tensor,
        scale: Tensor,
        swish: bool,
        batch: bool,
    ) -> Tensor:
        ctx.save_for_backward(z, weights, gain, shift, mean, scale)
        ctx.swish, ctx.batch = swish, batch
        return _forward(z, weights, gain, shift, mean, scale, swish)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_mixed: Tensor) -> tuple[Tensor | None, ...]:
        z, weights, gain, shift, mean, scale = ctx.saved_tensors
        library = mixture_kernel()
        assert library is not None
        width = z.shape[1] * z.shape[2]
        chunks = -(-len(z) // library.mixture_chunk_rows())
        partial = torch.empty(chunks, 2, width)
        total = torch.empty(2, width, dtype=torch.float64)
        d_z, d_weights = torch.empty_like(z), torch.empty_like(weights)
        d_gain, d_shift = torch.empty_like(gain), torch.empty_like(shift)
        _call(
            "mixture_backward", z, weights, z, mean, scale, gain, shift, weights, int(ctx.swish),
            d_mixed.contiguous(), int(ctx.batch), partial, total, d_z, d_weights, d_gain, d_shift,
        )  # fmt: skip
        return d_z, d_weights, d_gain, d_shift, None, None, None, None


def _forward(
    z: Tensor,
    weights: Tensor,
    gain: Tensor,
    shift: Tensor,
    mean: Tensor,
    scale: Tensor,
    swish: bool,
) -> Tensor:
    mixed = torch.empty(len(z), weights.shape[1], z.shape[2])
    _call(
        "mixture_forward", z, weights, z, mean, scale, gain, shift, weights, int(swish), mixed
    )  # fmt: skip
    return mixed


def _call(name: str, z: Tensor, weights: Tensor, *arguments: Tensor | int) -> None:
    """Call the kernel with B, G, O and R, then everything, then the threads."""
    values = (value.data_ptr() if isinstance(value, Tensor) else value for value in arguments)
    getattr(mixture_kernel(), name)(*z.shape, weights.shape[1], *values, torch.get_num_threads())
