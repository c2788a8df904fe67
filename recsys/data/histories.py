"""Histories: what the user of a row did strictly before the row, oldest first.

A row sees rows of its own user with a smaller time; rows of equal time never see each other, and
no row sees itself. So nothing that happens at or after a row's time can change its history.

    order rows by (user, time, row) and number the events     e = 0, 1, ... E - 1
    history of a row = events [start, start + length)         the last `max_length` before its time

`with_histories` adds list columns to a table in memory, `add_histories` to sources of any size.

Letters   R rows of the log, E events (rows that histories may hold).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.data.columns import MISSING_GROUP, groups
from recsys.data.readers import Source
from recsys.data.split import time_values
from recsys.errors import ConfigError

MAX_LENGTH = 50
"""Events that a history holds at most, unless a recipe says otherwise."""


@dataclass(frozen=True)
class Windows:
    """Which events each row sees: 12 to 16 bytes per row and 4 to 8 per event."""

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
    """Find the events that each row sees; about 60 bytes per row while it works.

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
    frame = pl.DataFrame({"user": users, "time": times})
    order = frame.select(pl.arg_sort_by("user", "time", maintain_order=True)).to_series().to_numpy()
    sorted_users = users[order]
    new_user = np.ones(num_rows, bool)
    new_user[1:] = sorted_users[1:] != sorted_users[:-1]
    known = sorted_users != MISSING_GROUP
    del sorted_users
    sorted_times = times[order]
    new_time = new_user.copy()
    new_time[1:] |= sorted_times[1:] != sorted_times[:-1]
    del sorted_times
    seen = known if events is None else known & events[order]
    # A row sees the events from its user's first one to the last one before its own moment.
    before = np.cumsum(seen) - seen
    first, stop = _at_last(new_user, before), _at_last(new_time, before)
    first = np.maximum(first, stop - max_length)
    lengths = np.empty(num_rows, np.int32)
    lengths[order] = np.where(known, stop - first, 0)
    starts = np.empty(num_rows, np.int32 if num_rows < 2**31 else np.int64)
    starts[order] = first
    return Windows(order[seen], starts, lengths)


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
