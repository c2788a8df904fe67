"""Cross-entropy of every item as a negative of every row, and of items chosen for each row.

The loss of B rows against J items is a [B, J] matrix of scores, weighted and summed. It is made and
used up in blocks: one pass computes the loss and both gradients, and nothing of size B x I is kept.
Three matrix products of 2 B I D operations each (one for the loss alone) bound the time; the
elementwise part between them is a kernel, `all_items_loss.cpp`, or torch. Chosen items are read
where they lie, loss and gradients in one pass again: 6 B n D operations.

Letters   B rows, I items, D width, J items of a block, G groups of rows, n items of a group.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.layers.segments import raw_float32
from recsys.native import load_kernel

BLOCK_ROWS, BLOCK_ITEMS = 512, 256  # 0.5 MiB of scores: they stay in the second-level cache
BLOCK_SCORES_GPU = 1 << 25  # 128 MiB
BLOCK_GATHERED = 1 << 22  # numbers gathered at a time by the plain form: 16 MiB


def all_items_loss(
    users: Tensor, items: Tensor, row_weights: Tensor, row_scales: Tensor, item_scales: Tensor
) -> Tensor:
    """Weighted cross-entropy of all scores users[b] . items[j] against label 0.

    The sum of softplus(score) times row_weights[b] + row_scales[b] * item_scales[j]. Gradients
    reach `users` and `items`, once.

    Raises:
        ValueError: the weights have another shape.

    Shape:
        users        [B, D]
        items        [I, D]
        row_weights  [B]
        row_scales   [B]
        item_scales  [I]
        return       scalar

    Example:
        >>> ones, twos = torch.ones(1), torch.full((2,), 2.0)
        >>> all_items_loss(torch.zeros(1, 4), torch.zeros(2, 4), ones, ones, twos) / 6
        tensor(0.6931)
    """
    rows, columns = row_weights.shape + row_scales.shape, item_scales.shape
    if rows != (len(users), len(users)) or columns != (len(items),):
        raise ValueError(
            f"weights {list(row_weights.shape)}, {list(row_scales.shape)} and {list(columns)} for "
            f"users {list(users.shape)} and items {list(items.shape)}; give one for each row, one "
            "for each row, and one for each item."
        )
    loss: Tensor = _AllItems.apply(users, items, row_weights, row_scales, item_scales)
    return loss


def chosen_items_loss(
    users: Tensor, items: Tensor, chosen: Tensor, weights: Tensor, *, label: int
) -> Tensor:
    """Weighted cross-entropy of users[b] . items[j] over the items j chosen for row b's group.

    Rows are cut into G runs of equal length (the last may be shorter), and rows of a run share
    their items; G = B gives each row its own. An item may be chosen several times.

    Args:
        label: 1 for items that users have, softplus(-score); 0 for others, softplus(score).

    Raises:
        ValueError: the weights have another shape.
        IndexError: a chosen item does not exist.

    Shape:
        users    [B, D]
        items    [I, D]
        chosen   [G, n]  int64
        weights  [B, n]
        return   scalar

    Example:
        >>> users, items = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [1.0], [2.0]])
        >>> chosen, weights = torch.tensor([[1], [2]]), torch.ones(2, 1)
        >>> chosen_items_loss(users, items, chosen, weights, label=0)  # of scores 1 and 4
        tensor(5.3314)
    """
    if weights.shape != (len(users), chosen.shape[1]):
        raise ValueError(
            f"weights {list(weights.shape)}, but {len(users)} rows with {chosen.shape[1]} chosen "
            "items each need one for every row and item."
        )
    if chosen.device.type == "cpu" and chosen.numel():  # a GPU checks for itself, without waiting
        low, high = (int(end) for end in chosen.aminmax())
        if low < 0 or high >= len(items):
            raise IndexError(
                f"chosen items run from {low} to {high}, but there are {len(items):,}: allowed are "
                f"0 to {len(items) - 1}."
            )
    loss: Tensor = _ChosenItems.apply(users, items, chosen, weights, label)
    return loss


def group_length(rows: int, groups: int) -> int:
    """Rows of a group when `rows` are cut into `groups` runs."""
    return max(1, -(-rows // max(groups, 1)))


class _AllItems(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        items: Tensor,
        row_weights: Tensor,
        row_scales: Tensor,
        item_scales: Tensor,
    ) -> Tensor:
        wanted = any(ctx.needs_input_grad[:2])
        users, items = users.contiguous(), items.contiguous()
        d_users = torch.zeros_like(users) if wanted else None
        d_items = torch.zeros_like(items) if wanted else None
        losses = users.new_zeros(len(users), dtype=torch.float64)
        row_blocks, item_blocks = _block_sizes(users, len(items))
        for rows in _slices(len(users), row_blocks):
            weights = row_weights[rows].contiguous(), row_scales[rows].contiguous()
            for block in _slices(len(items), item_blocks):
                part = users[rows], items[block]
                gradient = _weigh(part[0] @ part[1].T, *weights, item_scales[block], losses[rows])
                if d_users is not None and d_items is not None:
                    d_users[rows].addmm_(gradient, part[1])
                    d_items[block].addmm_(gradient.T, part[0])
        ctx.save_for_backward(d_users, d_items)
        return losses.sum().to(users.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        return *_scaled(ctx.saved_tensors, d_loss), None, None, None


class _ChosenItems(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, users: Tensor, items: Tensor, chosen: Tensor, weights: Tensor, label: int
    ) -> Tensor:
        users, items, chosen = users.contiguous(), items.contiguous(), chosen.contiguous()
        weights = weights.clone(memory_format=torch.contiguous_format)
        native = raw_float32(users, items, weights) and all_items_kernel() is not None
        run = _chosen_by_kernel if native else _chosen_plain
        loss, d_users, d_items = run(users, items, chosen, weights, 2 * label - 1)
        ctx.save_for_backward(d_users, d_items)
        return loss.to(users.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor) -> tuple[Tensor | None, ...]:
        return *_scaled(ctx.saved_tensors, d_loss), None, None, None


def _chosen_by_kernel(
    users: Tensor, items: Tensor, chosen: Tensor, weights: Tensor, sign: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss and both gradients; `weights` are used up."""
    kernel = all_items_kernel()
    assert kernel is not None
    length = group_length(len(users), len(chosen))
    losses = users.new_empty(len(users), dtype=torch.float64)
    d_users, d_items = torch.empty_like(users), torch.zeros_like(items)
    shape, threads = (*users.shape, length, chosen.shape[1]), torch.get_num_threads()
    first = (t.data_ptr() for t in (users, items, chosen, weights, losses, d_users))
    kernel.chosen_forward(*shape, sign, *first, threads)
    second = (t.data_ptr() for t in (users, chosen, weights, d_items))
    kernel.chosen_backward(*shape, len(items), *second, threads)
    return losses.sum(), d_users, d_items


