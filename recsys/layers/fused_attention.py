"""A stack of `FieldAttention` layers as one CPU kernel, with its gradient.

Same numbers as the layers one after another, to rounding, though dropout draws other random bits
than torch's; the work is in fused_attention.cpp.
Letters   B rows, F slots, D input width, O output width.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.native import load_kernel


class _Layer(ctypes.Structure):
    """Mirror of `struct Layer` in fused_attention.cpp."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "gain", "bias")),
        *((name, ctypes.c_void_p) for name in ("d_weight", "d_gain", "d_bias")),
        *((name, ctypes.c_int32) for name in ("in_dim", "out_dim", "heads", "residual")),
        *((name, ctypes.c_float) for name in ("scale", "epsilon", "dropout")),
        ("seed", ctypes.c_uint32),
    ]


@dataclass(frozen=True)
class FusedLayer:
    """One layer's weights and options, as the kernel reads them.

    Shape:
        weight      [3 or 4, O, D]  W_Q, W_K, W_V and, to project the residual, W_Res
        gain, bias  [O]             of the normalisation, or None without
    """

    weight: Tensor
    num_heads: int
    residual: bool
    scale: float
    gain: Tensor | None = None
    bias: Tensor | None = None
    epsilon: float = 0.0
    dropout: float = 0.0
    """Probability on attention weights, of this call: 0 outside training."""
    seed: int = 0
    """Chooses the weights that are dropped; `fused_attention` draws it."""

    @property
    def parameters(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        return self.weight, self.gain, self.bias


@functools.cache
def fused_attention_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    layers, i32, i64, ptr = ctypes.POINTER(_Layer), ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    library.attention_lanes.argtypes = []
    library.attention_saved_floats.argtypes = [layers, i32, i32]
    library.attention_saved_floats.restype = i64
    for function in (library.attention_forward, library.attention_backward):
        function.argtypes = [layers, i32, i64, i32, ptr, ptr, ptr, i32]
    return library


def fused_attention(fields: Tensor, layers: Sequence[FusedLayer]) -> Tensor:
    """The layers one after another, in one pass over the rows.

    Args:
        fields: Input of the first layer, float32 on the CPU, as are all parameters.
        layers: At least one; each layer's width D is the O of the one before.

    Shape:
        fields  [B, F, D]
        return  [B, F, O]

    Raises:
        RuntimeError: The kernel could not be built; see `fused_attention_kernel`.
        MemoryError: There is no room for a thread's tiles.
    """
    if any(layer.dropout for layer in layers):
        seeds = torch.randint(2**32, (len(layers),)).tolist()
        layers = [replace(layer, seed=seed) for layer, seed in zip(layers, seeds, strict=True)]
    parameters = [parameter for layer in layers for parameter in layer.parameters]
    inputs = [fields, *(p for p in parameters if p is not None)]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in inputs):
        return _FusedAttention.apply(fields, tuple(layers), *parameters)
    return _forward(fields.contiguous(), layers, keep=False)[0]


class _FusedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, fields: Tensor, layers: tuple[FusedLayer, ...], *parameters: Tensor | None
    ) -> Tensor:
        out, saved = _forward(fields.contiguous(), layers, keep=True)
        ctx.layers, ctx.shape = layers, fields.shape
        ctx.save_for_backward(saved, *parameters)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        saved, *_ = ctx.saved_tensors  # also checks that no parameter was changed since
        d_fields = torch.empty(ctx.shape) if ctx.needs_input_grad[0] else None
        gradients = [
            tuple(None if p is None else torch.empty_like(p) for p in layer.parameters)
            for layer in ctx.layers
        ]
        _call(
            "attention_backward",
            _describe(ctx.layers, gradients),
            ctx.shape,
            d_out.contiguous(),
            saved,
            d_fields,
        )
        return d_fields, None, *(gradient for layer in gradients for gradient in layer)


def _forward(
    fields: Tensor, layers: Sequence[FusedLayer], keep: bool
) -> tuple[Tensor, Tensor | None]:
    library, described = _kernel(), _describe(layers)
    saved = None
    if keep:
        lanes = library.attention_lanes()
        tile = library.attention_saved_floats(described, len(layers), fields.shape[1])
        saved = torch.empty(-(-fields.shape[0] // lanes) * tile)
    out = torch.empty(*fields.shape[:2], layers[-1].weight.shape[1])
    _call("attention_forward", described, fields.shape, fields, out, saved)
    return out, saved


def _kernel() -> ctypes.CDLL:
    library = fused_attention_kernel()
    if library is None:
        raise RuntimeError("the fused attention kernel could not be built; use kernel=torch.")
    return library


def _describe(
    layers: Sequence[FusedLayer], gradients: Sequence[tuple[Tensor | None, ...]] | None = None
) -> ctypes.Array[_Layer]:
    """The layers as a C array. It holds addresses: the tensors must outlive it."""
    described = (_Layer * len(layers))()
    for index, (target, layer) in enumerate(zip(described, layers, strict=True)):
        parts, target.out_dim, target.in_dim = layer.weight.shape
        target.heads = layer.num_heads
        target.residual = (2 if parts == 4 else 1) if layer.residual else 0
        target.scale, target.epsilon = layer.scale, layer.epsilon
        target.dropout, target.seed = layer.dropout, layer.seed
        target.weight, target.gain, target.bias = map(_address, layer.parameters)
        if gradients is not None:
            target.d_weight, target.d_gain, target.d_bias = map(_address, gradients[index])
    return described


def _address(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()


def _call(
    name: str, described: ctypes.Array[_Layer], shape: torch.Size, *tensors: Tensor | None
) -> None:
    batch, num_slots = shape[:2]
    function = getattr(_kernel(), name)
    addresses = map(_address, tensors)
    threads = torch.get_num_threads()
    if function(described, len(described), batch, num_slots, *addresses, threads):
        raise MemoryError(f"{name} found no memory for its tiles of {num_slots} slots.")
