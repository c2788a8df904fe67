"""The feature pipeline: raw columns to the numbers a model sees.

It is fitted on training rows only, saved as JSON and Parquet (no pickle), and is the only way rows
reach a model in training, evaluation and serving.

    field               becomes
    vocabulary, hash    code in `ids`                    0 padding, 1 missing, 2 unseen, then tokens
    dynamic             code in `ids`, int64             the same, a token for whatever there may be
    quantile            code in `ids`                    1 missing, 3 + bucket
    log, standard       number in `dense`                missing is the training mean, that is 0
    minmax              number in `dense`, in [0, 1]     missing is the training mean
    lists               codes in `ragged`                null list = one MISSING, empty list = empty

Letters   B rows, F coded fields, N dense columns, K labels.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
import torch

from recsys.data.atomic import atomic_folder
from recsys.data.batch import Batch, Ragged
from recsys.data.columns import (
    Coder,
    Lists,
    category_codes,
    groups,
    labels,
    list_codes,
    numbers,
    unfitted_coder,
    weights,
)
from recsys.data.nested import fill_nested
from recsys.data.numeric import Scale
from recsys.data.readers import FRAME, Chunk, Source
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.data.vocabulary import Vocabulary
from recsys.errors import SchemaError, did_you_mean


class PandasFrame(Protocol):
    """What is used of a pandas DataFrame; pandas itself is not needed here."""

    columns: Any
    index: Any


Raw: TypeAlias = pa.Table | pl.DataFrame | PandasFrame | Mapping[str, Any]
"""Tables that `FeaturePipeline.transform` takes."""
VERSION = 1
BLOCK_ROWS = 8192
"""Rows interleaved at a time: their row-major block stays in the processor's cache."""


@dataclass(frozen=True)
class EncodedTable:
    """Encoded rows.

    Shape:
        ids     [B, F]        int32, or int64 when a field has more than 2**31 - 1 codes
        dense   [B, N]        float32
        ragged  name -> (values, offsets [B + 1] int64)
        label   [B] or [B, K] float32, NaN where missing; None when the rows have no label
        weight  [B] float32 or None
        group   [B] int64 or None
    """

    ids: np.ndarray
    dense: np.ndarray
    ragged: dict[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict)
    label: np.ndarray | None = None
    weight: np.ndarray | None = None
    group: np.ndarray | None = None

    def __len__(self) -> int:
        return self.ids.shape[0]

    def take(self, rows: np.ndarray) -> EncodedTable:
        """Some rows, in the order given."""
        ragged = {}
        for name, (values, offsets) in self.ragged.items():
            lists = Lists(values, np.diff(offsets)).take(rows)
            ragged[name] = (lists.values, np.concatenate([[0], np.cumsum(lists.lengths)]))
        return EncodedTable(
            np.take(self.ids, rows, axis=0),
            np.take(self.dense, rows, axis=0),
            ragged,
            None if self.label is None else self.label[rows],
            None if self.weight is None else self.weight[rows],
            None if self.group is None else self.group[rows],
        )

    def to_batch(self) -> Batch:
        """All rows as one batch; labels that are not there are NaN."""
        label = self.label
        if label is None:
            label = np.full(len(self), np.nan, np.float32)
        return Batch(
            ids=torch.from_numpy(self.ids),
            dense=torch.from_numpy(self.dense),
            label=torch.from_numpy(label),
            ragged={
                name: Ragged(torch.from_numpy(values), torch.from_numpy(offsets))
                for name, (values, offsets) in self.ragged.items()
            },
            weight=None if self.weight is None else torch.from_numpy(self.weight),
            group=None if self.group is None else torch.from_numpy(self.group),
            row=torch.arange(len(self)),
        )


