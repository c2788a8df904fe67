"""Sums and softmaxes over the events of each row of a jagged batch.

Letters   B rows, P events of all rows end to end, D width.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsys.native import load_kernel


def row_of_event(offsets: Tensor, num_events: int) -> Tensor:
    """The row that each event belongs to, [P] int64, ascending."""
    rows = torch.arange(offsets.shape[0] - 1, device=offsets.device)
    return rows.repeat_interleave(offsets.diff(), output_size=num_events)


def segment_sum(values: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
    """Sum of each row's events, times their weights where given; no events, zeros.

    Shape:
        values   [P, D]
        offsets  [B + 1]  int64
        weights  [P]
        return   [B, D]

    Example:
        >>> segment_sum(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 2, 2, 3]))
        tensor([[3.],
                [0.],
                [4.]])
    """
    given = (values,) if weights is None else (values, weights)
    if raw_float32(*given) and offsets.is_contiguous() and segments_kernel() is not None:
        out: Tensor = _SegmentSum.apply(values, offsets, weights)
        return out
    weighted = values if weights is None else values * weights.unsqueeze(1)
    total = weighted.new_zeros(offsets.shape[0] - 1, values.shape[1])
    return total.index_add(0, row_of_event(offsets, values.shape[0]), weighted)


def segment_softmax(scores: Tensor, offsets: Tensor) -> Tensor:
    """Softmax of the scores among each row's events.

    Shape:
        scores   [P]
        offsets  [B + 1]  int64
        return   [P], adding up to 1 over every row that has events

    Example:
        >>> segment_softmax(torch.tensor([0.0, 0.0, 5.0]), torch.tensor([0, 2, 2, 3]))
        tensor([0.5000, 0.5000, 1.0000])
    """
    rows = row_of_event(offsets, scores.shape[0])
    empty = scores.new_full((offsets.shape[0] - 1,), float("-inf"))
    highest = empty.scatter_reduce(0, rows, scores.detach(), "amax")
    exponents = (scores - highest[rows]).exp()
    totals = exponents.new_zeros(empty.shape).index_add(0, rows, exponents)
    return exponents / totals[rows]


def raw_float32(*tensors: Tensor) -> bool:
    """True where kernels on raw float32 memory of a CPU can stand in for torch's operations."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    if torch.is_autocast_enabled("cpu"):
        return False
    return all(
        type(t) in (Tensor, nn.Parameter) and t.device.type == "cpu" and t.dtype == torch.float32
        for t in tensors
    )


@functools.cache
def segments_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    i32, i64, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    for name, pointers in (("segment_sum_forward", 4), ("segment_sum_backward", 6)):
        function = getattr(library, name)
        function.argtypes, function.restype = [i64, i64, *pointers * [ptr], i32], None
    return library


class _SegmentSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        values = values.contiguous()
        weights = None if weights is None else weights.contiguous()
        out = values.new_empty(offsets.shape[0] - 1, values.shape[1])
        _call("segment_sum_forward", out, offsets, values, weights, out)
        ctx.save_for_backward(values, offsets, weights)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
        values, offsets, weights = ctx.saved_tensors
        d_out = d_out.contiguous()
        d_values = torch.empty_like(values) if ctx.needs_input_grad[0] else None
        wanted = weights is not None and ctx.needs_input_grad[2]
        d_weights = torch.empty_like(weights) if wanted else None
        arguments = (offsets, values, weights, d_out, d_values, d_weights)
        _call("segment_sum_backward", d_out, *arguments)
        return d_values, None, d_weights


def _call(name: str, first: Tensor, *arguments: Tensor | None) -> None:
    """Call the kernel with the shape of `first`, then everything, then the threads."""
    library = segments_kernel()
    assert library is not None
    pointers = (None if one is None else one.data_ptr() for one in arguments)
    getattr(library, name)(*first.shape, *pointers, torch.get_num_threads())
