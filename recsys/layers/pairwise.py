"""The pairwise loss over triples, and the rows of a batch that it needs.

Letters   B rows of a batch, n negatives of a row, D width, P users and Q items of a batch.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.data.triples import Triples
from recsys.layers.propagation import Both
from recsys.layers.segments import raw_float32
from recsys.native import load_kernel


@dataclass(frozen=True)
class BatchRows:
    """Users and items of a batch, each once, and where the batch has them.

    Example:
        >>> batch = Triples(torch.tensor([7, 7]), torch.tensor([3, 4]), torch.tensor([[5], [3]]))
        >>> rows = BatchRows.of(batch)
        >>> rows.once
        Both(users=tensor([7]), items=tensor([3, 4, 5]))
        >>> rows.counts
        Both(users=tensor([2]), items=tensor([2, 1, 1]))
        >>> rows.positives_once
        tensor([0, 1])
    """

    once: Both
    """Users [P] and items [Q], ascending."""
    counts: Both
    """How often the batch has each: users [P], items [Q]."""
    user_at: Tensor
    """The user of each row, [B]."""
    item_at: Tensor
    """The positive of each row, then the negatives of each, [B + B n]."""
    num_negatives: int

    @staticmethod
    def of(batch: Triples) -> BatchRows:
        """The rows of one batch."""
        users, user_at, user_counts = batch.users.unique(return_inverse=True, return_counts=True)
        drawn = torch.cat([batch.positives, batch.negatives.flatten()])
        items, item_at, item_counts = drawn.unique(return_inverse=True, return_counts=True)
        counts = Both(user_counts, item_counts)
        return BatchRows(Both(users, items), counts, user_at, item_at, batch.negatives.shape[1])

    @property
    def positives_once(self) -> Tensor:
        """Places among the items of those that are a positive of some row, each once."""
        return self.item_at[: len(self.user_at)].unique()


def bpr_loss(rows: BatchRows, vectors: Both) -> Tensor:
    """mean of -log sigmoid(u.i - u.j) over rows and negatives.

    Differentiable once where a compiled kernel computes it: on a CPU, in float32.

    Source: Rendle et al., UAI 2009, arXiv:1205.2618, section 4.1.

    Shape:
        vectors  [P, D] and [Q, D]
        return   []

    Example:
        >>> batch = Triples(torch.tensor([7]), torch.tensor([3]), torch.tensor([[5]]))
        >>> vectors = Both(torch.ones(1, 2), torch.tensor([[1.0, 1.0], [0.5, 0.5]]))
        >>> bpr_loss(BatchRows.of(batch), vectors)  # log(1 + 1 / e)
        tensor(0.3133)
    """
    if raw_float32(*vectors) and pairwise_kernel() is not None:
        loss: Tensor = _BPR.apply(vectors.users, vectors.items, rows)
        return loss
    size = len(rows.user_at)
    users = nnf.embedding(rows.user_at, vectors.users)
    items = nnf.embedding(rows.item_at, vectors.items)
    wanted = (users * items[:size]).sum(1, keepdim=True)
    negatives = items[size:].view(size, rows.num_negatives, -1)
    unwanted = (negatives @ users.unsqueeze(2)).squeeze(2)
    return nnf.softplus(unwanted - wanted).mean()


def squared_norms(rows: BatchRows, vectors: Both) -> Tensor:
    """(|u|^2 + |i|^2 + sum_j |j|^2) / 2, mean over rows; shapes as in `bpr_loss`."""
    total = sum(
        count.to(part.dtype) @ part.square().sum(1)
        for count, part in zip(rows.counts, vectors, strict=True)
    )
    return torch.as_tensor(total) / (2 * len(rows.user_at))


class _BPR(torch.autograd.Function):
    """`bpr_loss` by the kernel."""

    @staticmethod
    def forward(ctx: Any, users: Tensor, items: Tensor, rows: BatchRows) -> Tensor:
        library = pairwise_kernel()
        assert library is not None
        users, items = users.contiguous(), items.contiguous()
        size, n = len(rows.user_at), rows.num_negatives
        losses, slopes = users.new_empty(2, size, n).unbind()
        library.bpr_forward(
            size, n, users.shape[1], rows.user_at.data_ptr(), rows.item_at.data_ptr(),
            users.data_ptr(), items.data_ptr(), losses.data_ptr(), slopes.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        ctx.rows = rows
        ctx.save_for_backward(users, items, slopes)
        return losses.mean()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        library = pairwise_kernel()
        assert library is not None
        users, items, slopes = ctx.saved_tensors
        rows = ctx.rows
        d_users, d_items = torch.empty_like(users), torch.empty_like(items)
        library.bpr_backward(
            *slopes.shape, users.shape[1], len(users), len(items), rows.user_at.data_ptr(),
            rows.item_at.data_ptr(), users.data_ptr(), items.data_ptr(), slopes.data_ptr(),
            gradient.item() / slopes.numel(), d_users.data_ptr(), d_items.data_ptr(),
            torch.get_num_threads(),
        )  # fmt: skip
        return d_users, d_items, None


@functools.cache
def pairwise_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    i32, i64, f32, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    library.bpr_forward.argtypes = [*3 * [i64], *6 * [ptr], i32]
    library.bpr_backward.argtypes = [*5 * [i64], *5 * [ptr], f32, *2 * [ptr], i32]
    library.bpr_forward.restype = library.bpr_backward.restype = None
    return library
