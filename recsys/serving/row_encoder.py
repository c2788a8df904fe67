"""Columns of requests to encoded rows: the same codes as the feature pipeline's, at once.

A table of one row and 39 columns costs milliseconds, most of them per column and not per value: in
finding out what a column holds. Here that is known already, so values become the texts by which
vocabularies know them and are looked up. Numbers, lists and the layout of rows are the pipeline's
own functions.

Letters   B rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.data.columns import Coder, Lists, category_codes, list_codes, unfitted_coder
from recsys.data.encode import Columns, EncodedTable, FeaturePipeline, assemble
from recsys.data.readers import Chunk
from recsys.data.schema import Field, Kind
from recsys.serving.rows import RowColumns

_TRUTH = {None: None, True: "true", False: "false"}


class RowEncoder:
    """Encodes checked columns.

    Args:
        pipeline: Fitted.
    """

    def __init__(self, pipeline: FeaturePipeline) -> None:
        self.pipeline = pipeline
        self._encode = {one.name: self._encoder(one) for one in pipeline.schema}

    def encode(self, parts: Sequence[RowColumns]) -> EncodedTable:
        """Encode the rows of some requests, one request after the other."""
        rows = sum(part.num_rows for part in parts)
        fields = {
            name: encode([part.values[name] for part in parts])
            for name, encode in self._encode.items()
        }
        return assemble(self.pipeline.schema, Columns(rows, fields, []), self.pipeline.finish)

    def _encoder(self, one: Field) -> Callable[[list[Any]], np.ndarray | Lists]:
        if one.kind is Kind.NUMERIC:
            return np.concatenate
        pipeline = self.pipeline
        owner = pipeline.schema[one.shares] if one.shares else one
        coder: Coder = unfitted_coder(owner) or pipeline.vocabularies[owner.name]
        # Integers and booleans come as texts, which are what vocabularies know them by.
        read_as = one if one.dtype == "float" else dataclasses.replace(one, dtype="string")
        return partial(_lists if one.is_ragged else _scalars, one.dtype, read_as, coder)


def _scalars(dtype: str, one: Field, coder: Coder, parts: list[Sequence[Any]]) -> np.ndarray:
    """Codes of single values, [B]."""
    values = list(chain.from_iterable(parts))
    array = _arrow(values, dtype)
    if dtype != "float":
        return coder.codes(array)
    return category_codes(array, one, coder, _chunk(len(values)))


def _lists(dtype: str, one: Field, coder: Coder, parts: list[Sequence[Any]]) -> Lists:
    """Codes of lists, B of them."""
    rows = list(chain.from_iterable(parts))
    lengths = np.fromiter((0 if row is None else len(row) for row in rows), np.int32, len(rows))
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
    values = _arrow(list(chain.from_iterable(row or () for row in rows)), dtype)
    null = pa.array([row is None for row in rows])
    array = pa.ListArray.from_arrays(pa.array(offsets), values, mask=null)
    return list_codes(array, one, coder, _chunk(len(rows)))


def _arrow(values: list[Any], dtype: str) -> pa.Array:
    """Checked values as texts, or as numbers whose text is Arrow's to write. Integers as texts may
    be of any size: no type of numbers holds all that JSON can say."""
    if dtype == "float":
        return pa.array([None if v is None else float(v) for v in values], pa.float64())
    if dtype == "int":
        values = [None if value is None else str(value) for value in values]
    elif dtype == "bool":
        values = [_TRUTH[value] for value in values]
    return pa.array(values, pa.string())


def _chunk(rows: int) -> Chunk:
    def nothing(name: str) -> pa.Array:
        raise KeyError(name)

    return Chunk(nothing, rows, "<request>", 0, 0)
