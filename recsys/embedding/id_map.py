"""Ids to the rows of a table, given out while training: exact, bounded, deterministic.

    id              `recsys.data.hashing.open_codes` of a value; no two ids share a row
    row             one of `capacity`, given to an id once training has read it `min_count` times
    shared row      UNSEEN: of ids that have no row (yet)
    eviction        when all rows are taken, a new id gets the row of the one used longest ago
                    (`least_recent`), of the one used longest ago among the least frequent
                    (`least_frequent`), or of the one with the longest time since its last use for
                    each of its uses (`fading`); never of one that the same batch reads. Uses are
                    compared by their power of two
    candidates      ids seen fewer than `min_count` times are counted in a ring of `capacity`
                    places: who waits longer than that begins again

A batch is read twice: ids that have rows first, which protects their rows, then the others in the
order in which they stand. Everything that decides is in `state()`; the index over it is made again.

Source   Zero-collision hashing as in Monolith, arXiv:2209.07663, Sec. 3.1 (admission by frequency).
Letters  n ids of a batch, C capacity, E entries (C, and as many candidates where there are any).
"""

from __future__ import annotations

import ctypes
import functools
from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor

from recsys.data.schema import NUM_RESERVED, UNSEEN
from recsys.native import load_kernel

EVICTIONS = ("fading", "least_recent", "least_frequent", "never")
BY_COUNT = ("fading", "least_frequent")
"""Those that ask how often an id was used."""
_CLOCK, _FILLED, _HAND, _EVICTED = range(4)


