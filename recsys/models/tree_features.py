"""Encoded rows as one matrix of numbers, for models made of trees.

    column                   becomes
    vocabulary, hash         its code, a category: missing and unseen values are categories too
    quantile                 its bucket, an ordered number; NaN where the value is missing
    log, standard, minmax    the prepared number; a missing one is the training mean already
    multi-valued             <name>.length, <name>.first (category), and how often each of the most
                             frequent tokens is in the list (vocabularies only): <name>.3, <name>.4
                             ... are codes, the most frequent first
    history                  <name>.length, <name>.last (category), and <name>.matches: how many of
                             its events are the value of the field whose table it shares

Letters   B rows, F coded fields, N dense columns, M features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.data.encode import EncodedTable
from recsys.data.schema import MISSING, NUM_RESERVED, Encoding, Field, Kind, Schema
from recsys.data.store import Store


@dataclass(frozen=True)
class Feature:
    """One column of the matrix."""

    name: str
    field: str
    """The raw field it is made of."""
    categorical: bool = False


class TreeFeatures:
    """Which features a schema gives, and how rows become them.

    Args:
        schema: Fitted.
        list_tokens: Most frequent tokens of a multi-valued field that have a feature of their own.

    Example:
        >>> schema = Schema(
        ...     fields=(
        ...         Field(name="user", kind="categorical", encoding="hash", hash_size=9, size=12),
        ...         Field(name="price", kind="numeric", encoding="log"),
        ...     ),
        ...     labels=("click",),
        ... )
        >>> features = TreeFeatures(schema)
        >>> features.names
        ['user', 'price']
        >>> rows = EncodedTable(np.array([[5]], np.int32), np.array([[0.5]], np.float32))
        >>> features.matrix(rows).tolist()
        [[5.0, 0.5]]
    """

    def __init__(self, schema: Schema, list_tokens: int = 16) -> None:
        self.schema = schema
        self.list_tokens = list_tokens
        self.features: list[Feature] = []
        for field in schema:
            self.features += self._of(field)

    @property
    def names(self) -> list[str]:
        """Name of each feature [M]."""
        return [feature.name for feature in self.features]

    @property
    def categorical(self) -> list[int]:
        """Positions of the features that are categories."""
        return [i for i, feature in enumerate(self.features) if feature.categorical]

    def matrix(self, rows: EncodedTable) -> np.ndarray:
        """Features [B, M] float64."""
        out = np.empty((len(rows), len(self.features)))
        column = 0
        coded = {field.name: i for i, field in enumerate(self.schema.coded)}
        dense = {field.name: i for i, field in enumerate(self.schema.dense)}
        for field in self.schema:
            width = len(self._of(field))
            part = out[:, column : column + width]
            if field.name in dense:
                part[:, 0] = rows.dense[:, dense[field.name]]
            elif field.is_ragged:
                shared = coded.get(field.shares or "")
                target = None if shared is None else rows.ids[:, shared]
                self._fill_list(part, field, *rows.ragged[field.name], target)
            else:
                codes = rows.ids[:, coded[field.name]]
                part[:, 0] = codes
                if field.encoding is Encoding.QUANTILE:
                    part[codes == MISSING, 0] = np.nan
            column += width
        return out

    def _of(self, field: Field) -> list[Feature]:
        name = field.name
        if not field.is_ragged:
            return [Feature(name, name, field.is_coded and field.encoding is not Encoding.QUANTILE)]
        length = Feature(f"{name}.length", name)
        if field.kind is Kind.HISTORY:
            last = Feature(f"{name}.last", name, True)
            matches = [Feature(f"{name}.matches", name)] if field.shares else []
            return [length, last, *matches]
        tokens = [Feature(f"{name}.{code}", name) for code in self._tokens(field)]
        return [length, Feature(f"{name}.first", name, True), *tokens]

    def _tokens(self, field: Field) -> range:
        """Codes that have a feature of their own: hashed ones are in no order, so none of them."""
        if field.encoding is not Encoding.VOCABULARY:
            return range(0)
        return range(NUM_RESERVED, min(NUM_RESERVED + self.list_tokens, field.size or 0))

    def _fill_list(
        self,
        out: np.ndarray,
        field: Field,
        values: np.ndarray,
        offsets: np.ndarray,
        target: np.ndarray | None,
    ) -> None:
        lengths = np.diff(offsets)
        out[:, 0] = lengths
        filled = lengths > 0
        history = field.kind is Kind.HISTORY
        out[:, 1] = np.nan
        out[filled, 1] = values[(offsets[1:] - 1 if history else offsets[:-1])[filled]]
        rows = np.repeat(np.arange(len(lengths)), lengths)
        if history:
            if target is not None:
                same = rows[values == target[rows]]
                out[:, 2] = np.bincount(same, minlength=len(lengths))
            return
        for place, code in enumerate(self._tokens(field), start=2):
            out[:, place] = np.bincount(rows[values == code], minlength=len(lengths))


def stored_rows(store: Store, start: int, stop: int) -> EncodedTable:
    """Consecutive rows of a store as views of its files, without labels."""
    ragged = {}
    for name, (values, offsets) in store.ragged.items():
        ends = np.asarray(offsets[start : stop + 1])
        ragged[name] = (values[ends[0] : ends[-1]], ends - ends[0])
    return EncodedTable(store.ids[start:stop], store.dense[start:stop], ragged)
