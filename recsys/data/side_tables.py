"""What is known of each user and each item, encoded: the inputs of two towers.

The first column of either table is the id itself, `user` or `item`. Vocabularies and scales are
fitted on the users and items that the training pairs have: an item that only the test pairs have
reads as unseen, but its other columns speak for it. On request users have one more column: the list
of the items that they have in the training pairs.

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
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.errors import SchemaError

HISTORY = "training_items"
"""Column of users: the items that they have in the training pairs."""


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
        fields = [infer_field(column, kind) for column, kind in source.columns.items()]
        fields = [_whole_history(one) if one.name == HISTORY else one for one in fields]
        schema = Schema(tuple(fields), ())
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
    def fit(cls, data: Interactions, train: Pairs, history: bool = False) -> SideTables:
        """Encode what `data` knows of its users and items.

        Args:
            data: Ids, and columns where it has any.
            train: Pairs whose users and items are known; of the same users and items as `data`.
            history: Users have the column `HISTORY`, of the items that `train` gives them.
        """
        frames = _frames(data, train if history else None)
        known = (train.user_degrees > 0, train.item_degrees > 0)
        users, items = (
            SideTable.fit(frame, mask, f"{data.name}, {name}s")
            for (name, frame), mask in zip(frames.items(), known, strict=True)
        )
        return cls(users, items)

    @classmethod
    def of_ids(cls, train: Pairs, history: bool = False) -> SideTables:
        """Tables of nothing but ids, for pairs whose external ids do not matter."""
        sizes = (train.num_users, train.num_items)
        ids = [pa.array(np.arange(size)) for size in sizes]
        return cls.fit(Interactions("pairs", ids[0], ids[1], train), train, history)

    @classmethod
    def load(cls, folder: Path, data: Interactions) -> SideTables:
        """Encode the users and items of `data` by what `save_pipelines` wrote.

        Raises:
            SchemaError: the folder does not hold the pipelines, or the data lacks a column.
        """
        pipelines = {name: FeaturePipeline.load(folder / name) for name in (USER, ITEM)}
        history = HISTORY in pipelines[USER].schema.names
        frames = _frames(data, data.train if history else None)
        return cls(
            *(SideTable(one, one.transform(frames[name])) for name, one in pipelines.items())
        )


def save_pipelines(folder: Path, users: FeaturePipeline, items: FeaturePipeline) -> None:
    """Write the pipelines of both sides; the rows are made again from the columns of the data."""
    with atomic_folder(folder) as partial:
        users.save(partial / USER)
        items.save(partial / ITEM)


def _frames(data: Interactions, history: Pairs | None) -> dict[str, pl.DataFrame]:
    sides = {USER: (data.user_ids, data.user_columns), ITEM: (data.item_ids, data.item_columns)}
    frames = {}
    for name, (ids, columns) in sides.items():
        frame = pl.DataFrame({name: pl.Series(name, pl.from_arrow(ids))})
        frames[name] = frame if columns is None else frame.hstack(columns)
    if history is not None:
        if HISTORY in frames[USER].columns:
            raise SchemaError(f'"{HISTORY}" is the name of a column that is made; rename yours.')
        items = data.item_ids.take(pa.array(history.items))
        lists = pa.LargeListArray.from_arrays(pa.array(history.offsets), items)
        frames[USER] = frames[USER].with_columns(pl.Series(HISTORY, pl.from_arrow(lists)))
    return frames


def _whole_history(one: Field) -> Field:
    """A set of items, however many: pairs have no order."""
    kind, encoding = Kind.MULTIVALUED, Encoding.VOCABULARY
    return Field(name=one.name, kind=kind, encoding=encoding, dtype=one.dtype)
