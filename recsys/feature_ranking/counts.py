"""One column, read once: how often each of its values meets each class, part by part.

Counts are exact whole numbers, so neither the order of rows nor the size of chunks matters. A
column with more than `max_values` distinct values is counted again by hash buckets, and says so.
A number is cut at its quantiles first. Missing (NaN too) is a value like any other, and so
is an empty list.

Letters   V codes (the reserved ones included), P parts, K classes, S sampled rows, B rows of a
chunk.
"""

from __future__ import annotations

import ctypes
import dataclasses
import functools
import hashlib
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data.columns import HashCoder, Lists, category_codes, list_codes, numbers
from recsys.data.numeric import RowSample, Scale
from recsys.data.readers import Chunk
from recsys.data.schema import MISSING, NUM_RESERVED, PADDING, Encoding, Field, Kind
from recsys.data.vocabulary import Interner
from recsys.feature_ranking.information import add_up
from recsys.feature_ranking.rows import (
    HELD_OUT,
    NOT_COUNTED,
    NUM_PARTS,
    Rows,
    chunks,
    training_rows,
)
from recsys.native import load_kernel

MAX_VALUES = 1 << 22
"""Distinct values of a column that are counted apart; 300 MB of counts for two classes."""
HASHED_VALUES = 1 << 20
"""Buckets of a column that has more."""
NUM_BUCKETS = 64
"""Quantile buckets of a number."""


@dataclass(frozen=True)
class ColumnCounts:
    """What one pass over a column found.

    Args:
        field: The column.
        counts: Rows of each value, part and class, [V, P, K]: int32, or float64 for lists (a row
            counts 1/length for each of its values) and weighted rows.
        sums: Of the numeric label's normal scores, [V, P]; None for classes.
        squares: Sum of squared weights of each value, [V] (its training rows); None where every row
            counts 1.
        sample: Codes of the sampled rows, [S] int32, or lists of them.
        hashed: Whether values are hash buckets.
        digest: Of the codes of all rows in order. A code is the order of first sight, so columns
            that are one another's renaming have one digest.
        code: Codes of a chunk, the same again.
        texts: Codes to texts, for reports.
    """

    field: Field
    counts: np.ndarray
    sums: np.ndarray | None
    squares: np.ndarray | None
    sample: np.ndarray | Lists
    hashed: bool
    digest: str
    code: Callable[[Chunk], np.ndarray | Lists] = dataclasses.field(repr=False)
    texts: Callable[[np.ndarray], list[str]] = dataclasses.field(repr=False)

    @functools.cached_property
    def train(self) -> np.ndarray:
        """Training counts of values and classes, [V, K]."""
        return add_up(self.counts[:, :HELD_OUT], 1)

    @property
    def held_out(self) -> np.ndarray:
        """Held-out counts, [V, K]."""
        return self.counts[:, HELD_OUT]


class TooManyValuesError(Exception):
    """A column has more distinct values than may be counted apart."""


def count_column(
    rows: Rows,
    one: Field,
    *,
    max_values: int = MAX_VALUES,
    num_buckets: int = NUM_BUCKETS,
) -> ColumnCounts:
    """Read a column and count it.

    Args:
        rows: What each row is.
        one: The column and its kind; encodings and minimum counts are not applied.
        max_values: Distinct values that are counted apart.
        num_buckets: Quantile buckets of a number.

    Raises:
        SchemaError: a value does not fit the column's type.
    """
    try:
        return _Counter(rows, one, max_values, num_buckets).count()
    except TooManyValuesError:
        return _Counter(rows, one, max_values, num_buckets, hashed=True).count()


