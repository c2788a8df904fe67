"""One file, or one table in memory, read by columns and in pieces.

Text columns whose Parquet pages are dictionary-encoded stay so: work is then per distinct value.
"""

from __future__ import annotations

import hashlib
import platform
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.remote import Place
from recsys.errors import SchemaError

INDEX_BYTES = 4
"""A text column that takes more bytes per row than this in Parquet is not dictionary-encoded."""
PARQUET_SUFFIXES = (".parquet", ".pq", ".parq")
ARROW_SUFFIXES = (".arrow", ".feather", ".ipc")
STAMP_ROWS = 524_288
"""Rows of a table in memory that are hashed at a time."""

Pieces = Iterator[tuple[int, Callable[[str], pa.Array]]]
"""Number of rows, and column name to values."""


@dataclass(frozen=True)
class Read:
    """Rows of a part that are read in one go, or piece by piece when they are too many."""

    first: int
    """First row group, record batch or slice."""
    stop: int
    first_row: int
    num_rows: int


class Part(Protocol):
    """One file (or frame) of a source."""

    name: str
    num_rows: int
    schema: pa.Schema

    def reads(self, rows: int) -> list[Read]:
        """What `chunks` goes through, in order: about `rows` rows each."""
        ...

    def chunks(
        self, columns: Sequence[str], rows: int, reads: Sequence[Read] | None = None
    ) -> Pieces:
        """All rows, or those of some consecutive reads."""
        ...

    def stamp(self) -> list[Any]: ...


class ParquetPart:
    """One Parquet file. Strings are read dictionary-encoded: work is per distinct value."""

    def __init__(self, file: Path | Place, origin: Path | None = None) -> None:
        self.file = file
        self.origin = origin or file
        self.name = file.address if isinstance(file, Place) else str(self.origin)
        try:
            self.metadata = pq.read_metadata(*self._where())
            self.schema = self.metadata.schema.to_arrow_schema()
        except (OSError, pa.ArrowException) as error:
            raise SchemaError(
                f"{self.name} cannot be read as Parquet: it is truncated or of another format "
                f"({error}). Write it again, or remove it from data.path."
            ) from error
        self.num_rows = self.metadata.num_rows
        self._local = threading.local()

    def _where(self) -> tuple[Any, ...]:
        """The file, as pyarrow's functions take it at their front."""
        if isinstance(self.file, Place):
            return (self.file.filesystem.open_input_file(self.file.path),)
        return (self.file,)

    def stamp(self) -> list[Any]:
        if isinstance(self.origin, Place):
            info = self.origin.info()
            return [self.origin.name, info.size, info.mtime_ns, self.num_rows]
        stat = self.origin.stat()
        return [Path(self.name).name, stat.st_size, stat.st_mtime_ns, self.num_rows]

    def _dictionaries(self) -> list[str]:
        """Text columns whose pages are dictionary-encoded; others are decoded faster as texts.

        A writer gives up the dictionary of a column when it grows too long, and then the values
        take more bytes than an index would.
        """
        texts = {f.name for f in self.schema if is_text(f.type)}
        size = dict.fromkeys(texts, 0)
        for group in range(self.metadata.num_row_groups):
            about = self.metadata.row_group(group)
            for position in range(about.num_columns):
                column = about.column(position)
                if column.path_in_schema in texts:
                    size[column.path_in_schema] += column.total_uncompressed_size
        return [name for name in texts if size[name] <= INDEX_BYTES * self.num_rows]

    def _reader(self) -> pq.ParquetFile:
        # A ParquetFile is not made for concurrent reads, so each thread holds its own.
        if not hasattr(self._local, "reader"):
            self._local.reader = pq.ParquetFile(
                *self._where(), metadata=self.metadata, read_dictionary=self._dictionaries(),
                pre_buffer=isinstance(self.file, Place),
            )  # fmt: skip
        return self._local.reader

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_local": None}  # open files stay where they were opened

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ = {**state, "_local": threading.local()}

    def reads(self, rows: int) -> list[Read]:
        """Row groups that together have at most so many rows, or one that has more."""
        sizes = [self.metadata.row_group(g).num_rows for g in range(self.metadata.num_row_groups)]
        found: list[Read] = []
        group = first_row = 0
        while group < len(sizes):
            last, total = group + 1, sizes[group]
            while last < len(sizes) and total + sizes[last] <= rows:
                total += sizes[last]
                last += 1
            if total:
                found.append(Read(group, last, first_row, total))
            first_row += total
            group = last
        return found

    def chunks(
        self, columns: Sequence[str], rows: int, reads: Sequence[Read] | None = None
    ) -> Pieces:
        for read in self.reads(rows) if reads is None else reads:
            if read.num_rows > 2 * rows:
                yield from self._pieces(read.first, columns, rows)
            else:
                yield read.num_rows, self._column_reader(list(range(read.first, read.stop)))

    def _column_reader(self, groups: list[int]) -> Callable[[str], pa.Array]:
        def column(name: str) -> pa.Array:
            with _reading(self.name):
                reader = self._reader()
                table = reader.read_row_groups(groups, columns=[name], use_threads=False)
            return one_array(table.column(name))

        return column

    def _pieces(self, group: int, columns: Sequence[str], rows: int) -> Pieces:
        with _reading(self.name):
            batches = self._reader().iter_batches(rows, [group], list(columns), use_threads=True)
        while True:
            with _reading(self.name):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch.num_rows, batch.column