@dataclass
class Columns:
    """The columns of some rows: fields by name, then labels, weight and group."""

    num_rows: int
    fields: dict[str, np.ndarray | Lists]
    labels: list[np.ndarray]
    weight: np.ndarray | None = None
    group: np.ndarray | None = None

    def pieces(self, rows: int) -> Iterator[Columns]:
        """Cut into pieces of so many rows, without copying."""
        ends = {
            name: np.concatenate([[0], np.cumsum(lists.lengths)])
            for name, lists in self.fields.items()
            if isinstance(lists, Lists)
        }
        for start in range(0, self.num_rows, rows):
            stop = min(start + rows, self.num_rows)
            part = slice(start, stop)
            fields: dict[str, np.ndarray | Lists] = {}
            for name, values in self.fields.items():
                if isinstance(values, Lists):
                    inside = slice(ends[name][start], ends[name][stop])
                    fields[name] = Lists(values.values[inside], values.lengths[part])
                else:
                    fields[name] = values[part]
            yield Columns(
                stop - start,
                fields,
                [label[part] for label in self.labels],
                None if self.weight is None else self.weight[part],
                None if self.group is None else self.group[part],
            )


class FeaturePipeline:
    """A fitted schema: vocabularies, scales and bucket edges.

    Args:
        schema: Fitted: every coded field knows its size.
        vocabularies: By the name of the field that owns the table.
        scales: By the name of the numeric field.
        nan_as_missing: Treat NaN as missing instead of refusing it.
    """

    def __init__(
        self,
        schema: Schema,
        vocabularies: dict[str, Vocabulary],
        scales: dict[str, Scale],
        nan_as_missing: bool = False,
    ) -> None:
        self.schema = schema
        self.vocabularies = vocabularies
        self.scales = scales
        self.nan_as_missing = nan_as_missing

    @classmethod
    def fit(
        cls,
        source: Source,
        schema: Schema,
        train: Callable[[Chunk], np.ndarray] | None = None,
        nan_as_missing: bool = False,
    ) -> FeaturePipeline:
        """Learn from the training rows of a source, in one streaming pass.

        Args:
            source: Raw rows.
            schema: Unfitted.
            train: Gives the training rows of a chunk as a mask [B]; by default all are.
            nan_as_missing: Treat NaN as missing instead of refusing it.

        Raises:
            SchemaError: A column is absent, empty in training, or holds values it may not.
        """
        from recsys.data.fit import Fitter  # the fitter builds pipelines, hence not at the top

        fitter = Fitter(schema, nan_as_missing)
        for _ in fitter.read(source, train):
            pass
        return fitter.finish().pipeline

    def transform(self, table: Raw) -> EncodedTable:
        """Encode raw rows: any column order, other columns ignored, labels optional.

        Raises:
            SchemaError: Columns are missing, or a value is not allowed.
        """
        rows = arrow_table(table)
        self._check(rows)
        column = {name: _one_array(rows, name) for name in set(rows.column_names)}
        chunk = Chunk(column.__getitem__, rows.num_rows, FRAME, 0, 0)
        present = set(rows.column_names)
        schema = self.schema
        fields = {
            one.name: read_field(one, self._coder(one), chunk, self.nan_as_missing)
            for one in schema
        }
        has_labels = present.issuperset(schema.labels)
        weight = schema.weight if schema.weight in present else None
        group = schema.group if schema.group in present else None
        columns = Columns(
            rows.num_rows,
            fields,
            read_labels(schema, chunk) if has_labels else [],
            None if weight is None else weights(chunk.column(weight), weight, chunk),
            None if group is None else groups(chunk.column(group), group, chunk),
        )
        return assemble(schema, columns, self.finish)

    def finish(self, one: Field, values: np.ndarray) -> np.ndarray:
        """Last step of a column: numbers are scaled or cut into buckets, codes are final."""
        return self.scales[one.name].apply(values) if one.kind is Kind.NUMERIC else values

    def tokens(self, name: str) -> pa.Array:
        """External values of a vocabulary field by code; null for the reserved codes."""
        one = self.schema[name]
        if one.encoding is not Encoding.VOCABULARY:
            raise SchemaError(f'field "{name}" is encoded by {one.encoding}; it has no tokens.')
        return self.vocabularies[one.shares or one.name].tokens(one.dtype)

    def digest(self) -> str:
        """Of all that decides what a raw row becomes: two pipelines with one digest give every
        value the same code or number."""
        scales = {name: dataclasses.asdict(one) for name, one in sorted(self.scales.items())}
        plain = [self.schema.to_dict(), scales, self.nan_as_missing]
        found = hashlib.sha256(json.dumps(plain, sort_keys=True, default=list).encode())
        for name, vocabulary in sorted(self.vocabularies.items()):
            texts = vocabulary.texts
            found.update(f"{name} {len(texts)}".encode())
            found.update(texts.str.len_bytes().to_numpy().astype("<i8").tobytes())
            found.update("".join(texts.str.join("")).encode())
        return found.hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Write the pipeline as a folder: JSON, and a Parquet file per vocabulary."""
        with atomic_folder(path) as folder:
            files = {}
            for position, (name, vocabulary) in enumerate(self.vocabularies.items()):
                files[name] = f"vocabulary_{position:03d}.parquet"
                vocabulary.save(folder / files[name])
            text = json.dumps(
                {
                    "format": "recsys-pipeline",
                    "version": VERSION,
                    "nan_as_missing": self.nan_as_missing,
                    "schema": self.schema.to_dict(),
                    "scales": {name: dataclasses.asdict(s) for name, s in self.scales.items()},
                    "vocabularies": files,
                },
                indent=1,
            )
            (folder / "pipeline.json").write_text(text)

    @classmethod
    def load(cls, path: Path) -> FeaturePipeline:
        """Read what `save` wrote.

        Raises:
            SchemaError: The folder is missing, incomplete or of another version.
        """
        path = Path(path)
        try:
            raw = json.loads((path / "pipeline.json").read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise SchemaError(
                f"{path} holds no feature pipeline ({error}). Prepare the data again with "
                "data.rebuild=true."
            ) from error
        if raw.get("format") != "recsys-pipeline" or raw.get("version") != VERSION:
            raise SchemaError(
                f"{path} holds a pipeline of version {raw.get('version')}; this program reads "
                f"version {VERSION}. Prepare the data again with data.rebuild=true."
            )
        scales = {name: Scale.from_dict(one) for name, one in raw["scales"].items()}
        vocabularies = {
            name: Vocabulary.load(path / file) for name, file in raw["vocabularies"].items()
        }
        schema = Schema.from_dict(raw["schema"])
        for one in schema:
            owner = one.shares or one.name
            if owner in vocabularies and vocabularies[owner].size != one.size:
                raise SchemaError(
                    f'the vocabulary of "{owner}" in {path} has {vocabularies[owner].size} codes, '
                    f"but the schema says {one.size}. Prepare the data again, data.rebuild=true."
                )
        return cls(schema, vocabularies, scales, raw["nan_as_missing"])

    def _coder(self, one: Field) -> Coder | None:
        if one.kind is Kind.NUMERIC:
            return None
        owner = self.schema[one.shares] if one.shares else one
        return unfitted_coder(owner) or self.vocabularies[owner.name]

    def _check(self, table: pa.Table) -> None:
        have = table.column_names
        twice = sorted({name for name in have if have.count(name) > 1})
        if twice:
            raise SchemaError(f"the table has these column names twice: {', '.join(twice)}.")
        self.require(have)

    def require(self, have: Sequence[str]) -> None:
        """Raise a SchemaError that lists the columns this pipeline needs and `have` lacks."""
        missing = [name for name in self.schema.names if name not in have]
        if missing:
            lines = []
            for name in missing[:20]:
                remedy = did_you_mean(name, have)
                if self.schema[name].kind is Kind.HISTORY:
                    of = self.schema[name].shares
                    remedy = f", a history{f' of {of}' if of else ''}: make it from the users' log"
                    remedy += " with recsys.data.histories.with_histories."
                lines.append(f"- {name}{remedy}")
            raise SchemaError(
                f"{len(missing)} of the {len(self.schema)} columns this pipeline was fitted with "
                "are missing:\n" + "\n".join(lines) + "\nAdd them (null where unknown)."
            )


def read_field(
    one: Field, coder: Coder | None, chunk: Chunk, nan_as_missing: bool
) -> np.ndarray | Lists:
    """Codes or float64 numbers of one field in one chunk."""
    array = chunk.column(one.name)
    if coder is None:
        return numbers(array, one.name, chunk, nan_as_missing)
    if one.is_ragged:
        return list_codes(array, one, coder, chunk, nan_as_missing)
    return category_codes(array, one, coder, chunk, nan_as_missing)


def read_labels(schema: Schema, chunk: Chunk) -> list[np.ndarray]:
    """Labels of one chunk, one array [B] each; a nested one is 0 wherever its parent is."""
    optional = len(schema.labels) > 1
    found = [labels(chunk.column(name), name, chunk, optional) for name in schema.labels]
    fill_nested(found, schema.labels, schema.parents, chunk)
    return found


def assemble(
    schema: Schema,
    columns: Columns,
    finish: Callable[[Field, np.ndarray], np.ndarray],
) -> EncodedTable:
    """Finish columns and lay them out row by row.

    Args:
        schema: Fitted.
        columns: Codes and numbers, one array per field.
        finish: Last step of a column, on any slice of it.
    """
    rows = columns.num_rows
    ids = np.empty((rows, len(schema.coded)), id_dtype(schema))
    dense = np.empty((rows, len(schema.dense)), np.float32)

    for start in range(0, rows, BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        for matrix, ones in ((ids, schema.coded), (dense, schema.dense)):
            block = matrix[part]
            for position, one in enumerate(ones):
                values = columns.fields[one.name]
                assert isinstance(values, np.ndarray)
                block[:, position] = finish(one, values[part])

    ragged = {}
    for one in schema.ragged:
        lists = columns.fields[one.name]
        assert isinstance(lists, Lists)
        offsets = np.zeros(rows + 1, np.int64)
        np.cumsum(lists.lengths, out=offsets[1:])
        ragged[one.name] = (finish(one, lists.values).astype(ids.dtype, copy=False), offsets)
    label = None
    if columns.labels:
        label = np.stack(columns.labels, axis=1) if len(columns.labels) > 1 else columns.labels[0]
    return EncodedTable(ids, dense, ragged, label, columns.weight, columns.group)


def id_dtype(schema: Schema) -> type[np.signedinteger]:
    """int32 unless a field has too many codes for it."""
    sizes = [one.size or 0 for one in schema if one.is_coded]
    return np.int64 if max(sizes, default=0) > 2**31 - 1 else np.int32


def arrow_table(table: Raw) -> pa.Table:
    """Any of the accepted tables as Arrow."""
    if isinstance(table, pa.Table):
        return table
    if isinstance(table, pl.DataFrame):
        return table.to_arrow(compat_level=pl.CompatLevel.oldest())
    if isinstance(table, Mapping):
        return pa.table({name: _arrow_array(values) for name, values in table.items()})
    if hasattr(table, "columns") and hasattr(table, "index"):
        columns = list(table.columns)
        twice = sorted({str(name) for name in columns if columns.count(name) > 1})
        if twice:
            raise SchemaError(f"the table has these column names twice: {', '.join(twice)}.")
        return pa.Table.from_pandas(table, preserve_index=False)
    raise TypeError(
        f"rows came as {type(table).__name__}; give a pyarrow Table, a polars or pandas DataFrame, "
        "or a dict of columns."
    )


def _arrow_array(values: Any) -> pa.Array:
    if isinstance(values, pl.Series):
        return values.to_arrow(compat_level=pl.CompatLevel.oldest())
    return pa.array(values)


def _one_array(table: pa.Table, name: str) -> pa.Array:
    column = table.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.unify_dictionaries()
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
