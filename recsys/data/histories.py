"""Histories: what the user of a row did strictly before the row, oldest first.

A row sees rows of its own user with a smaller time; rows of equal time never see each other, and
no row sees itself. So nothing that happens at or after a row's time can change its history.

    order rows by (user, time, row) and number the events     e = 0, 1, ... E - 1
    history of a row = events [start, start + length)         the last `max_length` before its time

`with_histories` adds list columns to a table in memory, `add_histories` to sources of any size.

Letters   R rows of the log, E events (rows that histories may hold).
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.data.columns import MISSING_GROUP, groups, is_list, labels
from recsys.data.formats import Part, Pieces, Read, is_text, plain
from recsys.data.readers import Source
from recsys.data.split import time_values
from recsys.data.text_index import make_text_index
from recsys.errors import ConfigError, SchemaError

MAX_LENGTH = 50
"""Events that a history holds at most, unless a recipe says otherwise."""


@dataclass(frozen=True)
class Windows:
    """Which events each row sees; 8 bytes per row and 8 per event."""

    events: np.ndarray
    """Row of each event [E], by user, time and row."""
    starts: np.ndarray
    """First event that each row sees [R], a position in `events`."""
    lengths: np.ndarray
    """Number of events that each row sees [R], int32."""

    def positions(self, first: int, stop: int) -> np.ndarray:
        """Events that the rows [first, stop) see, end to end."""
        lengths = self.lengths[first:stop]
        ends = np.cumsum(lengths, dtype=np.int64)
        total = int(ends[-1]) if ends.size else 0
        return np.arange(total) + np.repeat(self.starts[first:stop] - (ends - lengths), lengths)

    def offsets(self, first: int, stop: int) -> np.ndarray:
        """Where the list of each of the rows [first, stop) begins, and the end of the last."""
        return np.concatenate([[0], np.cumsum(self.lengths[first:stop], dtype=np.int64)])


def windows(
    users: np.ndarray, times: np.ndarray, max_length: int, events: np.ndarray | None = None
) -> Windows:
    """Find the events that each row sees, without a loop over rows.

    Args:
        users: User of each row [R], int64; rows of `MISSING_GROUP` see nothing and are not seen.
        times: Time of each row [R], int64 or float64.
        max_length: Events that a row sees at most, its latest.
        events: Rows that may be seen [R], bool; None means all.

    Example:
        >>> found = windows(np.array([1, 2, 1, 1]), np.array([5, 5, 6, 7]), max_length=9)
        >>> found.lengths.tolist(), found.events[found.positions(3, 4)].tolist()
        ([0, 0, 1, 2], [0, 2])
    """
    if max_length < 1:
        raise ConfigError(f"a history of at most {max_length} events; it must be at least 1.")
    num_rows = len(users)
    small = np.int32 if num_rows < 2**31 else np.int64
    order = _order(users, times)
    sorted_values = users[order]
    known = sorted_values != MISSING_GROUP
    new_user = np.ones(num_rows, bool)
    new_user[1:] = sorted_values[1:] != sorted_values[:-1]
    sorted_values = times[order]
    new_time = new_user.copy()
    new_time[1:] |= sorted_values[1:] != sorted_values[:-1]
    del sorted_values
    seen = known if events is None else known & events[order]
    # A row sees the events from its user's first one to the last one before its own moment.
    before = np.cumsum(seen, dtype=small) - seen
    first, stop = _at_last(new_user, before), _at_last(new_time, before)
    del before
    first = np.maximum(first, stop - small(max_length))
    lengths, starts = np.empty(num_rows, np.int32), np.empty(num_rows, small)
    lengths[order] = np.where(known, stop - first, 0)
    starts[order] = first
    return Windows(order[seen], starts, lengths)


def _order(users: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Rows by user, time and row."""
    if len(users) and times.dtype == np.int64:
        first_user, first_time = int(users.min()), int(times.min())
        num_users, span = int(users.max()) - first_user + 1, int(times.max()) - first_time + 1
        if num_users * span < 2**63:  # both fit into one key: twice as fast
            key = users - first_user
            key *= span
            key += times
            key -= first_time
            return np.argsort(key, kind="stable")
    return np.lexsort((times, users))


def _at_last(marks: np.ndarray, values: np.ndarray) -> np.ndarray:
    """For every position, the value at the last mark up to it; the first position is a mark."""
    at = np.flatnonzero(marks)
    return np.repeat(values[at], np.diff(np.append(at, len(marks))))


