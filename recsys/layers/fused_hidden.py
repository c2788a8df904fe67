"""Hidden layers and cross layers with their elementwise parts as CPU kernels, and their gradients.

Same numbers as the layers' own modules, to rounding, except that dropout draws other random
numbers; the work is in fused_hidden.cpp. Matrix products stay torch's.
Letters   B rows, I input width, O output width.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsys.native import load_kernel


@dataclass(frozen=True)
class FusedHidden:
    """Linear -> products of its halves -> batch normalisation (where given) -> ReLU -> dropout.

    Attributes:
        linear: With a bias.
        norm: With gain, shift, running statistics and a momentum.
        dropout: Probability in training, in [0, 1).
        factorize: With halves u and v: concat: [u, u * v]; sum: u + u * v; empty: no products.
    """

    linear: nn.Linear
    norm: nn.BatchNorm1d | None = None
    dropout: float = 0.0
    factorize: str = ""

    @property
    def parameters(self) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
        norm = self.norm
        gain, shift = (None, None) if norm is None else (norm.weight, norm.bias)
        return self.linear.weight, self.linear.bias, gain, shift


@functools.cache
def fused_hidden_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    i32, u32, i64, u64 = ctypes.c_int32, ctypes.c_uint32, ctypes.c_int64, ctypes.c_uint64
    f32, f64, ptr = ctypes.c_float, ctypes.c_double, ctypes.c_void_p
    size = [i64, i64]
    signatures = {
        "hidden_normalise": [*size, *4 * [ptr], f64, f64, *7 * [ptr], i32],
        "hidden_activate": [*size, *3 * [ptr], f32, u32, u64, ptr, ptr, i32],
        "hidden_backward": [*size, ptr, ptr, f32, *10 * [ptr], i32],
        "cross_forward": [*size, *5 * [ptr], i32],
        "cross_backward": [*size, *3 * [ptr], i32, *4 * [ptr], i32],
    }
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = arguments, None
    library.hidden_chunk_rows.restype = i64
    return library


def fused_hidden(x: Tensor, layers: Sequence[FusedHidden], training: bool) -> Tensor:
    """The layers one after another.

    In training, batch statistics normalise and update the running ones, and dropout takes its
    seed from torch's default generator (one draw per call): the same seed gives the same masks,
    whatever the number of threads. Otherwise there is no gradient.

    Args:
        x: Input of the first layer, float32 on the CPU, as are all parameters. With batch
            normalisation at least two rows in training.
        layers: At least one; each layer's input width is the output width of the one before.
        training: Batch statistics, dropout and gradients.

    Shape:
        x       [B, I]
        return  [B, O]

    Raises:
        RuntimeError: The kernel could not be built; see `fused_hidden_kernel`.
    """
    if not training:
        with torch.no_grad():
            return _infer(x, layers)
    parameters = [parameter for layer in layers for parameter in layer.parameters]
    return _FusedHidden.apply(x, tuple(layers), *parameters)


def fused_cross(x: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """Full-rank cross layers one after another: `x_{l+1} = x_0 * (W_l x_l + b_l) + x_l`.

    Args:
        x: x_0, float32 on the CPU, as are all parameters.
        layers: At least one, as wide as `x`, with a bias.

    Shape:
        x       [B, I]
        return  [B, I]

    Raises:
        RuntimeError: The kernel could not be built; see `fused_hidden_kernel`.
    """
    parameters = [parameter for layer in layers for parameter in (layer.weight, layer.bias)]
    return _FusedCross.apply(x, *parameters)


@dataclass(frozen=True)
class _Saved:
    """What one layer's backward pass needs; tensors are places in `ctx.saved_tensors`."""

    input: int
    weight: int
    bits: int
    scale: float
    norm: int | None  # z, mean, inverse_std and gain, in this order
    halves: int | None  # u and v, in this order


