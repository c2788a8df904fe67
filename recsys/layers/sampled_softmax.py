"""The softmax over a catalogue, estimated from the items of a batch.

Letters   B rows, Q distinct items of a batch, D width, I items of the catalogue, c rows of a block.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK_LOGITS = 1 << 20
"""Logits at a time, 4 MiB: they are read back from the cache."""


def log_inclusion(shares: Tensor, draws: int, uniform: int, num_items: int) -> Tensor:
    """Log of the probability that an item is among the distinct items of some draws.

        log(1 - (1 - share)^draws (1 - 1 / I)^uniform)

    Args:
        shares: Probability of each item in a draw from the training stream [Q], float64.
        draws: Draws from the training stream.
        uniform: Further draws, from the whole catalogue.
        num_items: I.

    Returns:
        [Q] of the dtype of `shares`; -inf for an item that cannot be drawn.

    Example:
        >>> log_inclusion(torch.tensor([0.5, 1.0]), 2, 0, 10).exp()
        tensor([0.7500, 1.0000])
    """
    absent = torch.zeros_like(shares)
    if draws:  # 0 times the logarithm of 0 is no number
        absent = draws * torch.log1p(-shares)
    if uniform:
        never = math.log1p(-1 / num_items) if num_items > 1 else -math.inf
        absent = absent + uniform * never
    return torch.log(-torch.expm1(absent))


def sampled_softmax(
    users: Tensor,
    items: Tensor,
    positives: Tensor,
    log_probability: Tensor | None = None,
    hidden: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Cross-entropy of each row's item among those of the batch, which stand for the catalogue.

        mean_a -log( exp(s_aa) / (exp(s_aa) + sum_b exp(s_ab) / p_b) ),   s = users items^T

    where b are the items other than the row's own, each once, and p_b is the probability that b is
    there. The sum then has the expectation of that over the whole catalogue (Horvitz and Thompson,
    JASA 1952): the loss and its gradient approach those of the full softmax as more items are
    there. The row's own item is there for certain, so it is not divided; as every item has one
    column, it is never a negative of the rows that have it. Blocks of rows at a time, so that
    memory grows with (B + Q) D and not with B Q; differentiable once.

    Args:
        users: Vectors of the rows, divided by the temperature.
        items: Vectors of the distinct items.
        positives: Column of each row's own item.
        log_probability: log p; None does not correct.
        hidden: Rows, ascending, and columns of items that are no negatives of these rows; a row's
            own item may be among them.

    Shape:
        users            [B, D]
        items            [Q, D]
        positives        [B]          int64
        log_probability  [Q]
        hidden           [n] and [n]  int64
        return           []

    Source: Bengio and Senecal, AISTATS 2003; logQ as in Yi et al., RecSys 2019, Eq. 3.
    Differs: Yi et al. take an item once for every row that has it, and correct the row's own item
        as well, although it was not drawn by chance. Why: that tends to another loss than the full
        softmax as soon as accidental hits are left out (see also arXiv:2507.09331).

    Example:
        >>> sampled_softmax(torch.eye(2), torch.eye(2), torch.tensor([0, 1]))
        tensor(0.3133)
    """
    if hidden is None:
        none = torch.empty(0, dtype=torch.int64, device=users.device)
        hidden = none, none
    offsets = torch.zeros(len(items), dtype=items.dtype, device=items.device)
    if log_probability is not None:
        offsets -= log_probability.to(items.dtype)
    loss: Tensor = _SampledSoftmax.apply(users, items, positives, offsets, *hidden)
    return loss


class _SampledSoftmax(torch.autograd.Function):
    """The loss is one number, so its gradients are known up to a factor once it is: each block's
    logits are made and exponentiated once, not again on the way back."""

    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        items: Tensor,
        positives: Tensor,
        offsets: Tensor,
        rows: Tensor,
        columns: Tensor,
    ) -> Tensor:
        count = len(users)
        own = items[positives]
        wanted = (users * own).sum(1)
        d_users, d_items = torch.empty_like(users), torch.zeros_like(items)
        total = users.new_zeros(())
        step = max(BLOCK_LOGITS // len(items), 1)
        starts = torch.arange(0, count + step, step, device=rows.device)
        cuts = torch.searchsorted(rows.contiguous(), starts).tolist()
        for block, start in enumerate(range(0, count, step)):
            part = users[start : start + step]
            mine = wanted[start : start + step, None]
            logits = torch.addmm(offsets, part, items.T)
            inside = slice(cuts[block], cuts[block + 1])
            logits[rows[inside] - start, columns[inside]] = -math.inf
            logits.scatter_(1, positives[start : start + step, None], mine)
            highest = logits.amax(1, keepdim=True)
            shares = logits.sub_(highest).exp_()
            sums = shares.sum(1, keepdim=True)
            total += (sums.log() + highest - mine).sum()
            shares.div_(sums)
            d_users[start : start + step] = shares @ items
            d_items.addmm_(shares.T, part)
        scale = 1.0 / max(count, 1)
        d_items.index_add_(0, positives, users, alpha=-1)
        ctx.save_for_backward(d_users.sub_(own).mul_(scale), d_items.mul_(scale))
        return total * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        d_users, d_items = ctx.saved_tensors
        return gradient * d_users, gradient * d_items, None, None, None, None