class _Counter:
    def __init__(
        self,
        rows: Rows,
        one: Field,
        max_values: int,
        num_buckets: int,
        hashed: bool = False,
    ) -> None:
        self.rows, self.field, self.hashed = rows, one, hashed
        self.max_values = max_values
        self.width = NUM_PARTS * rows.num_classes
        self.interner = Interner()
        self.coder = HashCoder(min(HASHED_VALUES, max_values)) if hashed else self.interner
        self.scale = self._fit(num_buckets) if one.kind is Kind.NUMERIC else None
        self.exact = not (one.is_ragged or rows.weighted or rows.is_number)
        kind = np.int32 if self.exact else np.float64
        self.counts = np.zeros((1024, self.width), kind)
        self.used = NUM_RESERVED
        self.sums = np.zeros((1024, self.width)) if rows.is_number else None
        uneven = one.is_ragged or rows.weighted
        self.squares = np.zeros(1024) if uneven else None

    def count(self) -> ColumnCounts:
        sampled: list[np.ndarray | Lists] = []
        digest = hashlib.sha256()  # which processors compute themselves
        for file, chunk in chunks(self.rows, [self.field.name]):
            codes = self._codes(chunk)
            part = slice(chunk.start, chunk.start + chunk.num_rows)
            cell = file.cell[part]
            self._grow(codes)
            _update(digest, codes)
            if self.exact:
                assert isinstance(codes, np.ndarray)
                _count(codes, cell, self.counts)
            else:
                self._add(codes, cell, file.weight, file.number, part)
            low, high = np.searchsorted(file.sample, (part.start, part.stop))
            at = file.sample[low:high] - chunk.start
            sampled.append(
                codes.take(at) if isinstance(codes, Lists) else codes[at].astype(np.int32)
            )
        used = self.used
        return ColumnCounts(
            field=self.field,
            counts=self.counts[:used].reshape(used, NUM_PARTS, self.rows.num_classes),
            sums=None if self.sums is None else self.sums[:used].reshape(used, NUM_PARTS),
            squares=None if self.squares is None else self.squares[:used],
            sample=_joined(sampled),
            hashed=self.hashed,
            digest=digest.hexdigest(),
            code=self._codes,
            texts=self._texts,
        )

    def _codes(self, chunk: Chunk) -> np.ndarray | Lists:
        array = chunk.column(self.field.name)
        if self.scale is not None:
            x = numbers(array, self.field.name, chunk, nan_as_missing=True)
            return self.scale.apply(x)
        if self.field.is_ragged:
            lists = list_codes(array, self.field, self.coder, chunk, nan_as_missing=True)
            return _with_empty(lists)
        return category_codes(array, self.field, self.coder, chunk, nan_as_missing=True)

    def _fit(self, num_buckets: int) -> Scale:
        """Quantiles of the training rows."""
        sample = RowSample(1)
        offset = 0
        for file, chunk in chunks(self.rows, [self.field.name]):
            array = chunk.column(self.field.name)
            x = numbers(array, self.field.name, chunk, nan_as_missing=True)
            train, _ = training_rows(self.rows, file, chunk)
            sample.add(train + offset, [x[train]])
            offset += chunk.num_rows
        return Scale(Encoding.QUANTILE, edges=sample.edges(0, num_buckets))

    def _grow(self, codes: np.ndarray | Lists) -> None:
        values = codes.values if isinstance(codes, Lists) else codes
        size = int(values.max()) + 1 if values.size else 0
        if not self.hashed and size - NUM_RESERVED > self.max_values:
            raise TooManyValuesError
        self.used = max(self.used, size)
        if size > len(self.counts):
            rows = max(size, 2 * len(self.counts))
            self.counts = _longer(self.counts, rows)
            self.sums = None if self.sums is None else _longer(self.sums, rows)
            self.squares = None if self.squares is None else _longer(self.squares, rows)

    def _add(
        self,
        codes: np.ndarray | Lists,
        cell: np.ndarray,
        weight: np.ndarray | None,
        number: np.ndarray | None,
        part: slice,
    ) -> None:
        lengths = codes.lengths if isinstance(codes, Lists) else np.ones(len(codes), np.int64)
        values = codes.values if isinstance(codes, Lists) else codes
        w = np.ones(len(lengths)) if weight is None else weight[part].astype(np.float64)
        w = w / np.maximum(lengths, 1)
        row = np.repeat(np.arange(len(lengths)), lengths)
        row_cell = cell[row]
        used = row_cell != NOT_COUNTED
        values, row, row_cell = values[used].astype(np.int64), row[used], row_cell[used]
        flat = values * self.width + row_cell
        np.add.at(self.counts.reshape(-1), flat, w[row])
        if self.sums is not None and number is not None:
            np.add.at(self.sums.reshape(-1), flat, w[row] * number[part][row])
        if self.squares is not None:
            train = row_cell < HELD_OUT * self.rows.num_classes
            np.add.at(self.squares, values[train], w[row[train]] ** 2)

    def _texts(self, codes: np.ndarray) -> list[str]:
        """Texts of codes, the reserved ones and buckets named as such."""
        if self.scale is not None:
            edges = ("-inf", *(f"{edge:.6g}" for edge in self.scale.edges), "inf")
            spans = enumerate(itertools.pairwise(edges))
            names = {NUM_RESERVED + i: f"[{low}, {high})" for i, (low, high) in spans}
        elif self.hashed:
            names = {int(code): f"bucket {int(code) - NUM_RESERVED}" for code in codes}
        else:
            known = codes[codes >= NUM_RESERVED]
            found = self.interner.texts(known - NUM_RESERVED)
            names = dict(zip(known.tolist(), found, strict=True))
        names |= {MISSING: "(missing)", PADDING: "(empty)"}
        return [names.get(int(code), "") for code in codes]