class _FusedHidden(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, layers: tuple[FusedHidden, ...], *parameters: Tensor | None
    ) -> Tensor:
        tensors: list[Tensor] = []
        plan: list[_Saved] = []

        def keep(*saved: Tensor) -> int:
            tensors.extend(saved)
            return len(tensors) - len(saved)

        seed = 0
        if any(layer.dropout for layer in layers):
            seed = int(torch.randint(2**63 - 1, ()).item())
        x = x.contiguous()
        for index, layer in enumerate(layers):
            weight, norm = layer.linear.weight.contiguous(), layer.norm
            z, bias, u, v = _product(x, weight, layer)
            bits = torch.empty(
                len(z), -(-z.shape[1] // _kernel().hidden_lanes()), dtype=torch.int16
            )
            place, halves, at, out = None, None, keep(x, weight, bits), z
            if u is not None and v is not None:
                halves, out = keep(u, v), torch.empty_like(z)
            factor: Tensor | None = None
            offset: Tensor = bias
            if norm is not None:
                mean, inverse_std, factor, offset = _normalise(z, bias, norm)
                place, out = keep(z, mean, inverse_std, norm.weight), torch.empty_like(z)
            scale = 1.0 / (1.0 - layer.dropout)
            threshold = min(round(layer.dropout * 2**32), 2**32 - 1)
            layer_seed = (seed + index * 0x9E3779B97F4A7C15) % 2**64
            _call("hidden_activate", z, factor, offset, scale, threshold, layer_seed, out, bits)
            plan.append(_Saved(at, at + 1, at + 2, scale, place, halves))
            x = out
        ctx.plan = plan
        ctx.save_for_backward(*tensors)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # also checks that no parameter was changed since
        gradients: list[Tensor | None] = []
        dy, dz = d_out.contiguous(), torch.empty(d_out.shape)  # the caller's stays as it is
        for index in range(len(ctx.plan) - 1, -1, -1):
            layer: _Saved = ctx.plan[index]
            x, weight = saved[layer.input], saved[layer.weight]
            sums = torch.empty(3, dy.shape[1])  # of bias, gain and shift
            _differentiate(dy, dz, layer, saved, sums)
            d_bias = sums[0]
            if layer.halves is not None:
                dz = _differentiate_products(dz, *saved[layer.halves : layer.halves + 2])
                d_bias = dz.sum(0)
            d_weight = torch.mm(dz.T, x) if ctx.needs_input_grad[2 + 4 * index] else None
            normalised = layer.norm is not None
            gradients[:0] = (d_weight, d_bias, *(sums[1:] if normalised else (None, None)))
            if index or ctx.needs_input_grad[0]:
                dy = dz = torch.mm(dz, weight)
        return dy if ctx.needs_input_grad[0] else None, None, *gradients


def _product(
    x: Tensor, weight: Tensor, layer: FusedHidden
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """What is normalised and rectified, the bias that joins it there, and both halves of a
    factorised layer, whose bias has joined (the product of the halves needs it)."""
    z = torch.mm(x, weight.T)
    if not layer.factorize:
        return z, layer.linear.bias, None, None
    u, v = z.add_(layer.linear.bias).chunk(2, dim=1)
    if layer.factorize == "concat":
        product, v = v, v.clone()
        product.mul_(u)
    else:
        z = torch.addcmul(u, u, v)
    return z, torch.zeros(z.shape[1]), u, v


def _differentiate_products(dz: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """The gradient of [u, v], from that of [u, u * v] (overwritten) or of u + u * v."""
    if dz.shape == u.shape:
        return torch.cat([torch.addcmul(dz, dz, v), dz * u], dim=1)
    d_u, d_product = dz.chunk(2, dim=1)
    d_u.addcmul_(d_product, v)
    d_product.mul_(u)
    return dz


def _normalise(z: Tensor, bias: Tensor, norm: nn.BatchNorm1d) -> tuple[Tensor, ...]:
    """Mean and inverse deviation of `z`, and the factor and offset that normalise it."""
    width = z.shape[1]
    mean, inverse_std, factor, offset = torch.empty(4, width)
    _call(
        "hidden_normalise",
        z,
        bias,
        norm.weight,
        norm.bias,
        norm.eps,
        norm.momentum,
        norm.running_mean,
        norm.running_var,
        _partial_sums(z),
        mean,
        inverse_std,
        factor,
        offset,
    )
    if norm.num_batches_tracked is not None:
        norm.num_batches_tracked.add_(1)
    return mean, inverse_std, factor, offset


def _differentiate(
    dy: Tensor, dz: Tensor, layer: _Saved, saved: Sequence[Tensor], sums: Tensor
) -> None:
    """Fill `dz` and the column sums from the gradient `dy` of the layer's output."""
    norm = (None,) * 4 if layer.norm is None else saved[layer.norm : layer.norm + 4]
    coefficients = torch.empty_like(sums)
    partial = _partial_sums(dy)
    bits = saved[layer.bits]
    _call("hidden_backward", dy, bits, layer.scale, *norm, partial, coefficients, dz, *sums)


def _infer(x: Tensor, layers: Sequence[FusedHidden]) -> Tensor:
    x = x.contiguous()
    for layer in layers:
        z, offset, _, _ = _product(x, layer.linear.weight, layer)
        factor: Tensor | None = None
        norm = layer.norm
        if norm is not None:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
            offset = norm.bias + (offset - norm.running_mean) * factor
        _call("hidden_activate", z, factor, offset, 1.0, 0, 0, z, None)
        x = z
    return x


class _FusedCross(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        x = x.contiguous()
        crossed, saved = x, []
        for weight, bias in zip(parameters[::2], parameters[1::2], strict=True):
            mapped = torch.mm(crossed, weight.T)
            out = torch.empty_like(x)
            _call("cross_forward", x, crossed, bias, mapped, out)
            saved += [crossed, mapped, weight]
            crossed = out
        ctx.save_for_backward(*saved)
        return crossed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        x = saved[0]
        gradients: list[Tensor | None] = []
        dy, dx, d_mapped = d_out.contiguous(), torch.empty_like(x), torch.empty_like(x)
        partial, last = _partial_sums(x), len(saved) // 3 - 1
        for index in range(last, -1, -1):
            crossed, mapped, weight = saved[3 * index : 3 * index + 3]
            d_bias = torch.empty(x.shape[1])
            arguments = (dy, x, mapped, int(index == last), partial, d_mapped, dx, d_bias)
            _call("cross_backward", *arguments)
            wanted = ctx.needs_input_grad[1 + 2 * index]
            gradients[:0] = (torch.mm(d_mapped.T, crossed) if wanted else None, d_bias)
            if index == last:
                dy = torch.addmm(dy, d_mapped, weight)
            else:
                dy.addmm_(d_mapped, weight)
        return dx.add_(dy) if ctx.needs_input_grad[0] else None, *gradients


def _partial_sums(like: Tensor) -> Tensor:
    """Room for two sums per column and chunk of rows, and for their totals."""
    chunks = -(-len(like) // _kernel().hidden_chunk_rows())
    return torch.empty(2 * like.shape[1] * (chunks + 1), dtype=torch.float64)


def _kernel() -> ctypes.CDLL:
    library = fused_hidden_kernel()
    if library is None:
        raise RuntimeError(
            "the fused kernel of hidden layers could not be built; use kernel=torch."
        )
    return library


def _call(name: str, first: Tensor, *arguments: Tensor | float | None) -> None:
    """Call the kernel with the shape of `first`, then everything, then the threads."""
    values = (
        value.data_ptr() if isinstance(value, Tensor) else value for value in (first, *arguments)
    )
    getattr(_kernel(), name)(*first.shape, *values, torch.get_num_threads())
