"""The k best items of every user, over the whole catalogue.

Every path gives the same lists for the same scores: items by descending score, those of equal
score by ascending number; excluded items and items of score minus infinity never appear; a user
with fewer than k candidates gets a shorter list. A NaN anywhere is an error.

Letters   U users, n users asked for, I items, D width, E excluded pairs, k length of a list.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from recsys.errors import ConfigError, NonFiniteError, SchemaError
from recsys.native import load_kernel

_TORCH_BYTES = 32  # per score of a block in the torch form: itself, keys, and what makes them
_CACHED_BLOCK, _LARGE_BLOCK = 24 << 20, 1 << 30  # bytes


class ItemLists(Protocol):
    """Which items each user has, such as `recsys.data.pairs.Pairs`."""

    @property
    def offsets(self) -> np.ndarray:
        """[U + 1] int64: user u has `items[offsets[u] : offsets[u + 1]]`."""

    @property
    def items(self) -> np.ndarray:
        """[E] int32, ascending within each user."""

    @property
    def num_items(self) -> int:
        """I."""


class TopItems(NamedTuple):
    """The best items of some users, best first."""

    items: Tensor
    """[n, k] int32; -1 after a user's last candidate."""
    scores: Tensor
    """[n, k] float32; minus infinity after a user's last candidate."""


def top_of_scores(
    scores: Tensor, users: Tensor, k: int, excluded: ItemLists | None = None
) -> TopItems:
    """The best items of some users by their scores.

    Args:
        scores: [n, I], on any device; compared as float32. Left as it is.
        users: [n] int64, whose items of `excluded` are left out.
        k: Length of a list, at most I.
        excluded: Items that are never recommended.

    Raises:
        ConfigError: k is not within 1 and I.
        NonFiniteError: a score is NaN; the message names the user and the item.
        SchemaError: shapes do not fit, or a user or an item of `excluded` is unknown.

    Example:
        >>> scores = torch.tensor([[0.5, 2.0, 0.5, 0.1], [3.0, 1.0, float("-inf"), 2.0]])
        >>> top_of_scores(scores, torch.tensor([0, 1]), k=3).items
        tensor([[1, 0, 2],
                [0, 3, 1]], dtype=torch.int32)
    """
    if scores.ndim != 2 or users.shape != scores.shape[:1]:
        raise SchemaError(
            f"scores of shape {tuple(scores.shape)} for users of shape {tuple(users.shape)}; "
            "allowed is one row of scores for each user."
        )
    num_items = scores.shape[1]
    check_length(k, num_items)
    if not len(users):
        return _empty(0, k, scores.device)
    offsets, items = _lists(excluded, users, num_items)
    scores = scores.detach().float()
    if runs_kernel(scores.device):
        users = users.cpu().long().contiguous()
        scores = scores.contiguous()
        top = _empty(len(users), k, scores.device)
        found = _call("top_of_scores", (*scores.shape, k), users, scores, offsets, items, *top)
        _refuse_nan(found, users, num_items)
        return top
    return _torch_top(scores, users, k, offsets, items)


