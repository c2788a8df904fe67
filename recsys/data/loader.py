"""Batches of a store, in a seeded order that can be stopped and continued anywhere.

The order of an epoch depends on the seed, the epoch and the rows alone: not on the machine, the
number of processes, or how far ahead batches are read. A batch is one gather of rows per matrix of
the store; there is no work per row or per field.

Up to `shuffle_rows` rows, an epoch is one uniform permutation. A larger store is cut into blocks of
consecutive rows; the blocks are permuted, and rows are then permuted inside windows of
`shuffle_rows` rows, so that memory is bounded and the disk is read block by block:

    blocks   0 1 2 3 4 5 6 7 8 9       permuted    7 2 9 0 | 4 8 1 6 | 3 5
                                       windows     each one permuted row by row
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from recsys.data.batch import Batch
from recsys.data.store import Store
from recsys.errors import CheckpointError, ConfigError

BLOCKS_PER_WINDOW = 256
"""Blocks of consecutive rows that meet in one window of a store too large to permute whole."""


class Loader:
    """Iterate over a store in global batches, each rank taking its share of every one.

    Iterating starts at the first step, or once at the step that `load_state` gave. Every rank has
    the same number of steps. A short last batch is split as evenly as possible, and can leave a
    rank with no row when it has fewer rows than there are ranks.

    Args:
        store: Encoded rows.
        batch_size: Rows of a global batch, over all ranks together.
        shuffle: Permute the rows of every epoch; otherwise the order of the store.
        seed: Seed of the order.
        rank: This process, in `[0, world_size)`.
        world_size: Number of processes that share each batch.
        drop_last: Leave out the last batch of an epoch when it is short.
        shuffle_rows: Largest number of rows that are permuted at once, 8 bytes of memory each.
        prefetch: Batches read ahead by a background thread; 0 reads in the caller's own thread.

    A training loop reads

        for epoch in range(loader.epoch, num_epochs):
            loader.set_epoch(epoch)
            for batch in loader:
                ...  # loader.state() is the position after this batch
    """

    def __init__(
        self,
        store: Store,
        batch_size: int,
        *,
        shuffle: bool,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        drop_last: bool = False,
        shuffle_rows: int = 4_194_304,
        prefetch: int = 2,
    ) -> None:
        _check_at_least("batch_size", batch_size, 1)
        _check_at_least("shuffle_rows", shuffle_rows, 1)
        _check_at_least("prefetch", prefetch, 0)
        _check_at_least("seed", seed, 0)
        if not 0 <= rank < world_size:
            raise ConfigError(
                f"rank is {rank} with world_size={world_size}; it must be in [0, {world_size})."
            )
        if batch_size < world_size:
            raise ConfigError(
                f"batch_size={batch_size} is the batch of all {world_size} processes together; "
                f"it must be at least {world_size}."
            )
        self.store = store
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.rank = rank
        self.world_size = world_size
        self.drop_last = drop_last
        self.shuffle_rows = shuffle_rows
        self.prefetch = prefetch
        self.epoch = 0
        self._next_step = 0
        self._first_step = 0
        if drop_last and len(self) == 0:
            raise ConfigError(
                f"the store has {store.num_rows:,} rows, fewer than one batch of {batch_size:,}, "
                "and drop_last=true leaves nothing. Lower batch_size or set drop_last=false."
            )

    def __len__(self) -> int:
        """Steps of one epoch, the same on every rank."""
        full, rest = divmod(self.store.num_rows, self.batch_size)
        return full if self.drop_last or rest == 0 else full + 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, hence the order; a position given by `load_state` holds within it."""
        _check_at_least("epoch", epoch, 0)
        if epoch != self.epoch:
            self.epoch = epoch
            self._next_step = self._first_step = 0

    def state(self) -> dict[str, Any]:
        """Position after the batch handed out last, as plain values for a checkpoint."""
        return {"epoch": self.epoch, "step": self._next_step, **self._identity()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue where `state` was taken: the next iteration yields the batches that remained.

        The number of processes may have changed; the global batches stay the same.

        Raises:
            CheckpointError: The state belongs to other rows, another seed or another batch size.
        """
        epoch, step = position_of(state, self._identity(), len(self), "data")
        self.epoch = epoch
        self._next_step = self._first_step = step

    def __iter__(self) -> Iterator[Batch]:
        first, self._first_step = self._first_step, 0
        self._next_step = first
        batches = self._read(first, self.epoch)
        if self.prefetch:
            batches = _read_ahead(batches, self.prefetch)
        for step, batch in enumerate(batches, start=first + 1):
            self._next_step = step
            yield batch

    def _identity(self) -> dict[str, Any]:
        """What the sequence of global batches depends on."""
        return {
            "batch_size": self.batch_size,
            "seed": self.seed,
            "shuffle": self.shuffle,
            "shuffle_rows": self.shuffle_rows,
            "num_rows": self.store.num_rows,
            "digest": self.store.digest,
        }

    def _read(self, first_step: int, epoch: int) -> Iterator[Batch]:
        num_rows = self.store.num_rows
        order = None
        if self.shuffle:
            seed = (self.seed, epoch)
            order = Order(num_rows, self.shuffle_rows, seed, self.store.will_need)
        for step in range(first_step, len(self)):
            start = step * self.batch_size
            size = min(self.batch_size, num_rows - start)
            mine = slice(
                size * self.rank // self.world_size, size * (self.rank + 1) // self.world_size
            )
            if order is None:
                rows = np.arange(start + mine.start, start + mine.stop)
            elif self.world_size > 1 and self.store.regional:
                # The same batch, shared out by position: each process reads its region alone.
                rows = np.sort(order.rows(start, start + size))[mine]
            else:
                rows = order.rows(start + mine.start, start + mine.stop)
            yield self.store.gather(rows)


class Order:
    """A seeded permutation of `range(num_rows)`, readable from any position.

    Random bits come from PCG64 and are turned into an order by sorting, both of which are fixed for
    good; `numpy.random.Generator.permutation` may change between versions.

    Args:
        num_rows: Length of the permutation.
        shuffle_rows: Rows permuted at once; memory is 8 bytes for each.
        seed: Whole numbers, such as (seed, epoch).
        announce: Called with the first and the end row of each block of a window before the first
            of its rows is given out.

    Example:
        >>> Order(5, 5, (0, 0)).rows(1, 4)
        array([3, 1, 0])
    """

    def __init__(
        self,
        num_rows: int,
        shuffle_rows: int,
        seed: tuple[int, ...],
        announce: Callable[[np.ndarray, np.ndarray], None] | None = None,
    ) -> None:
        self.seed = seed
        self.announce = announce
        if num_rows <= shuffle_rows:
            self.block_rows = max(num_rows, 1)
            blocks_per_window = 1
        else:
            blocks_per_window = min(BLOCKS_PER_WINDOW, shuffle_rows)
            self.block_rows = shuffle_rows // blocks_per_window
        self.num_rows = num_rows
        blocks = _permutation(-(-num_rows // self.block_rows), (*seed, 0))
        self.windows = np.split(blocks, range(blocks_per_window, len(blocks), blocks_per_window))
        sizes = [int(self._block_sizes(window).sum()) for window in self.windows]
        self.window_starts = np.concatenate([[0], np.cumsum(sizes)])
        self._current = -1
        self._window_rows = np.empty(0, np.int64)

    def rows(self, start: int, stop: int) -> np.ndarray:
        """Rows at positions `start:stop` of the order, int64."""
        parts = []
        window = int(np.searchsorted(self.window_starts, start, side="right")) - 1
        while start < stop:
            offset = int(self.window_starts[window])
            end = min(stop, int(self.window_starts[window + 1]))
            parts.append(self._rows_of(window)[start - offset : end - offset])
            start, window = end, window + 1
        return parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.int64), *parts])

    def _rows_of(self, window: int) -> np.ndarray:
        if window != self._current:
            blocks = self.windows[window]
            sizes = self._block_sizes(blocks)
            starts = blocks * self.block_rows
            if self.announce is not None:
                self.announce(starts, starts + sizes)
            # Row k of the window is k plus how far its block lies from where the window puts it.
            shift = starts - (np.cumsum(sizes) - sizes)
            rows = np.arange(sizes.sum()) + np.repeat(shift, sizes)
            self._window_rows = rows[_permutation(len(rows), (*self.seed, window + 1))]
            self._current = window
        return self._window_rows

    def _block_sizes(self, blocks: np.ndarray) -> np.ndarray:
        return np.minimum(self.block_rows, self.num_rows - blocks * self.block_rows)


def _permutation(size: int, seed: tuple[int, ...]) -> np.ndarray:
    """Sort positions by random bits in front of them; a position breaks ties, so all differ."""
    bits = max(size - 1, 1).bit_length()
    keys = np.random.PCG64(np.random.SeedSequence(seed)).random_raw(size)
    keys >>= np.uint64(bits)
    keys <<= np.uint64(bits)
    keys |= np.arange(size, dtype=np.uint64)
    keys.sort()
    return (keys & np.uint64((1 << bits) - 1)).astype(np.int64)


def position_of(
    state: dict[str, Any], identity: dict[str, Any], num_steps: int, what: str
) -> tuple[int, int]:
    """Epoch and step of a saved position, where it belongs to this sequence of batches.

    Args:
        state: What was saved: the identity of then, `epoch` and `step`.
        identity: What the sequence of batches depends on, now.
        num_steps: Steps of an epoch.
        what: What there is a position in, for messages.

    Raises:
        CheckpointError: it is another sequence, or no position in it.
    """
    differs = [
        f"{key} was {state.get(key)!r} and is {value!r}"
        for key, value in identity.items()
        if state.get(key) != value
    ]
    if differs:
        raise CheckpointError(
            f"the position in the {what} cannot be continued: {'; '.join(differs)}. Use the "
            "data and the settings of the checkpoint, or start again with trainer.resume=null."
        )
    epoch, step = state.get("epoch"), state.get("step")
    if not isinstance(epoch, int) or not isinstance(step, int) or not 0 <= step <= num_steps:
        raise CheckpointError(
            f"the position in the {what} is epoch {epoch!r}, step {step!r}; an epoch here has "
            f"{num_steps} steps. The checkpoint is damaged; take an earlier one."
        )
    return epoch, step


def _read_ahead(batches: Iterator[Batch], depth: int) -> Iterator[Batch]:
    """Run an iterator in a thread, with at most `depth` items waiting for the consumer.

    An exception of the thread is raised in the consumer. The thread ends with this generator.
    """
    ready: queue.SimpleQueue[Batch | BaseException | None] = queue.SimpleQueue()
    free = threading.Semaphore(depth)
    stopped = threading.Event()

    def work() -> None:
        last: BaseException | None = None
        try:
            while free.acquire() and not stopped.is_set():
                batch = next(batches, None)
                if batch is None:
                    break
                ready.put(batch)
        except BaseException as error:  # raised again where the batch was awaited
            last = error
        ready.put(last)

    thread = threading.Thread(target=work, name="recsys-loader", daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            free.release()
            yield item
    finally:
        stopped.set()
        free.release()
        thread.join()


def _check_at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{name} is {value!r}; it must be a whole number, {least} or more.")
