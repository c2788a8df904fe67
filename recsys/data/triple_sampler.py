"""Triples of a user, an item it has and items it does not have, drawn in blocks.

Negatives are exact without trying twice: among the I - d items that a user of d items does not
have, the one of rank r is r + k, where k of the user's items come before it. With the items of the
user i_0 < i_1 < ... that is the number of j with i_j - j <= r, one binary search. A user with
nearly every item costs no more than another.

A block of draws depends on the seed, the epoch and the block's number alone: not on the batch size,
the number of processes, or where reading starts.

Letters   U users, I items, E pairs, B rows of a batch, n negatives of a row.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.data.loader import Order, position_of
from recsys.data.pairs import Pairs
from recsys.data.triples import Triples
from recsys.errors import ConfigError, SchemaError, did_you_mean
from recsys.native import load_kernel

BLOCK_DRAWS = 1 << 18
"""Negatives of a block; a block has at least one row."""

DRAWS = ("users", "pairs")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a model wants its batches drawn."""

    draw: str = "users"
    """users: a user uniformly among those with items, then one of its items, E times an epoch
    (LightGCN). pairs: every pair once an epoch, in a permuted order."""
    negatives: int = 1
    """Items drawn for each row."""
    reject: bool = True
    """Never draw an item that the user has; otherwise any item."""

    def __post_init__(self) -> None:
        if self.draw not in DRAWS:
            raise ConfigError(
                f'there is no way to draw called "{self.draw}".{did_you_mean(self.draw, DRAWS)}'
            )
        if self.negatives < 0:
            raise ConfigError(f"negatives={self.negatives}; it must be 0 or more.")