class ArrowPart:
    """One Arrow IPC (Feather v2) file, memory-mapped."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.name = str(file)
        try:
            with pa.memory_map(str(file)) as handle, pa.ipc.open_file(handle) as reader:
                self.schema = reader.schema
                groups = range(reader.num_record_batches)
                self.sizes = [reader.get_batch(group).num_rows for group in groups]
        except (OSError, pa.ArrowException) as error:
            raise SchemaError(
                f"{file} cannot be read as an Arrow file: it is truncated or of another format "
                f"({error}). Write it again, or remove it from data.path."
            ) from error
        self.num_rows = sum(self.sizes)

    def stamp(self) -> list[Any]:
        stat = self.file.stat()
        return [Path(self.name).name, stat.st_size, stat.st_mtime_ns, self.num_rows]

    def reads(self, rows: int) -> list[Read]:
        del rows
        ends = np.cumsum([0, *self.sizes]).tolist()
        return [Read(i, i + 1, ends[i], size) for i, size in enumerate(self.sizes) if size]

    def chunks(
        self, columns: Sequence[str], rows: int, reads: Sequence[Read] | None = None
    ) -> Pieces:
        del columns  # pages of columns that are not touched are never read
        with (
            _reading(self.name),
            pa.memory_map(str(self.file)) as handle,
            pa.ipc.open_file(handle) as reader,
        ):
            for read in self.reads(rows) if reads is None else reads:
                batch = reader.get_batch(read.first)
                for skip in range(0, read.num_rows, rows):
                    piece = batch.slice(skip, rows)
                    yield piece.num_rows, piece.column


class TablePart:
    """A table in memory."""

    def __init__(self, table: pa.Table, name: str) -> None:
        self.table = table
        self.name = name
        self.num_rows = table.num_rows
        self.schema = table.schema

    def stamp(self) -> list[Any]:
        digest = hashlib.sha256()
        for batch in self.table.to_batches(max_chunksize=STAMP_ROWS):
            frame = pl.from_arrow(batch)
            assert isinstance(frame, pl.DataFrame)
            digest.update(frame.hash_rows(seed=0).to_numpy().tobytes())
        return [self.name, self.num_rows, digest.hexdigest()]

    def reads(self, rows: int) -> list[Read]:
        starts = range(0, self.num_rows, rows)
        return [
            Read(i, i + 1, start, min(rows, self.num_rows - start))
            for i, start in enumerate(starts)
        ]

    def chunks(
        self, columns: Sequence[str], rows: int, reads: Sequence[Read] | None = None
    ) -> Pieces:
        del columns
        for read in self.reads(rows) if reads is None else reads:
            piece = self.table.slice(read.first_row, read.num_rows)

            def column(name: str, piece: pa.Table = piece) -> pa.Array:
                return one_array(piece.column(name))

            yield piece.num_rows, column


class _reading:  # noqa: N801 - reads as a verb at the call
    """Turn a failure in the middle of a file into an error that names the file."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, FileNotFoundError):
            raise SchemaError(
                f"{self.name} is gone, or not on this machine ({platform.node()}). Put it where "
                "every machine that prepares sees it under this name."
            ) from error
        if isinstance(error, (OSError, pa.ArrowException)):
            raise SchemaError(
                f"{self.name} is corrupted ({error}). Write it again, or remove it from data.path."
            ) from error


def plain_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values, however they are laid out: no dictionary, no large or view type."""
    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if is_text(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type))
    return kind


def is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """One array out of a chunked column."""
    if column.num_chunks == 1:
        return column.chunk(0)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.combine_chunks() if column.num_chunks else pa.array([], column.type)


def plain(array: pa.Array) -> pa.Array:
    """Decode dictionaries and views."""
    kind = plain_type(array.type)
    if array.type == kind:
        return array
    if pa.types.is_dictionary(array.type) and pa.types.is_string_view(array.type.value_type):
        # Polars writes its categories so into an Arrow file, and Arrow cannot decode them.
        array = pa.DictionaryArray.from_arrays(array.indices, array.dictionary.cast(kind))
    return array.cast(kind)


_WHOLE = {
    getattr(pa, name)(): np.dtype(name)
    for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
}


def whole_numbers(array: pa.Array) -> np.ndarray:
    """Integers without nulls as they lie in memory. `to_numpy` does the same, but imports pandas
    first, which takes a third of a second.

    Example:
        >>> whole_numbers(pa.array([1, 2, 3], pa.int8())[1:]).tolist()
        [2, 3]
    """
    kind = _WHOLE.get(array.type)
    if kind is None or array.null_count:
        return array.to_numpy(zero_copy_only=False)
    if not len(array):
        return np.empty(0, kind)
    return np.frombuffer(array.buffers()[1], kind)[array.offset : array.offset + len(array)]
