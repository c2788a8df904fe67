"""The contrastive loss between two views of the same rows.

Letters   n rows, D width, c rows of a block.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_LOGITS = 1 << 20
"""Logits at a time, 4 MiB: they are read back from the cache."""


def info_nce(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """Each row's first view must find its second view among all of them, by cosine.

        mean_a -log( exp(cos(x_a, y_a) / t) / sum_b exp(cos(x_a, y_b) / t) )

    Source: van den Oord et al., arXiv:1807.03748, Eq. 4, as in SimGCL (arXiv:2112.08679, Eq. 2).
    Blocks of rows at a time, so memory grows with n D, not n^2; differentiable once.

    Shape:
        first   [n, D]
        second  [n, D]
        return  []

    Example:
        >>> info_nce(torch.eye(2), torch.eye(2), temperature=0.5)
        tensor(0.1269)
    """
    views = nnf.normalize(first, dim=1), nnf.normalize(second, dim=1)
    loss: Tensor = _InfoNCE.apply(*views, temperature)
    return loss


class _InfoNCE(torch.autograd.Function):
    """The loss is one number, so its gradients are known up to a factor once it is: each block's
    logits are made and exponentiated once, not again on the way back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, temperature: float) -> Tensor:
        count = len(x)
        d_x, d_y = torch.empty_like(x), torch.zeros_like(y)
        total = x.new_zeros(())
        step = max(BLOCK_LOGITS // max(count, 1), 1)
        for start in range(0, count, step):
            part = x[start : start + step]
            own = y[start : start + step]
            logits = (part @ y.T).div_(temperature)
            wanted = (part * own).sum(1) / temperature
            highest = logits.amax(1, keepdim=True)
            shares = logits.sub_(highest).exp_()
            sums = shares.sum(1, keepdim=True)
            total += (sums.log() + highest).sum() - wanted.sum()
            shares.div_(sums)
            d_x[start : start + step] = shares @ y - own
            d_y.addmm_(shares.T, part)
            d_y[start : start + step] -= part
        scale = 1.0 / (temperature * max(count, 1))
        ctx.save_for_backward(d_x.mul_(scale), d_y.mul_(scale))
        return total / max(count, 1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        d_x, d_y = ctx.saved_tensors
        return gradient * d_x, gradient * d_y, None