def top_of_vectors(
    user_vectors: Tensor,
    item_vectors: Tensor,
    users: Tensor,
    k: int,
    excluded: ItemLists | None = None,
    block_bytes: int | None = None,
) -> TopItems:
    """The best items of some users by the dot products of their vectors.

    On a CPU with a compiler, the scores are never written: what is needed beside the vectors and
    the result is one copy of the items' vectors. Each score is then summed in the order of the
    dimensions, so that it does not depend on which users are asked for together, nor on the number
    of threads. Elsewhere the scores are `torch.mm` of blocks of users, whose last bits may depend
    on the block.

    Args:
        user_vectors: [U, D] on any device; multiplied as float32.
        item_vectors: [I, D] on the same device.
        users: [n] int64, rows of `user_vectors` and users of `excluded`.
        k: Length of a list, at most I.
        excluded: Items that are never recommended.
        block_bytes: What a block of scores may take where scores are written; if not given,
            `default_block_bytes`.

    Raises:
        ConfigError: k is not within 1 and I.
        NonFiniteError: a score is NaN; the message names the user and the item.
        SchemaError: shapes do not fit, or a user or an item of `excluded` is unknown.

    Example:
        >>> users, items = torch.tensor([[1.0, 0.0]]), torch.tensor([[2.0, 0.0], [3.0, 1.0]])
        >>> top_of_vectors(users, items, torch.tensor([0]), k=2)
        TopItems(items=tensor([[1, 0]], dtype=torch.int32), scores=tensor([[3., 2.]]))
    """
    if user_vectors.ndim != 2 or item_vectors.shape[1:] != user_vectors.shape[1:]:
        raise SchemaError(
            f"vectors of shapes {tuple(user_vectors.shape)} for users and "
            f"{tuple(item_vectors.shape)} for items; allowed are [U, D] and [I, D]."
        )
    num_items = len(item_vectors)
    check_length(k, num_items)
    _check_users(users, len(user_vectors))
    offsets, items = _lists(excluded, users, num_items)
    user_vectors, item_vectors = user_vectors.detach().float(), item_vectors.detach().float()
    if runs_kernel(user_vectors.device, item_vectors.device):
        return _kernel_product(user_vectors, item_vectors, users, k, offsets, items)
    block_bytes = block_bytes or default_block_bytes(user_vectors.device)
    size = block_users(block_bytes, num_items, _TORCH_BYTES)
    blocks = [
        _torch_top(user_vectors[part] @ item_vectors.T, part, k, offsets, items)
        for part in users.to(user_vectors.device).split(size)
    ]
    if len(blocks) == 1:
        return blocks[0]
    return TopItems(*(torch.cat(parts) for parts in zip(*blocks, strict=True)))