def _update(digest: Any, codes: np.ndarray | Lists) -> None:
    for one in (codes.values, codes.lengths) if isinstance(codes, Lists) else (codes,):
        digest.update(np.ascontiguousarray(one, np.int32).data)


def _with_empty(lists: Lists) -> Lists:
    """An empty list tells something too: it becomes one value, PADDING."""
    empty = lists.lengths == 0
    if not empty.any():
        return lists
    starts = np.cumsum(lists.lengths) - lists.lengths
    values = np.insert(lists.values, starts[empty], PADDING)
    return Lists(values, np.maximum(lists.lengths, 1))


def _longer(array: np.ndarray, rows: int) -> np.ndarray:
    out = np.zeros((rows, *array.shape[1:]), array.dtype)
    out[: len(array)] = array
    return out


def _joined(pieces: list[np.ndarray | Lists]) -> np.ndarray | Lists:
    lists = [one for one in pieces if isinstance(one, Lists)]
    if lists:
        return Lists(
            np.concatenate([one.values for one in lists]).astype(np.int32),
            np.concatenate([one.lengths for one in lists]),
        )
    return np.concatenate([one for one in pieces if isinstance(one, np.ndarray)])


def _count(codes: np.ndarray, cell: np.ndarray, counts: np.ndarray) -> None:
    """counts[code, cell] += 1 for every row that is counted."""
    kernels = library()
    if kernels is None or codes.dtype not in (np.dtype(np.uint16), np.dtype(np.int32)):
        used = cell != NOT_COUNTED
        np.add.at(counts, (codes[used], cell[used]), 1)
        return
    codes, cell = np.ascontiguousarray(codes), np.ascontiguousarray(cell)
    kernels.count_cells(
        codes.ctypes.data, int(codes.dtype == np.int32), cell.ctypes.data, len(codes),
        counts.shape[1], counts.ctypes.data,
    )  # fmt: skip


@functools.cache
def library() -> ctypes.CDLL | None:
    """The compiled `cells.cpp`; None where there is no compiler."""
    found = load_kernel(Path(__file__).with_name("cells.cpp"))
    if found is None:
        return None
    i32, i64, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    found.count_cells.argtypes, found.count_cells.restype = [ptr, i32, ptr, i64, i64, ptr], None
    found.half_information.argtypes = [
        ptr, i64, i64, i64, ptr, i64, ptr, i64, ptr, i64, ctypes.c_double, ptr,
    ]  # fmt: skip
    found.half_information.restype = None
    found.count_pairs.argtypes = [ptr, ptr, i64, i64, i64, ptr, i64, ptr, i64, ptr, i64, ptr]
    found.count_pairs.restype = None
    return found