def with_histories(
    frame: pl.DataFrame,
    columns: Mapping[str, str],
    *,
    user: str,
    time: str,
    max_length: int = MAX_LENGTH,
    where: pl.Expr | None = None,
) -> pl.DataFrame:
    """Add list columns with what the user of each row did strictly before it, oldest first.

    Histories of one call are aligned: their lists have equal lengths, event by event. A row
    without a user has an empty history; an event without a value is a null in the list.

    Args:
        frame: The log, in any order; rows stay where they are.
        columns: New list column to the column whose values it holds.
        user: Column that tells whose row it is.
        time: Int, float, date or datetime; every row needs one.
        max_length: Events kept, the latest.
        where: Which rows are events, for example `pl.col("label") == 1`; None means all.

    Raises:
        SchemaError: A column is absent, or a row has no time.

    Example:
        >>> log = pl.DataFrame({"u": [1, 1, 1], "t": [1, 2, 3], "item": ["a", "b", "c"]})
        >>> with_histories(log, {"seen": "item"}, user="u", time="t")["seen"].to_list()
        [[], ['a'], ['a', 'b']]
    """
    source = Source.from_frame(frame)
    source.require([user, time, *columns.values()])
    chunk = next(source.chunks([user, time], frame.height))
    mask = None
    if where is not None:
        mask = frame.select(where.fill_null(value=False).cast(pl.Boolean)).to_series().to_numpy()
    found = windows(
        groups(chunk.column(user), user, chunk),
        time_values(chunk.column(time), time, chunk),
        max_length,
        mask,
    )
    offsets = pa.array(found.offsets(0, frame.height))
    seen = found.events[found.positions(0, frame.height)]
    lists = {}
    for name, column in columns.items():
        values = frame[column].gather(seen).to_arrow(compat_level=pl.CompatLevel.oldest())
        lists[name] = pl.Series(name, pa.LargeListArray.from_arrays(offsets, values))
    return frame.with_columns(**lists)


def add_histories(
    sources: Mapping[str, Source],
    columns: Mapping[str, str],
    *,
    user: str,
    time: str,
    max_length: int = MAX_LENGTH,
    positive: str | None = None,
) -> dict[str, Source]:
    """Add list columns as `with_histories` does, to sources that need not fit into memory.

    The rows of all sources are one log, so that a test row sees training rows before it. The log
    is read when the first list is asked for: only user, time and the values are kept, and lists
    are made chunk by chunk. One list column takes about 80 bytes per row while the log is sorted,
    and afterwards 8 per row and 4 to 8 per event (and the distinct texts, where it holds texts).

    Args:
        sources: Parts of one log; their columns and row order stay.
        columns: New list column to the column whose values it holds.
        user: Column that tells whose row it is.
        time: Int, float, date or datetime; every row needs one.
        max_length: Events kept per history, the latest.
        positive: Label column; only its rows with 1 are events. None means all rows.

    Raises:
        SchemaError: A column is absent, is a list, or is there already. What is wrong with values
            (a row without a time) is told when the log is read.
    """
    log = _Log(list(sources.values()), dict(columns), user, time, max_length, positive)
    out, first = {}, 0
    for name, source in sources.items():
        parts = []
        for part in source.parts:
            parts.append(_PartWithHistories(part, log, first))
            first += part.num_rows
        out[name] = Source(parts, keep=source)
    return out


class _Log:
    """Who did what when, over all sources; read once, by the first thread that asks."""

    def __init__(
        self,
        sources: Sequence[Source],
        columns: dict[str, str],
        user: str,
        time: str,
        max_length: int,
        positive: str | None,
    ) -> None:
        self.sources = sources
        self.columns = columns
        self.user = user
        self.time = time
        self.max_length = max_length
        self.positive = positive
        self.types: dict[str, pa.DataType] = {}
        self._lock = threading.Lock()
        self._windows: Windows | None = None
        self._values: dict[str, _Values] = {}
        for source in sources:
            source.require([user, time, *columns.values(), *([positive] if positive else [])])
        for name, column in columns.items():
            kind = sources[0].columns[column]
            if name in sources[0].columns:
                raise SchemaError(
                    f'history "{name}" has the name of a column that is there already. Give it '
                    "another name, or leave it out and say what the column is: "
                    f"data.fields.{name}.kind=history."
                )
            if is_list(kind):
                raise SchemaError(
                    f'history "{name}" of "{column}" cannot be made: the column holds {kind}, but '
                    "an event must have one value."
                )
            self.types[name] = pa.list_(kind)

    def spec(self) -> list[Any]:
        """All that the lists depend on, beside the rows."""
        return [self.columns, self.user, self.time, self.max_length, self.positive]

    def lists(self, name: str, first: int, stop: int) -> pa.Array:
        """Histories of the rows [first, stop) of the log."""
        with self._lock:
            if self._windows is None:
                self._windows = self._read()
        seen = self._windows.positions(first, stop)
        values = self._values[self.columns[name]].take(seen)
        offsets = pa.array(self._windows.offsets(first, stop))
        return pa.LargeListArray.from_arrays(offsets, values)

    def _read(self) -> Windows:
        num_rows = sum(source.num_rows for source in self.sources)
        floating = pa.types.is_floating(self.sources[0].columns[self.time])
        users = np.empty(num_rows, np.int64)
        times = np.empty(num_rows, np.float64 if floating else np.int64)
        events = None if self.positive is None else np.empty(num_rows, bool)
        kinds = {column: self.sources[0].columns[column] for column in self.columns.values()}
        values: dict[str, _Values] = {
            column: _Texts() if is_text(kind) else _Plain() for column, kind in kinds.items()
        }
        names = [self.user, self.time, *kinds, *([self.positive] if self.positive else [])]
        first = 0
        for source in self.sources:
            for chunk in source.chunks(names):
                rows = slice(first, first + chunk.num_rows)
                first += chunk.num_rows
                users[rows] = groups(chunk.column(self.user), self.user, chunk)
                times[rows] = time_values(chunk.column(self.time), self.time, chunk)
                if events is not None and self.positive is not None:
                    label = chunk.column(self.positive)
                    events[rows] = labels(label, self.positive, chunk, optional=True) == 1
                for column, held in values.items():
                    held.add(chunk.column(column))
        found = windows(users, times, self.max_length, events)
        for held in values.values():
            held.keep(found.events)
        self._values = values
        return Windows(np.empty(0, np.int64), found.starts, found.lengths)


