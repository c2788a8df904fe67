"""A table of what is known about users or items: to filter by, to name them, to rank by.

Letters   N known ids.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.data.readers import Source
from recsys.errors import SchemaError
from recsys.retrieval.external_ids import as_ids, positions_in
from recsys.retrieval.where import fulfils


@dataclass(frozen=True, eq=False)
class FeatureTable:
    """Rows by external id.

    Args:
        frame: A row for each id; the column `key` is the id.
        key: Name of that column.
        ids: [rows] external ids, each once.
    """

    frame: pl.DataFrame
    key: str
    ids: pa.Array

    @classmethod
    def open(cls, path: str | Path, key: str, kind: pa.DataType, what: str) -> FeatureTable:
        """Read a table: Parquet, CSV or Arrow.

        Args:
            path: File, folder or glob.
            key: Column of ids.
            kind: Type of the ids that the model knows.
            what: `user` or `item`, for messages.

        Raises:
            SchemaError: the column is absent or of another type, or an id is there twice.
        """
        source = Source.open(path)
        source.require([key])
        table = pa.concat_tables(
            [batch.table for batch in source.batches()], promote_options="permissive"
        )
        ids = as_ids(table[key].combine_chunks(), kind, what)
        column = pl.Series(ids)
        if column.n_unique() < len(column):
            twice = column.filter(column.is_duplicated())
            raise SchemaError(
                f"{path} has {what} {twice[0]!r} more than once ({twice.n_unique():,} such ids); "
                "give one row for each."
            )
        frame = pl.from_arrow(table)
        assert isinstance(frame, pl.DataFrame)
        return cls(frame.with_columns(pl.Series(key, column)), key, ids)

    def where(self, text: str, ids: pa.Array) -> np.ndarray:
        """Which of some ids fulfil a condition, [N] bool; an id that the table lacks does not.

        Raises:
            ConfigError, SchemaError: see `where.fulfils`.
        """
        at = positions_in(self.ids, ids)
        return (at >= 0) & fulfils(self.frame, text).to_numpy()[np.maximum(at, 0)]

    def titles(self, ids: pa.Array) -> pa.Array | None:
        """The column `title` for some ids, [N] string; None where there is no such column."""
        if "title" not in self.frame.columns:
            return None
        at = positions_in(self.ids, ids)
        column = self.frame["title"].cast(pl.String).to_arrow().cast(pa.string())
        return column.take(pa.array(at, mask=at < 0))
