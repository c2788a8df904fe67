"""Dice: an activation that bends where the data of its unit lies.

Source    Zhou et al., KDD 2018, arXiv:1706.06978, Eq. 9; eps and the moving averages' momentum as
          its authors' code and FuxiCTR choose them.
Differs   Statistics are over the rows it is given and nothing else: a jagged [P, H] has no padded
          positions that could enter them, which every padded implementation lets in.
Letters   P rows (events, or rows of a batch), H units.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsys.layers.segments import raw_float32
from recsys.native import load_kernel


class Dice(nn.BatchNorm1d):
    """`f(s) = p(s) s + (1 - p(s)) alpha s`, with p the sigmoid of s normalised per unit.

    A batch normalisation without gain and shift, so that whatever looks for layers that mix the
    rows of a batch finds it. In training the rows' own mean and population variance normalise (and
    gradients flow through both); in evaluation their moving averages do. No rows give no rows and
    leave the averages alone; one row is its own mean, so that p = 1/2, and has no sample variance
    to add to the averages, which it leaves alone too.

    Args:
        num_units: H.
        eps: Added to the variance.
        momentum: Weight of the newest batch in the moving averages, in (0, 1].

    Shape:
        x       [P, H]
        return  [P, H]

    Example:
        >>> Dice(2)(torch.tensor([[1.0, -1.0], [3.0, 1.0]])).detach()
        tensor([[ 0.2689, -0.2689],
                [ 2.1932,  0.7311]])
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, num_units: int, *, eps: float = 1e-8, momentum: float = 0.01) -> None:
        super().__init__(num_units, eps=eps, momentum=momentum, affine=False)
        self.alpha = nn.Parameter(torch.zeros(num_units))

    def forward(self, x: Tensor) -> Tensor:
        if not x.shape[0]:
            return x * (1 + 0 * self.alpha)  # keeps alpha in the graph
        if raw_float32(x, self.alpha, self.running_mean) and dice_kernel() is not None:
            return self._by_kernel(x.contiguous())
        if self.training:
            mean, variance = x.mean(0), x.var(0, correction=0)
            self._move_averages(mean.detach(), variance.detach(), x.shape[0])
        else:
            mean, variance = self.running_mean, self.running_var
        p = ((x - mean) * (variance + self.eps).rsqrt()).sigmoid()
        return x * (self.alpha + (1 - self.alpha) * p)

    def _by_kernel(self, x: Tensor) -> Tensor:
        if self.training:
            mean, variance = column_statistics(x.detach())
            self._move_averages(mean, variance, x.shape[0])
        else:
            mean, variance = self.running_mean.double(), self.running_var.double()
        scale = (variance + self.eps).rsqrt().float()
        if torch.is_grad_enabled():
            out: Tensor = _Dice.apply(x, self.alpha, mean.float(), scale, self.training)
            return out
        return _forward(x, self.alpha, mean.float(), scale)

    @torch.no_grad()
    def _move_averages(self, mean: Tensor, variance: Tensor, num_rows: int) -> None:
        """As batch normalisation does, with the sample variance."""
        if num_rows < 2:
            return
        assert self.momentum is not None
        sample = variance * (num_rows / (num_rows - 1))
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
        self.running_var.lerp_(sample.to(self.running_var.dtype), self.momentum)
        if self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)


@functools.cache
def dice_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    i32, i64, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    signatures = {
        "dice_statistics": [*5 * [ptr], i32],
        "dice_forward": [*5 * [ptr], i32],
        "dice_backward": [*5 * [ptr], i32, *4 * [ptr], i32],
    }
    for name, arguments in signatures.items():
        function = getattr(library, name)
        function.argtypes, function.restype = [i64, i64, *arguments], None
    library.dice_chunk_rows.restype = i64
    return library


class _Dice(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, alpha: Tensor, mean: Tensor, scale: Tensor, batch: bool
    ) -> Tensor:
        ctx.save_for_backward(x, alpha, mean, scale)
        ctx.batch = batch
        return _forward(x, alpha, mean, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, alpha, mean, scale = ctx.saved_tensors
        d_x, d_alpha = torch.empty_like(x), torch.empty_like(alpha)
        rest = (dy.contiguous(), int(ctx.batch), *_room(x, 3), d_x, d_alpha)
        _call("dice_backward", x, x, mean, scale, alpha, *rest)
        return d_x, d_alpha, None, None, None


def column_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population variance of every column, [H] float64 each; the kernel must be there."""
    mean, variance = torch.empty(2, x.shape[1], dtype=torch.float64)
    _call("dice_statistics", x, x, *_room(x, 2), mean, variance)
    return mean, variance


def _forward(x: Tensor, alpha: Tensor, mean: Tensor, scale: Tensor) -> Tensor:
    y = torch.empty_like(x)
    _call("dice_forward", x, x, mean, scale, alpha, y)
    return y


def _room(x: Tensor, sums: int) -> tuple[Tensor, Tensor]:
    """Room for `sums` sums per unit: of every chunk of rows, and of all."""
    library = dice_kernel()
    assert library is not None
    chunks = -(-x.shape[0] // library.dice_chunk_rows())
    return torch.empty(chunks, sums, x.shape[1]), torch.empty(sums, x.shape[1], dtype=torch.float64)


def _call(name: str, first: Tensor, *arguments: Tensor | int) -> None:
    """Call the kernel with the shape of `first`, then everything, then the threads."""
    values = (value.data_ptr() if isinstance(value, Tensor) else value for value in arguments)
    getattr(dice_kernel(), name)(*first.shape, *values, torch.get_num_threads())
