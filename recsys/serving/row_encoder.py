"""Columns of requests to encoded rows, the same codes as the feature pipeline's, without its cost.

Turning one row of 39 columns into codes through tables takes milliseconds, most of them per column
and not per value. So the codes of values are remembered: a value that was asked for is a look-up
in a dictionary, any other goes through `recsys.data.columns` as a table's would. Numbers, lists and
the layout of rows are the pipeline's own functions.

Letters   B rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.data.columns import Coder, HashCoder, Lists, category_codes, list_codes
from recsys.data.encode import Columns, EncodedTable, FeaturePipeline, assemble
from recsys.data.readers import Chunk
from recsys.data.schema import MISSING, Encoding, Field, Kind
from recsys.serving.rows import RowColumns

REMEMBERED = 262_144
"""Values whose codes are remembered, over all columns: some 30 MiB."""
LONGEST = 64
"""Longer texts are not remembered."""


class RowEncoder:
    """Encodes checked columns. Not safe to call from several threads at once.

    Args:
        pipeline: Fitted.
        remembered: Values whose codes are remembered, over all columns.
    """

    def __init__(self, pipeline: FeaturePipeline, remembered: int = REMEMBERED) -> None:
        self.pipeline = pipeline
        each = max(1, remembered // max(1, len(pipeline.schema)))
        self._encode = {one.name: self._encoder(one, each) for one in pipeline.schema}

    def encode(self, parts: Sequence[RowColumns]) -> EncodedTable:
        """Encode the rows of some requests, one request after the other."""
        rows = sum(part.num_rows for part in parts)
        fields = {
            name: encode([part.values[name] for part in parts])
            for name, encode in self._encode.items()
        }
        return assemble(self.pipeline.schema, Columns(rows, fields, []), self.pipeline.finish)

    def _encoder(self, one: Field, each: int) -> Callable[[list[Any]], np.ndarray | Lists]:
        if one.kind is Kind.NUMERIC:
            return lambda parts: parts[0] if len(parts) == 1 else np.concatenate(parts)
        pipeline = self.pipeline
        owner = pipeline.schema[one.shares] if one.shares else one
        coder: Coder = (
            HashCoder(owner.hash_size or 1)
            if owner.encoding is Encoding.HASH
            else pipeline.vocabularies[owner.name]
        )
        if one.is_ragged:
            return _ListEncoder(one, RememberedTexts(coder, each), pipeline.nan_as_missing)
        return _ScalarEncoder(one, coder, each)


class _ScalarEncoder:
    """Codes of single values, remembered by the value itself."""

    def __init__(self, one: Field, coder: Coder, most: int) -> None:
        self._field = one
        self._coder = coder
        self._most = most
        self._known: dict[Hashable, int] = {None: MISSING}

    def __call__(self, parts: list[Sequence[Any]]) -> np.ndarray:
        values = parts[0] if len(parts) == 1 else list(chain.from_iterable(parts))
        if self._field.dtype == "float":  # 0.0 and -0.0 are one key, but two texts
            return np.asarray(self._asked(list(values)), dtype=np.int64)
        known = self._known
        try:
            return np.fromiter(map(known.__getitem__, values), np.int64, len(values))
        except KeyError:
            pass
        new = list({value for value in values if value not in known})
        found = dict(zip(new, self._asked(new).tolist(), strict=True))
        codes = [known[v] if v in known else found[v] for v in values]
        if len(known) + len(found) > self._most:
            known.clear()
            known[None] = MISSING
        for value, code in found.items():
            if len(known) <= self._most and (type(value) is not str or len(value) <= LONGEST):
                known[value] = code
        return np.array(codes, dtype=np.int64)

    def _asked(self, values: list[Any]) -> np.ndarray:
        """Codes of values through a table, [B]."""
        array, one = _arrow(values, self._field)
        return category_codes(array, one, self._coder, _chunk(len(values))).astype(np.int64)


class _ListEncoder:
    """Codes of lists by the pipeline's own function; only texts are remembered."""

    def __init__(self, one: Field, coder: Coder, nan_as_missing: bool) -> None:
        self._field = one
        self._coder = coder
        self._nan_as_missing = nan_as_missing

    def __call__(self, parts: list[Sequence[Any]]) -> Lists:
        rows = list(chain.from_iterable(parts))
        lengths = np.fromiter((0 if row is None else len(row) for row in rows), np.int32, len(rows))
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int32)
        values, one = _arrow(list(chain.from_iterable(row or () for row in rows)), self._field)
        null = np.array([row is None for row in rows] or [False])
        array = pa.ListArray.from_arrays(
            pa.array(offsets), values, mask=pa.array(null) if null.any() else None
        )
        return list_codes(array, one, self._coder, _chunk(len(rows)), self._nan_as_missing)


class RememberedTexts:
    """A coder that remembers codes of texts.

    Args:
        coder: Knows all of them; its answer for a text never changes.
        most: Texts that are remembered; past these, all are forgotten.
    """

    def __init__(self, coder: Coder, most: int) -> None:
        self._coder = coder
        self._most = most
        self._known: dict[str | None, int] = {None: MISSING}

    def codes(self, texts: pa.Array) -> np.ndarray:
        """Codes of texts, MISSING for null."""
        wanted: list[str | None] = texts.to_pylist()
        known = self._known
        new = list({text for text in wanted if text not in known})
        found: dict[str | None, int] = {}
        if new:
            codes = self._coder.codes(pa.array(new, pa.string()))
            found = dict(zip(new, codes.tolist(), strict=True))
        out = [known[text] if text in known else found[text] for text in wanted]
        if len(known) + len(found) > self._most:
            known.clear()
            known[None] = MISSING
        for text, code in found.items():
            if text is not None and len(known) <= self._most and len(text) <= LONGEST:
                known[text] = code
        return np.array(out, dtype=np.int64)


def _arrow(values: list[Any], one: Field) -> tuple[pa.Array, Field]:
    """Checked values as a table would hold them, and the field to read them by."""
    if one.dtype == "float":
        return pa.array([None if v is None else float(v) for v in values], pa.float64()), one
    if one.dtype != "int":
        return pa.array(values, pa.bool_() if one.dtype == "bool" else pa.string()), one
    if not any(value is not None and value >= 2**63 for value in values):
        return pa.array(values, pa.int64()), one
    # No integer type holds these beside negative ones; vocabularies know integers by their texts.
    texts = pa.array([None if value is None else str(value) for value in values], pa.string())
    return texts, dataclasses.replace(one, dtype="string")


def _chunk(rows: int) -> Chunk:
    def nothing(name: str) -> pa.Array:
        raise KeyError(name)

    return Chunk(nothing, rows, "<request>", 0, 0)