class _Values(ABC):
    """Values of one column, first by row and then by event."""

    @abstractmethod
    def add(self, array: pa.Array) -> None:
        """The values of the next rows."""

    @abstractmethod
    def keep(self, rows: np.ndarray) -> None:
        """Keep these rows only, in this order."""

    @abstractmethod
    def take(self, positions: np.ndarray) -> pa.Array:
        """Values at these positions of what is kept."""


class _Plain(_Values):
    """Numbers, dates and the like, as they are."""

    def __init__(self) -> None:
        self._arrays: list[pa.Array] = []

    def add(self, array: pa.Array) -> None:
        self._arrays.append(plain(array))

    def keep(self, rows: np.ndarray) -> None:
        self._arrays = [pa.concat_arrays(self._arrays).take(pa.array(rows))]

    def take(self, positions: np.ndarray) -> pa.Array:
        return self._arrays[0].take(pa.array(positions))


class _Texts(_Values):
    """Texts, each distinct one once; lists come dictionary-encoded."""

    def __init__(self) -> None:
        self._index = make_text_index()
        self._numbers: list[np.ndarray] = []

    def add(self, array: pa.Array) -> None:
        if not pa.types.is_dictionary(array.type):
            self._numbers.append(self._index.numbers(plain(array)))
            return
        numbers = np.append(self._index.numbers(plain(array.dictionary)), np.int32(-1))
        indices = array.indices.cast(pa.int64()).fill_null(-1)
        self._numbers.append(numbers[indices.to_numpy(zero_copy_only=False)])

    def keep(self, rows: np.ndarray) -> None:
        self._numbers = [np.concatenate(self._numbers)[rows]]

    def take(self, positions: np.ndarray) -> pa.Array:
        numbers = self._numbers[0][positions]
        missing = numbers < 0
        used = np.zeros(len(self._index) + 1, bool)  # the last one is never used
        used[numbers[~missing]] = True
        codes = (np.cumsum(used, dtype=np.int32) - np.int32(1))[numbers]
        texts = self._index.texts(np.flatnonzero(used))
        return pa.DictionaryArray.from_arrays(
            pa.array(codes, mask=missing), texts.to_arrow(compat_level=pl.CompatLevel.oldest())
        )


class _PartWithHistories:
    """A file with list columns that are made as they are read."""

    def __init__(self, part: Part, log: _Log, first: int) -> None:
        self.name = part.name
        self.num_rows = part.num_rows
        self.schema = part.schema
        for name, kind in log.types.items():
            self.schema = self.schema.append(pa.field(name, kind))
        self._part, self._log, self._first = part, log, first

    def stamp(self) -> list[Any]:
        return [*self._part.stamp(), self._log.spec()]

    def reads(self, rows: int) -> list[Read]:
        return self._part.reads(rows)

    def chunks(
        self, columns: Sequence[str], rows: int, reads: Sequence[Read] | None = None
    ) -> Pieces:
        stored = [name for name in columns if name not in self._log.types]
        stored = stored or self._part.schema.names[:1]
        first = self._first + (reads[0].first_row if reads else 0)
        for num_rows, column in self._part.chunks(stored, rows, reads):
            yield num_rows, self._with_lists(column, first, first + num_rows)
            first += num_rows

    def _with_lists(
        self, stored: Callable[[str], pa.Array], first: int, stop: int
    ) -> Callable[[str], pa.Array]:
        def column(name: str) -> pa.Array:
            return self._log.lists(name, first, stop) if name in self._log.types else stored(name)

        return column
