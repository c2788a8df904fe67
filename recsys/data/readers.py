"""Lazy readers: one table in one or many files, read in batches, never whole."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl
import pyarrow as pa


@dataclass(frozen=True)
class SourceBatch:
    """Some consecutive rows of a source, from one file."""

    table: pa.Table
    file: str
    first_row: int
    """Position of the first row within the file."""
    start: int
    """Position of the first row within the source."""


class Source:
    """One table in one or many files of the same columns and types."""

    columns: dict[str, pa.DataType]
    num_rows: int

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
        """Open a file, a folder, a glob or a list of them.

        Args:
            path: `.parquet`, `.csv`/`.tsv` (also `.gz`), `.arrow`/`.feather`/`.ipc`.
            names: Column names of a CSV without a header line.
            types: Types of CSV columns that must not be inferred.
            separator: CSV separator; by default tab for `.tsv` and comma otherwise.
            null_values: Texts that mean "missing" in a CSV.
            cache_dir: Where a CSV is converted to Parquet once; by default a temporary folder.
        """
        raise NotImplementedError

    @classmethod
    def from_frame(cls, frame: pl.DataFrame) -> Source:
        """A table that is in memory already."""
        raise NotImplementedError

    def batches(
        self, columns: Sequence[str] | None = None, rows_per_batch: int = 262_144
    ) -> Iterator[SourceBatch]:
        """Read some columns in order, some rows at a time."""
        raise NotImplementedError

    def digest(self) -> str:
        """Changes when the files, their sizes, or their columns do."""
        raise NotImplementedError
