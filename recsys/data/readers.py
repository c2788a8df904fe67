"""Lazy readers: one table in one or many files, read in chunks, never whole.

A `Source` knows its columns, types and row count without reading a value. `batches` yields tables;
`chunks` yields handles whose columns are read one by one, from any thread, which is what keeps a
wide table's fit and encode parallel and small.

CSV is converted once to Parquet by a streaming reader, so every later pass costs the same.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from recsys.data.csv_to_parquet import SEPARATORS, convert_csv, has_suffix
from recsys.data.formats import (
    ARROW_SUFFIXES,
    PARQUET_SUFFIXES,
    ArrowPart,
    ParquetPart,
    Part,
    Read,
    TablePart,
    plain,
    plain_type,
)
from recsys.data.remote import Place, expand, is_address
from recsys.errors import SchemaError, did_you_mean

CHUNK_ROWS = 524_288
"""Rows handled at a time: 39 columns of these take about 150 MB while they are encoded."""
FRAME = "<frame>"
"""Stands for the file name of a table that came from memory."""


def num_workers() -> int:
    """Threads worth using for column work."""
    return max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 4))


@dataclass(frozen=True)
class SourceBatch:
    """Some consecutive rows of a source, from one file."""

    table: pa.Table
    file: str
    first_row: int
    """Position of the first row within the file."""
    start: int
    """Position of the first row within the source."""


@dataclass(frozen=True)
class Chunk:
    """A handle on some consecutive rows of one file; `column` reads and may be called anywhere."""

    column: Callable[[str], pa.Array]
    """Column name to values; strings come dictionary-encoded where that is cheaper."""
    num_rows: int
    file: str
    first_row: int
    start: int

    def where(self, offset: int, last: int | None = None) -> str:
        """Name rows of this chunk by file and position, for error messages."""
        first = self.first_row + offset
        rows = f"row {first}" if last is None else f"rows {first} to {self.first_row + last}"
        return f"{self.file} {rows}"


@dataclass(frozen=True)
class Span:
    """Consecutive rows of a source: whole reads of its files, hence the same chunks as without it.

    Args:
        reads: Position of a part, and what is read of it.
        start: Position of the first row within the source.
        num_rows: In all.
        rows_per_chunk: With which the chunks were laid out.
        where: Files and row groups, for messages.
    """

    reads: tuple[tuple[int, tuple[Read, ...]], ...]
    start: int
    num_rows: int
    rows_per_chunk: int
    where: str


class Source:
    """One table in one or many files of the same columns and types, read lazily."""

    def __init__(self, parts: Sequence[Part], keep: Any = None) -> None:
        self._parts = list(parts)
        self._keep = keep  # a temporary folder lives as long as the source that reads it
        self.columns = _same_columns(self._parts)
        self.num_rows = sum(part.num_rows for part in self._parts)
        if not self.num_rows:
            names = ", ".join(part.name for part in self._parts)
            raise SchemaError(f"{names} has no rows; at least one is needed. Check data.path.")

    @classmethod
    def open(
        cls,
        path: str | Path | Sequence[str | Path],
        *,
        names: Sequence[str] | None = None,
        types: dict[str, pa.DataType] | None = None,
        separator: str | None = None,
        null_values: Sequence[str] = ("",),
        cache_dir: Path | None = None,
    ) -> Source:
        """Open a file, a folder, a glob or a list of them; nothing but headers is read.

        Args:
            path: `.parquet`, `.csv`/`.tsv` (also `.gz`), `.arrow`/`.feather`/`.ipc`. A folder means
                every such file directly in it or below, in name order. An address such as
                `s3://bucket/clicks` is read where it is, and holds Parquet.
            names: Column names of a CSV without a header line.
            types: Types of CSV columns that must not be inferred.
            separator: CSV separator; by default tab for `.tsv` and comma otherwise.
            null_values: Texts that mean "missing" in a CSV.
            cache_dir: Where a CSV is converted to Parquet once; by default a temporary folder.

        Raises:
            SchemaError: No file, a file that cannot be read, no rows, duplicate column names, or
                files whose columns or types differ.
        """
        parts: list[Part] = []
        keep: list[Any] = []
        for file in _expand(path):
            if isinstance(file, Place):
                parts.append(ParquetPart(file))
            elif has_suffix(file, tuple(SEPARATORS)):
                parquet, folder = convert_csv(
                    file,
                    names=names,
                    types=types,
                    separator=separator,
                    null_values=null_values,
                    cache_dir=cache_dir,
                )
                parts.append(ParquetPart(parquet, origin=file))
                keep.append(folder)
            elif file.suffix in ARROW_SUFFIXES:
                parts.append(ArrowPart(file))
            else:
                parts.append(ParquetPart(file))
        return cls(parts, keep)

    @classmethod
    def from_frame(cls, frame: pl.DataFrame | pa.Table, name: str = FRAME) -> Source:
        """A table that is in memory already."""
        if isinstance(frame, pl.DataFrame):
            frame = frame.to_arrow(compat_level=pl.CompatLevel.oldest())
        return cls([TablePart(frame, name)])

    def __repr__(self) -> str:
        return (
            f"Source({len(self._parts)} files, {len(self.columns)} columns, {self.num_rows:,} rows)"
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """The files or frames, in reading order."""
        return tuple(self._parts)

    @property
    def files(self) -> tuple[tuple[str, int], ...]:
        """Name and row count of each file, in reading order."""
        return tuple((part.name, part.num_rows) for part in self._parts)

    def require(self, columns: Sequence[str]) -> None:
        """Raise a SchemaError when a column is absent, with the closest name that exists."""
        for name in columns:
            if name not in self.columns:
                raise SchemaError(
                    f'{self._parts[0].name} has no column "{name}".'
                    f"{did_you_mean(name, self.columns)}"
                )

    def chunks(
        self,
        columns: Sequence[str] | None = None,
        rows_per_chunk: int = CHUNK_ROWS,
        span: Span | None = None,
    ) -> Iterator[Chunk]:
        """Go through the rows in order; a chunk never spans two files.

        Args:
            columns: Those that will be asked for; None means all.
            rows_per_chunk: At most, unless a file is laid out otherwise; a span has its own.
            span: Only these rows; None means all.
        """
        names = list(self.columns) if columns is None else list(dict.fromkeys(columns))
        self.require(names)
        asked: list[tuple[Part, Sequence[Read] | None]] = [(part, None) for part in self._parts]
        start = 0
        if span is not None:
            asked = [(self._parts[position], reads) for position, reads in span.reads]
            start, rows_per_chunk = span.start, span.rows_per_chunk
        for part, reads in asked:
            first = reads[0].first_row if reads else 0
            for num_rows, column in part.chunks(names, rows_per_chunk, reads):
                yield Chunk(column, num_rows, part.name, first, start)
                first += num_rows
                start += num_rows

    def spans(self, rows: int, rows_per_chunk: int = CHUNK_ROWS) -> list[Span]:
        """Cut the rows into spans of `rows` rows or a little more, the last one aside."""
        found: list[Span] = []
        waiting: list[tuple[int, Read]] = []
        start = size = 0
        for position, part in enumerate(self._parts):
            for read in part.reads(rows_per_chunk):
                waiting.append((position, read))
                size += read.num_rows
                if size >= rows:
                    found.append(self._span(waiting, start, size, rows_per_chunk))
                    start, size, waiting = start + size, 0, []
        if waiting:
            found.append(self._span(waiting, start, size, rows_per_chunk))
        return found

    def _span(
        self, reads: list[tuple[int, Read]], start: int, num_rows: int, rows_per_chunk: int
    ) -> Span:
        (first, one), (last, other) = reads[0], reads[-1]
        where = f"{self._parts[first].name} row groups {one.first} to {other.stop - 1}"
        if first != last:
            where = f"{self._parts[first].name} row group {one.first} to "
            where += f"{self._parts[last].name} row group {other.stop - 1}"
        by_part = itertools.groupby(reads, key=lambda found: found[0])
        together = tuple((key, tuple(read for _, read in group)) for key, group in by_part)
        return Span(together, start, num_rows, rows_per_chunk, where)

    def batches(
        self, columns: Sequence[str] | None = None, rows_per_batch: int = CHUNK_ROWS
    ) -> Iterator[SourceBatch]:
        """Read some columns in order, at most so many rows at a time."""
        names = list(self.columns) if columns is None else list(dict.fromkeys(columns))
        for chunk in self.chunks(names, rows_per_batch):
            table = pa.table({name: plain(chunk.column(name)) for name in names})
            for skip in range(0, chunk.num_rows, rows_per_batch):
                part = table.slice(skip, rows_per_batch)
                yield SourceBatch(part, chunk.file, chunk.first_row + skip, chunk.start + skip)

    def head(self, rows: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The first rows."""
        pieces: list[pa.Table] = []
        for batch in self.batches(columns, rows):
            pieces.append(batch.table.slice(0, rows))
            rows -= len(pieces[-1])
            if rows <= 0:
                break
        return pa.concat_tables(pieces)

    def digest(self) -> str:
        """Changes when the files, their sizes or times, or their columns do."""
        types = {name: str(kind) for name, kind in self.columns.items()}
        text = json.dumps([types, [part.stamp() for part in self._parts]])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _expand(path: str | Path | Sequence[str | Path]) -> list[Path | Place]:
    """Files behind a file, a folder, a glob or a list of them, in name order."""
    if isinstance(path, str) and is_address(path):
        return [*expand(path, PARQUET_SUFFIXES)]
    if not isinstance(path, (str, Path)):
        return [file for one in path for file in _expand(one)]
    readable = (*PARQUET_SUFFIXES, *ARROW_SUFFIXES, *SEPARATORS)
    text = str(Path(path).expanduser())
    if any(sign in text for sign in "*?[") and not Path(text).exists():
        anchor = Path(Path(text).anchor or ".")
        found = sorted(anchor.glob(str(Path(text).relative_to(anchor))))
        files = [file for file in found if not file.name.startswith((".", "_"))]
    elif Path(text).is_dir():
        files = sorted(
            file
            for file in Path(text).rglob("*")
            if has_suffix(file, readable) and not file.name.startswith((".", "_"))
        )
    else:
        files = [Path(text)]
    files = [file for file in files if file.is_file()]
    if not files:
        raise SchemaError(
            f"no data file at {path}; give a file, a folder, a glob or a list of files that end "
            f"in {', '.join(readable)} (CSV also .gz). Check data.path."
        )
    for file in files:
        if not has_suffix(file, readable):
            raise SchemaError(
                f"{file} is of a format that is not read; allowed endings: {', '.join(readable)} "
                "(CSV also .gz). Rename or convert it."
            )
    return [*files]


def _same_columns(parts: Sequence[Part]) -> dict[str, pa.DataType]:
    """Columns and types of the first file, which every other file must have too."""
    if not parts:
        raise SchemaError("no data file was given; give at least one.")
    for part in parts:
        names = part.schema.names
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise SchemaError(
                f"{part.name} has these column names twice: {', '.join(twice)}. Rename them."
            )
    first = parts[0]
    types = {field.name: plain_type(field.type) for field in first.schema}
    for part in parts[1:]:
        other = {field.name: plain_type(field.type) for field in part.schema}
        for name in [*types, *other]:
            mine, its = types.get(name), other.get(name)
            if mine != its:
                raise SchemaError(
                    f'column "{name}" is {mine or "absent"} in {first.name} but '
                    f"{its or 'absent'} in {part.name}; all files of one table must have the same "
                    "columns and types. Convert one of them, or read them apart."
                )
    return types