class TripleSampler:
    """Iterate over the batches of an epoch, from a position that can be saved.

    Iterating starts at the first step, or once at the step that `load_state` gave. With several
    processes each one reads its slice of every batch.

    Args:
        train: The pairs to draw from.
        sampling: How.
        batch_size: Rows of a batch, over all processes together; the last one of an epoch is short.
        seed: Seed of everything drawn.
        rank: This process, in `[0, world_size)`.
        world_size: Number of processes that share each batch.

    Raises:
        SchemaError: there is no pair, or a user has every item though none of its own may be drawn.

    Example:
        >>> pairs = Pairs.of(np.array([0, 0, 1]), np.array([1, 2, 0]), num_users=2, num_items=4)
        >>> sampler = TripleSampler(pairs, Sampling(draw="pairs", negatives=2), batch_size=2)
        >>> [batch.users.tolist() for batch in sampler]
        [[0, 0], [1]]
    """

    def __init__(
        self,
        train: Pairs,
        sampling: Sampling,
        batch_size: int,
        *,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        if batch_size < 1 or seed < 0 or not 0 <= rank < world_size:
            raise ConfigError(
                f"batch_size={batch_size}, seed={seed}, rank={rank} of world_size={world_size}; "
                "allowed are batch_size >= 1, seed >= 0 and 0 <= rank < world_size."
            )
        if not len(train):
            raise SchemaError("there is no training pair to draw from; give at least one.")
        self.train = train
        self.sampling = sampling
        self.batch_size = batch_size
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.epoch = 0
        self._next_step = 0
        self._first_step = 0
        self._block_rows = max(BLOCK_DRAWS // max(sampling.negatives, 1), 1)
        self._block: tuple[tuple[int, int], Triples] | None = None
        self._order: tuple[int, Order] | None = None
        self._degrees = train.user_degrees
        self._active = np.flatnonzero(self._degrees)
        if sampling.draw == "pairs":
            self._users = train.users
        if sampling.reject and sampling.negatives:
            self._check_full_users()

    def _check_full_users(self) -> None:
        full = np.flatnonzero(self._degrees == self.train.num_items)
        if len(full):
            raise SchemaError(
                f"user {full[0]} has every one of the {self.train.num_items:,} items (as have "
                f"{len(full) - 1:,} more users): no item is left to draw for it. Leave such users "
                "out of training, or draw without rejection."
            )

    def __len__(self) -> int:
        """Steps of an epoch, the same on every process."""
        return -(-len(self.train) // self.batch_size)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch; a position given by `load_state` holds within it."""
        if epoch < 0:
            raise ConfigError(f"epoch is {epoch}; it must be 0 or more.")
        if epoch != self.epoch:
            self.epoch = epoch
            self._next_step = self._first_step = 0

    def state(self) -> dict[str, Any]:
        """Position after the batch handed out last, as plain values for a checkpoint."""
        return {"epoch": self.epoch, "step": self._next_step, **self._identity()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken: the next iteration yields the batches that remained.

        Raises:
            CheckpointError: the state belongs to other pairs, another seed or another sampling.
        """
        epoch, step = position_of(state, self._identity(), len(self), "draws")
        self.epoch = epoch
        self._next_step = self._first_step = step

    def _identity(self) -> dict[str, Any]:
        """What the sequence of batches depends on."""
        return {
            "batch_size": self.batch_size,
            "seed": self.seed,
            "draw": self.sampling.draw,
            "negatives": self.sampling.negatives,
            "reject": self.sampling.reject,
            "pairs": [self.train.num_users, self.train.num_items, len(self.train)],
        }

    def __iter__(self) -> Iterator[Triples]:
        first, self._first_step = self._first_step, 0
        self._next_step = first
        epoch = self.epoch
        for step in range(first, len(self)):
            start = step * self.batch_size
            size = min(self.batch_size, len(self.train) - start)
            batch = self._rows(
                epoch,
                start + size * self.rank // self.world_size,
                start + size * (self.rank + 1) // self.world_size,
            )
            self._next_step = step + 1
            yield batch

    # -- draws -------------------------------------------------------------------------------

    def _rows(self, epoch: int, start: int, stop: int) -> Triples:
        """Rows `start:stop` of the epoch, from as many blocks as they lie in."""
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        while start < stop or not parts:
            number, at = divmod(start, self._block_rows)
            if self._block is None or self._block[0] != (epoch, number):
                self._block = (epoch, number), self._draw(epoch, number)
            block = self._block[1]
            rows = slice(at, min(at + stop - start, len(block)))
            parts.append((block.users[rows], block.positives[rows], block.negatives[rows]))
            start += max(rows.stop - rows.start, 1)
        return Triples(*(torch.cat(one) for one in zip(*parts, strict=True)))

    def _draw(self, epoch: int, number: int) -> Triples:
        """One block of an epoch."""
        bits = np.random.PCG64(np.random.SeedSequence((self.seed, epoch, number)))
        start = number * self._block_rows
        count = min(self._block_rows, len(self.train) - start)
        if self.sampling.draw == "pairs":
            rows = self._pair_order(epoch).rows(start, start + count)
            users = self._users[rows]
        else:
            users = self._active[_below(bits, len(self._active), (count,))]
            rows = self.train.offsets[users] + _below(bits, self._degrees[users], (count,))
        users = users.astype(np.int64)
        negatives = self._draw_negatives(bits, users)
        positives = self.train.items[rows].astype(np.int64)
        return Triples(*(torch.from_numpy(one) for one in (users, positives, negatives)))

    def _pair_order(self, epoch: int) -> Order:
        if self._order is None or self._order[0] != epoch:
            self._order = epoch, Order(len(self.train), len(self.train), (self.seed, epoch))
        return self._order[1]

    def _draw_negatives(self, bits: np.random.PCG64, users: np.ndarray) -> np.ndarray:
        """Items for each user, [b, n] int64."""
        num_items, shape = self.train.num_items, (len(users), self.sampling.negatives)
        if not self.sampling.reject:
            return _below(bits, num_items, shape)
        left = num_items - self._degrees[users]
        return lacking_items(self.train, users, _below(bits, left[:, None], shape))


def lacking_items(pairs: Pairs, users: np.ndarray, ranks: np.ndarray) -> np.ndarray:
    """The items of some ranks among those that each user does not have.

    Args:
        pairs: What users have.
        users: [b] int64.
        ranks: [b, n] int64, each below the number of items that the user does not have.

    Returns:
        [b, n] int64.

    Example:
        >>> pairs = Pairs.of(np.array([0, 0]), np.array([1, 2]), num_users=1, num_items=5)
        >>> lacking_items(pairs, np.array([0]), np.array([[0, 1, 2]]))
        array([[0, 3, 4]])
    """
    kernel = sampler_kernel()
    if kernel is not None:
        out = np.empty_like(ranks)
        arrays = (users, pairs.offsets, pairs.items, ranks, out)
        assert all(array.flags.c_contiguous for array in arrays)
        kernel.lacking_items(*ranks.shape, *(array.ctypes.data for array in arrays))
        return out
    # Per pair, its user and how many items that one lacks before this: ascending.
    before = pairs.items - (
        np.arange(len(pairs)) - np.repeat(pairs.offsets[:-1], pairs.user_degrees)
    )
    stride = pairs.num_items + 1
    keys = pairs.users.astype(np.int64) * stride + before
    passed = np.searchsorted(keys, users[:, None] * stride + ranks, side="right")
    return ranks + passed - pairs.offsets[users][:, None]


@functools.cache
def sampler_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    library.lacking_items.argtypes = [*2 * [ctypes.c_int64], *5 * [ctypes.c_void_p]]
    library.lacking_items.restype = None
    return library


def _below(bits: np.random.PCG64, limits: np.ndarray | int, shape: tuple[int, ...]) -> np.ndarray:
    """Whole numbers in [0, limit), uniform to 1 part in 2^53 / limit; int64.

    From raw bits: what numpy's own `integers` draws may change between versions.
    """
    raw = bits.random_raw(int(np.prod(shape))).reshape(shape)
    return ((raw >> np.uint64(11)) * 2.0**-53 * limits).astype(np.int64)