def _chosen_plain(
    users: Tensor, items: Tensor, chosen: Tensor, weights: Tensor, sign: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel in torch, some groups at a time."""
    length, (_, n), dim = group_length(len(users), len(chosen)), chosen.shape, users.shape[1]
    loss = users.new_zeros((), dtype=torch.float64)
    d_users, d_items = torch.zeros_like(users), torch.zeros_like(items)
    step = max(1, BLOCK_GATHERED // max(n * dim, 1))
    for groups in _slices(-(-len(users) // length), step):
        first, stop = groups.start * length, min(groups.stop * length, len(users))
        missing = len(chosen[groups]) * length - (stop - first)  # of the last group
        part = nnf.pad(users[first:stop], (0, 0, 0, missing)).view(-1, length, dim)
        weight = nnf.pad(weights[first:stop], (0, 0, 0, missing)).view(-1, length, n)
        gathered = items[chosen[groups]]
        scores = torch.bmm(part, gathered.transpose(1, 2)) * -sign
        loss += (weight * nnf.softplus(scores, threshold=50.0)).sum(dtype=torch.float64)
        gradient = scores.sigmoid_() * weight * -sign
        d_users[first:stop] = torch.bmm(gradient, gathered).view(-1, dim)[: stop - first]
        d_gathered = torch.bmm(gradient.transpose(1, 2), part)
        d_items.index_add_(0, chosen[groups].flatten(), d_gathered.view(-1, dim))
    return loss, d_users, d_items


def _weigh(
    scores: Tensor, row_weights: Tensor, row_scales: Tensor, item_scales: Tensor, losses: Tensor
) -> Tensor:
    """Add each row's weighted softplus to `losses`, and return weight times sigmoid, [B, J]."""
    numbers = (scores, row_weights, row_scales, item_scales)
    kernel = all_items_kernel() if raw_float32(*numbers) else None
    if kernel is None:
        weights = row_weights.unsqueeze(1) + row_scales.unsqueeze(1) * item_scales
        losses += (weights * nnf.softplus(scores, threshold=50.0)).sum(1, dtype=torch.float64)
        return scores.sigmoid_().mul_(weights)
    addresses = (t.data_ptr() for t in (row_weights, row_scales, item_scales, scores, losses))
    kernel.weigh_scores(*scores.shape, *addresses, torch.get_num_threads())
    return scores


def _scaled(gradients: tuple[Tensor | None, ...], d_loss: Tensor) -> list[Tensor | None]:
    """Gradients times the loss's own; a plain sum of losses has 1, and nothing is copied."""
    if d_loss.device.type == "cpu" and d_loss.item() == 1.0:
        return list(gradients)
    return [None if gradient is None else gradient * d_loss for gradient in gradients]


def _block_sizes(users: Tensor, num_items: int) -> tuple[int, int]:
    if users.device.type == "cpu":
        return BLOCK_ROWS, BLOCK_ITEMS
    rows = min(max(len(users), 1), 8192)
    return rows, max(1, min(num_items, BLOCK_SCORES_GPU // rows))


def _slices(length: int, step: int) -> list[slice]:
    return [slice(start, min(start + step, length)) for start in range(0, length, max(step, 1))]


@functools.cache
def all_items_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is not None:
        i32, i64, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
        library.weigh_scores.argtypes = [i64, i64, *5 * [ptr], i32]
        library.chosen_forward.argtypes = [*4 * [i64], ctypes.c_float, *6 * [ptr], i32]
        library.chosen_backward.argtypes = [*5 * [i64], *4 * [ptr], i32]
        for function in (library.weigh_scores, library.chosen_forward, library.chosen_backward):
            function.restype = None
    return library
