"""What is known of each user and each item, encoded: the inputs of two towers.

The first column of either table is the id itself, `user` or `item`. Vocabularies and scales are
fitted on the users and items that the training pairs have: an item that only the test pairs have
reads as unseen, but its other columns speak for it.

Letters   R rows of a table: U users or I items.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.data.atomic import atomic_folder
from recsys.data.encode import EncodedTable, FeaturePipeline
from recsys.data.infer import check_types, infer_field
from recsys.data.interactions import ITEM, USER, Interactions
from recsys.data.pairs import Pairs
from recsys.data.readers import Chunk, Source
from recsys.data.schema import Schema
from recsys.errors import SchemaError


@dataclass(frozen=True, eq=False)
class SideTable:
    """The encoded columns of all users, or of all items.

    Args:
        pipeline: Fitted; the only way raw rows become these codes.
        rows: R rows, in the order of the ids.
    """

    pipeline: FeaturePipeline
    rows: EncodedTable

    @classmethod
    def fit(cls, frame: pl.DataFrame, known: np.ndarray, name: str) -> SideTable:
        """Infer what the columns are, fit on the known rows, and encode all.

        Args:
            frame: R rows.
            known: [R] bool, rows to fit on.
            name: Of the table, for messages.

        Raises:
            SchemaError: a column cannot be an input, or is empty in the known rows.
        """
        source = Source.from_frame(frame, name)
        schema = Schema(tuple(infer_field(c, kind) for c, kind in source.columns.items()), ())
        check_types(schema, source)

        def fitted_on(chunk: Chunk) -> np.ndarray:
            return known[chunk.start : chunk.start + chunk.num_rows]

        pipeline = FeaturePipeline.fit(source, schema, fitted_on)
        return cls(pipeline, pipeline.transform(frame))

    def select(self, names: Sequence[str] | None) -> SideTable:
        """The table with some of its columns; None for all.

        Raises:
            SchemaError: a column is not there, or none is left.
        """
        if names is None:
            return self
        whole = self.pipeline
        if not names:
            raise SchemaError(
                f"no column is named; name some of {', '.join(whole.schema.names)}, or null."
            )
        schema = whole.schema.select(names)
        kept = set(schema.names)
        pipeline = FeaturePipeline(
            schema,
            {name: one for name, one in whole.vocabularies.items() if name in kept},
            {name: one for name, one in whole.scales.items() if name in kept},
            whole.nan_as_missing,
        )
        coded = [one.name in kept for one in whole.schema.coded]
        dense = [one.name in kept for one in whole.schema.dense]
        ragged = {name: one for name, one in self.rows.ragged.items() if name in kept}
        ids, numbers = self.rows.ids[:, coded], self.rows.dense[:, dense]
        return SideTable(pipeline, EncodedTable(ids, numbers, ragged))


@dataclass(frozen=True, eq=False)
class SideTables:
    """The tables of both sides."""

    users: SideTable
    items: SideTable

    @classmethod
    def fit(cls, data: Interactions, train: Pairs) -> SideTables:
        """Encode what `data` knows of its users and items.

        Args:
            data: Ids, and columns where it has any.
            train: Pairs whose users and items are known; of the same users and items as `data`.
        """
        frames = _frames(data)
        known = (train.user_degrees > 0, train.item_degrees > 0)
        users, items = (
            SideTable.fit(frame, mask, f"{data.name}, {name}s")
            for (name, frame), mask in zip(frames.items(), known, strict=True)
        )
        return cls(users, items)

    @classmethod
    def of_ids(cls, train: Pairs) -> SideTables:
        """Tables of nothing but ids, for pairs whose external ids do not matter."""
        sizes = (train.num_users, train.num_items)
        ids = [pa.array(np.arange(size)) for size in sizes]
        return cls.fit(Interactions("pairs", ids[0], ids[1], train), train)

    @classmethod
    def load(cls, folder: Path, data: Interactions) -> SideTables:
        """Encode the users and items of `data` by what `save_pipelines` wrote.

        Raises:
            SchemaError: the folder does not hold the pipelines, or the data lacks a column.
        """
        tables = []
        for name, frame in _frames(data).items():
            pipeline = FeaturePipeline.load(folder / name)
            tables.append(SideTable(pipeline, pipeline.transform(frame)))
        return cls(*tables)


def save_pipelines(folder: Path, users: FeaturePipeline, items: FeaturePipeline) -> None:
    """Write the pipelines of both sides; the rows are made again from the columns of the data."""
    with atomic_folder(folder) as partial:
        users.save(partial / USER)
        items.save(partial / ITEM)


def _frames(data: Interactions) -> dict[str, pl.DataFrame]:
    sides = {USER: (data.user_ids, data.user_columns), ITEM: (data.item_ids, data.item_columns)}
    frames = {}
    for name, (ids, columns) in sides.items():
        frame = pl.DataFrame({name: pl.Series(name, pl.from_arrow(ids))})
        frames[name] = frame if columns is None else frame.hstack(columns)
    return frames