def block_users(block_bytes: int, num_items: int, score_bytes: int) -> int:
    """Users whose scores fit into so many bytes; at least one."""
    return max(1, block_bytes // max(num_items * score_bytes, 1))


def bytes_per_score(device: torch.device) -> int:
    """What one score of a block takes at its peak in `top_of_scores`."""
    return 4 if runs_kernel(device) else _TORCH_BYTES


def default_block_bytes(device: torch.device) -> int:
    """24 MiB on a CPU, where a block is still in cache when it is ranked and its memory serves the
    next one again; 1 GiB elsewhere."""
    return _CACHED_BLOCK if device.type == "cpu" else _LARGE_BLOCK


def check_length(k: int, num_items: int) -> None:
    """Raise ConfigError for a list that is empty or longer than the catalogue."""
    if not 1 <= k <= num_items:
        raise ConfigError(
            f"k={k} items of a catalogue of {num_items:,}; allowed are 1 to {num_items}. "
            "Ask for shorter lists."
        )


# -- kernel ----------------------------------------------------------------------------------------


def runs_kernel(*devices: torch.device) -> bool:
    """True where the kernel can stand in for torch's operations."""
    return all(device.type == "cpu" for device in devices) and top_items_kernel() is not None


@functools.cache
def top_items_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    i32, i64, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    for name, sizes, pointers, result in (
        ("panel_width", 0, 0, i64),
        ("pack_items", 2, 2, None),
        ("top_of_vectors", 4, 7, i64),
        ("top_of_scores", 3, 6, i64),
    ):
        function = getattr(library, name)
        threads = [i32] if pointers else []
        function.argtypes, function.restype = [*sizes * [i64], *pointers * [ptr], *threads], result
    return library


def _kernel_product(
    user_vectors: Tensor,
    item_vectors: Tensor,
    users: Tensor,
    k: int,
    offsets: Tensor,
    items: Tensor,
) -> TopItems:
    library = top_items_kernel()
    assert library is not None
    users = users.cpu().long().contiguous()
    user_vectors, item_vectors = user_vectors.contiguous(), item_vectors.contiguous()
    (num_items, dim), width = item_vectors.shape, library.panel_width()
    panels = item_vectors.new_empty(-(-num_items // width) * width * dim)
    _call("pack_items", item_vectors.shape, item_vectors, panels)
    top = _empty(len(users), k, users.device)
    sizes = (len(users), num_items, dim, k)
    found = _call("top_of_vectors", sizes, users, user_vectors, panels, offsets, items, *top)
    _refuse_nan(found, users, num_items)
    return top


def _call(name: str, sizes: tuple[int, ...], *arguments: Tensor) -> int:
    pointers = (one.data_ptr() for one in arguments)
    return getattr(top_items_kernel(), name)(*sizes, *pointers, torch.get_num_threads())


# -- torch -----------------------------------------------------------------------------------------


def _torch_top(scores: Tensor, users: Tensor, k: int, offsets: Tensor, items: Tensor) -> TopItems:
    """Lists from scores [n, I] by operations of torch, on any device."""
    device, num_items = scores.device, scores.shape[1]
    wrong = scores.isnan().flatten()
    if bool(wrong.any()):
        _refuse_nan(int(wrong.int().argmax()), users, num_items)
    rows, columns = (one.to(device) for one in _pairs_of(users.cpu(), offsets, items))
    allowed = scores.index_put((rows, columns), scores.new_tensor(float("-inf")))
    top_scores, found = allowed.topk(k, dim=1)
    # Where items of the last score were left out, topk has chosen among equals as it liked.
    last = top_scores[:, -1:]
    cut = (allowed == last).sum(dim=1) > (top_scores == last).sum(dim=1)
    cut &= last.squeeze(1) > float("-inf")
    if bool(cut.any()):
        every = torch.arange(num_items, device=device)
        found[cut] = _items_of(
            _keys(allowed[cut], every, num_items).topk(k, dim=1).values, num_items
        )
    keys = _keys(allowed.gather(1, found), found, num_items)
    found = _items_of(keys.sort(dim=1, descending=True).values, num_items)
    top_scores = allowed.gather(1, found) + 0.0  # no minus zero
    return TopItems(found.masked_fill(top_scores == float("-inf"), -1).int(), top_scores)


def _keys(scores: Tensor, items: Tensor, num_items: int) -> Tensor:
    """One int64 that holds a score and, below it, the item counted from the end: a greater key is
    better, and equal keys do not exist."""
    bits = (scores + 0.0).view(torch.int32)  # minus zero equals zero
    bits = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # in the order of the floats
    return bits.long().bitwise_left_shift_(32).add_(num_items - 1 - items)


def _items_of(keys: Tensor, num_items: int) -> Tensor:
    return num_items - 1 - (keys & 0xFFFFFFFF)


def _pairs_of(users: Tensor, offsets: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
    """Row among `users` and item of every excluded pair of these users."""
    starts, counts = offsets[users], offsets[users + 1] - offsets[users]
    rows = torch.arange(len(users)).repeat_interleave(counts)
    shift = starts - (counts.cumsum(0) - counts)  # from the place among these pairs to that in all
    return rows, items[torch.arange(len(rows)) + shift[rows]].long()


# -- checks ----------------------------------------------------------------------------------------


def _empty(num_users: int, k: int, device: torch.device) -> TopItems:
    return TopItems(
        torch.empty(num_users, k, dtype=torch.int32, device=device),
        torch.empty(num_users, k, dtype=torch.float32, device=device),
    )


def _lists(excluded: ItemLists | None, users: Tensor, num_items: int) -> tuple[Tensor, Tensor]:
    """Offsets and items of the excluded pairs as tensors of a CPU; empty lists where none are."""
    if excluded is None:
        last = int(users.max()) + 1 if len(users) else 0
        return torch.zeros(last + 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int32)
    if excluded.num_items != num_items:
        raise SchemaError(
            f"pairs to exclude know {excluded.num_items:,} items, but {num_items:,} are scored; "
            "give pairs of the same catalogue."
        )
    _check_users(users, len(excluded.offsets) - 1)
    offsets = np.require(excluded.offsets, np.int64, ["C", "W"])
    items = np.require(excluded.items, np.int32, ["C", "W"])
    return torch.from_numpy(offsets), torch.from_numpy(items)


def _check_users(users: Tensor, num_users: int) -> None:
    if users.ndim != 1 or users.is_floating_point():
        raise SchemaError(
            f"users of shape {tuple(users.shape)} and type {users.dtype}; allowed is a vector of "
            "whole numbers."
        )
    if len(users) and (int(users.min()) < 0 or int(users.max()) >= num_users):
        raise SchemaError(
            f"users run from {int(users.min())} to {int(users.max())}, but there are "
            f"{num_users:,}: allowed are 0 to {num_users - 1}."
        )


def _refuse_nan(found: int, users: Tensor, num_items: int) -> None:
    """Raise NonFiniteError for the place, row * I + item, of the first NaN; -1 is none."""
    if found < 0:
        return
    row, item = divmod(found, num_items)
    raise NonFiniteError(
        f"the score of user {int(users[row])} for item {item} is NaN; items cannot be ranked by "
        "it. Look for a diverged model or a user without a vector, and lower optimizer.lr."
    )