class IdMap:
    """The ids of one field.

    Args:
        capacity: C, rows.
        min_count: Uses before an id gets a row.
        evict: One of `EVICTIONS`.

    It lies in the memory of the host, wherever the table is.

    Example:
        >>> ids = IdMap(capacity=2)
        >>> codes, fresh = ids.admit(torch.tensor([70, 80, 70, 90]))
        >>> codes.tolist(), fresh.tolist()
        ([3, 4, 3, 2], [0, 1])
        >>> ids.admit(torch.tensor([90]))[0].tolist(), ids.find(torch.tensor([80, 70])).tolist()
        ([4], [2, 3])
    """

    def __init__(self, capacity: int, min_count: int = 1, evict: str = EVICTIONS[0]) -> None:
        entries = capacity * (2 if min_count > 1 else 1)
        if not 1 <= entries < 2**31:
            raise ValueError(f"capacity={capacity}; there can be 1 to 2^30 rows.")
        if evict not in EVICTIONS or min_count < 1:
            raise ValueError(f"evict={evict}, min_count={min_count}")
        self.capacity, self.min_count, self.evict = capacity, min_count, evict
        self.ids, self.counts = (torch.zeros(entries, dtype=torch.int64) for _ in range(2))
        self.last, self.generations = (torch.zeros(capacity, dtype=torch.int64) for _ in range(2))
        self.progress = torch.zeros(4, dtype=torch.int64)
        self._engine = _make_engine(self)

    @property
    def num_rows_used(self) -> int:
        """Rows that belong to an id."""
        return int(self.progress[_FILLED])

    @property
    def num_evicted(self) -> int:
        """Rows that were taken from an id so far."""
        return int(self.progress[_EVICTED])

    @property
    def num_bytes(self) -> int:
        """Of the state and of the index over it."""
        return sum(t.nbytes for t in self.state().values()) + self._engine.num_bytes

    def state(self) -> dict[str, Tensor]:
        """Everything that decides what comes next, as views: after writing to them, `rebuild`.

        Shape:
            ids, counts        [E] int64; 0 where there is no id
            last, generations  [C] int64: time of the last use, and how many ids have had the row
            progress           [4] int64: clock, rows used, place in the ring, evictions
        """
        names = ("ids", "counts", "last", "generations", "progress")
        return {name: getattr(self, name) for name in names}

    def rebuild(self) -> None:
        """Make the index again.

        Raises:
            ValueError: the state is not that of a map.
        """
        clock, filled, hand, _ = self.progress.tolist()
        room = len(self.ids) - self.capacity
        sound = 0 <= filled <= self.capacity and 0 <= hand < max(room, 1)
        sound = sound and bool((self.ids[:filled] >= NUM_RESERVED).all())
        sound = sound and not bool(self.ids[filled : self.capacity].any())
        sound = sound and bool((self.counts[self.ids != 0] > 0).all())
        sound = sound and bool((self.last[:filled] <= clock).all())
        if not sound or not self._engine.rebuild(self.last[:filled].argsort()):
            raise ValueError("the ids of a dynamic vocabulary are damaged; use another checkpoint")

    def find(self, ids: Tensor) -> Tensor:
        """Codes of ids, changing nothing.

        Shape:
            ids     any shape, integer
            return  the same shape, int64: `NUM_RESERVED` + row, UNSEEN, or the reserved code itself
        """
        plain = ids.detach().to("cpu", torch.int64).contiguous()
        return self._engine.find(plain.view(-1)).view(ids.shape).to(ids.device)

    def admit(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Codes of a training batch's ids, after giving rows to those that are due one.

        Shape:
            ids     [n] integer
            return  codes [n] int64, and the rows that begin anew [at most n] int64, on the host
        """
        plain = ids.detach().to("cpu", torch.int64).contiguous()
        codes, fresh = self._engine.admit(plain)
        return codes.to(ids.device), fresh

    def sorted(self) -> tuple[Tensor, Tensor]:
        """Ids that have a row, ascending, and their codes: what `search` takes."""
        found, order = self.ids[: self.num_rows_used].sort()
        return found, order + NUM_RESERVED


def search(ids: Tensor, known: Tensor, codes: Tensor) -> Tensor:
    """As `IdMap.find`, by operations of torch alone: for programs that are exported.

    Shape:
        ids     any shape, integer
        known   [k] int64, ascending
        codes   [k] int64
        return  as ids, int64

    Example:
        >>> search(torch.tensor([[70, 1], [80, 75]]), torch.tensor([70, 80]), torch.tensor([4, 3]))
        tensor([[4, 1],
                [3, 2]])
    """
    wide = ids.long()
    reserved = torch.where(wide < 0, torch.full_like(wide, UNSEEN), wide.clamp(max=UNSEEN))
    if not known.shape[0]:
        return reserved
    at = torch.searchsorted(known, wide).clamp(max=known.shape[0] - 1)
    return torch.where(known[at] == wide, codes[at], reserved)


class _Places(ctypes.Structure):
    """The arrays of a map, as `id_map.cpp` knows them."""

    _fields_ = tuple(
        (name, ctypes.c_int64)
        for name in ("capacity", "entries", "mask", "min_count", "by_count", "evicts", "fades")
    ) + tuple(
        (name, ctypes.c_void_p)
        for name in (
            "ids", "counts", "last", "generations", "progress", "index", "next", "previous",
            "heads", "tails",
        )
    )  # fmt: skip


class _NativeEngine:
    """Calls the kernel."""

    def __init__(self, ids: IdMap, library: ctypes.CDLL) -> None:
        self._ids, self._library = ids, library
        slots = 1 << (2 * len(ids.ids) - 1).bit_length()
        self._index = torch.zeros(slots, dtype=torch.int32)
        self._next, self._previous = (
            torch.zeros(ids.capacity, dtype=torch.int32) for _ in range(2)
        )
        self._heads, self._tails = (torch.full((64,), -1, dtype=torch.int32) for _ in range(2))

    @property
    def num_bytes(self) -> int:
        return self._index.nbytes + 2 * self._next.nbytes

    def __deepcopy__(self, memo: dict[int, object]) -> None:
        raise TypeError("a map is copied by its state")

    def _places(self) -> _Places:
        ids = self._ids
        arrays = [*ids.state().values(), self._index, self._next, self._previous]
        return _Places(
            ids.capacity, len(ids.ids), len(self._index) - 1, ids.min_count,
            ids.evict in BY_COUNT, ids.evict != "never", ids.evict == "fading",
            *(array.data_ptr() for array in (*arrays, self._heads, self._tails)),
        )  # fmt: skip

    def find(self, ids: Tensor) -> Tensor:
        out = torch.empty_like(ids)
        self._library.id_map_find(
            ctypes.byref(self._places()), len(ids), ids.data_ptr(), out.data_ptr()
        )
        return out

    def admit(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        out, waiting, fresh = (torch.empty_like(ids) for _ in range(3))
        number = self._library.id_map_admit(
            ctypes.byref(self._places()), len(ids),
            *(array.data_ptr() for array in (ids, out, waiting, fresh)),
        )  # fmt: skip
        return out, fresh[:number].clone()

    def rebuild(self, order: Tensor) -> bool:
        order = order.contiguous()
        return not self._library.id_map_rebuild(
            ctypes.byref(self._places()), len(order), order.data_ptr()
        )


class _PlainEngine:
    """The same in Python, a hundred times slower: for where no C++ compiler is at hand."""

    def __init__(self, ids: IdMap) -> None:
        self._ids = ids
        self._entry_of: dict[int, int] = {}
        self._classes: list[OrderedDict[int, None]] = [OrderedDict() for _ in range(64)]

    @property
    def num_bytes(self) -> int:
        return 100 * len(self._entry_of)

    def find(self, ids: Tensor) -> Tensor:
        return torch.tensor([self._code(id_) for id_ in ids.tolist()], dtype=torch.int64)

    def _code(self, id_: int) -> int:
        if id_ < NUM_RESERVED:
            return UNSEEN if id_ < 0 else id_
        entry = self._entry_of.get(id_, self._ids.capacity)
        return UNSEEN if entry >= self._ids.capacity else entry + NUM_RESERVED

    def admit(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        mine, began = self._ids, int(self._ids.progress[_CLOCK])
        has_candidates = len(mine.ids) > mine.capacity
        wanted = ids.tolist()
        out = [self._code(id_) for id_ in wanted]
        waiting, fresh = [], []
        for at, id_ in enumerate(wanted):
            if out[at] >= NUM_RESERVED:
                self._use(out[at] - NUM_RESERVED, began)
            elif id_ >= NUM_RESERVED:
                waiting.append(at)
                if id_ in self._entry_of:
                    mine.counts[self._entry_of[id_]] += 1
                elif has_candidates:
                    self._add_candidate(id_)
        for at in waiting:
            id_ = wanted[at]
            entry = self._entry_of.get(id_)
            if entry is not None and entry < mine.capacity:
                if not has_candidates:
                    self._use(entry, began)
            else:
                uses = 1 if not has_candidates else 0 if entry is None else int(mine.counts[entry])
                row = self._take_row(began) if uses >= mine.min_count else None
                if row is None:
                    continue
                if entry is not None:
                    mine.ids[entry] = mine.counts[entry] = 0
                self._give(row, id_, uses)
                fresh.append(row)
            out[at] = self._code(id_)
        return torch.tensor(out, dtype=torch.int64), torch.tensor(fresh, dtype=torch.int64)

    def _class(self, row: int) -> OrderedDict[int, None]:
        by_count = self._ids.evict in BY_COUNT
        return self._classes[int(self._ids.counts[row]).bit_length() - 1 if by_count else 0]

    def _victim(self, began: int) -> int | None:
        mine, most, found = self._ids, 0.0, None
        for which, rows in enumerate(self._classes):
            row = next(iter(rows), None)
            if row is None or mine.last[row] > began:
                continue
            if mine.evict != "fading":
                return row
            time = int(mine.progress[_CLOCK] - mine.last[row]) / 2**which
            if found is None or time > most:
                found, most = row, time
        return found

    def _stamp(self, row: int) -> None:
        self._ids.progress[_CLOCK] += 1
        self._ids.last[row] = self._ids.progress[_CLOCK]
        self._class(row)[row] = None

    def _use(self, row: int, began: int) -> None:
        before = self._class(row)
        self._ids.counts[row] += 1
        if self._ids.last[row] <= began or self._class(row) is not before:
            del before[row]
            self._stamp(row)

    def _take_row(self, began: int) -> int | None:
        mine = self._ids
        if mine.num_rows_used < mine.capacity:
            mine.progress[_FILLED] += 1
            return mine.num_rows_used - 1
        row = None if mine.evict == "never" else self._victim(began)
        if row is not None:
            del self._class(row)[row]
            del self._entry_of[int(mine.ids[row])]
            mine.progress[_EVICTED] += 1
        return row

    def _give(self, row: int, id_: int, uses: int) -> None:
        mine = self._ids
        mine.ids[row], mine.counts[row] = id_, uses
        mine.generations[row] += 1
        self._entry_of[id_] = row
        self._stamp(row)

    def _add_candidate(self, id_: int) -> None:
        mine = self._ids
        entry = mine.capacity + int(mine.progress[_HAND])
        mine.progress[_HAND] = (entry + 1 - mine.capacity) % (len(mine.ids) - mine.capacity)
        if mine.ids[entry]:
            del self._entry_of[int(mine.ids[entry])]
        mine.ids[entry], mine.counts[entry] = id_, 1
        self._entry_of[id_] = entry

    def rebuild(self, order: Tensor) -> bool:
        ids = self._ids.ids
        used = ids.nonzero().squeeze(1).tolist()
        self._entry_of = {int(ids[entry]): entry for entry in used}
        for rows in self._classes:
            rows.clear()
        for row in order.tolist():
            self._class(row)[row] = None
        return len(self._entry_of) == len(used)


def _make_engine(ids: IdMap) -> _NativeEngine | _PlainEngine:
    library = id_map_kernel()
    return _PlainEngine(ids) if library is None else _NativeEngine(ids, library)


@functools.cache
def id_map_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    i64, ptr = ctypes.c_int64, ctypes.c_void_p
    for name, arrays in (("find", 2), ("admit", 4), ("rebuild", 1)):
        function = getattr(library, f"id_map_{name}")
        function.argtypes = [ptr, i64, *arrays * [ptr]]
        function.restype = None if name == "find" else i64
    return library
