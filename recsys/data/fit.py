"""Fitting: one pass over the raw rows that learns and encodes provisionally at the same time.

Reading and interning are the expensive part, so they happen once. Every category gets a
provisional code while its training count grows; when the counts are complete, a table maps
provisional codes to final ones (`Finish`), which is a gather of integers.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from recsys.data.columns import Coder, Lists, groups, unfitted_coder, weights
from recsys.data.encode import (
    Columns,
    EncodedTable,
    FeaturePipeline,
    assemble,
    read_field,
    read_labels,
)
from recsys.data.hashing import OPEN_SIZE
from recsys.data.numeric import Moments, RowSample, Scale, before_scaling
from recsys.data.readers import CHUNK_ROWS, Chunk, Source, Span, num_workers
from recsys.data.schema import MISSING, NUM_RESERVED, Encoding, Field, Kind, Schema
from recsys.data.vocabulary import Interner, Vocabulary
from recsys.errors import SchemaError

CHUNK_VALUES = 20_000_000
"""Values handled at a time; a wide table gets shorter chunks."""


class Fitter:
    """Learns a schema's vocabularies and scales from streams of chunks.

    Args:
        schema: Unfitted.
        nan_as_missing: Treat NaN as missing instead of refusing it.
    """

    def __init__(self, schema: Schema, nan_as_missing: bool = False) -> None:
        self.schema = schema
        self.nan_as_missing = nan_as_missing
        self.interners: dict[str, Interner] = {}
        self.moments: dict[str, Moments] = {}
        self.quantiles = [f.name for f in schema if f.encoding is Encoding.QUANTILE]
        self.sample = RowSample(len(self.quantiles))
        self._coders: dict[str, Coder | None] = {}
        self._chunks = 0
        self._rows = 0
        self._present: dict[str, int] = dict.fromkeys(schema.names, 0)
        self._labelled: dict[str, int] = dict.fromkeys(schema.labels, 0)
        for one in schema:
            self._coders[one.name] = self._coder(one)
            if one.kind is Kind.NUMERIC and one.encoding is not Encoding.QUANTILE:
                self.moments[one.name] = Moments(one.encoding)

    def _coder(self, one: Field) -> Coder | None:
        if one.kind is Kind.NUMERIC:
            return None
        owner = self.schema[one.shares] if one.shares else one
        coder = unfitted_coder(owner)
        return self.interners.setdefault(owner.name, Interner()) if coder is None else coder

    @property
    def chunk_rows(self) -> int:
        """Rows handled at a time."""
        return min(CHUNK_ROWS, max(4096, CHUNK_VALUES // max(1, len(self._columns_read()))))

    def _columns_read(self) -> list[str]:
        return [n for n in self.schema.columns if n != self.schema.timestamp or n in self._coders]

    def read(
        self,
        source: Source,
        train: Callable[[Chunk], np.ndarray] | bool | None = None,
        span: Span | None = None,
        threads: int | None = None,
        also: Sequence[str] = (),
    ) -> Iterator[tuple[Chunk, Columns]]:
        """Stream a source: count its training rows and yield every chunk in provisional codes.

        Args:
            source: Raw rows.
            train: Mask [B] of the training rows of a chunk; None or True means all, False none.
            span: Only these rows, laid out with `chunk_rows`; None means all.
            threads: That encode columns; None means as many as there are processors.
            also: Columns that only `train` reads.
        """
        names = [*self._columns_read(), *also]
        source.require(names)
        waiting: deque[tuple[Chunk, np.ndarray | None, dict[str, Future[Any]]]] = deque()
        with ThreadPoolExecutor(threads or num_workers()) as pool:
            try:
                for chunk in source.chunks(names, self.chunk_rows, span):
                    mask = train(chunk) if callable(train) else None
                    if train is False:
                        mask = np.zeros(chunk.num_rows, bool)
                    waiting.append((chunk, mask, self._submit(pool, chunk, mask)))
                    if len(waiting) > 1:
                        yield self._collect(*waiting.popleft())
                while waiting:
                    yield self._collect(*waiting.popleft())
            finally:
                for _, _, futures in waiting:
                    for future in futures.values():
                        future.cancel()

    def _submit(
        self, pool: ThreadPoolExecutor, chunk: Chunk, mask: np.ndarray | None
    ) -> dict[str, Future[Any]]:
        schema, index = self.schema, self._chunks
        self._chunks += 1
        futures: dict[str, Future[Any]] = {"": pool.submit(read_labels, schema, chunk)}
        for one in schema:
            futures[f"field {one.name}"] = pool.submit(self._field, one, chunk, mask, index)
        if schema.weight:
            futures["weight"] = pool.submit(_extra, weights, schema.weight, chunk)
        if schema.group:
            futures["group"] = pool.submit(_extra, groups, schema.group, chunk)
        return futures

    def _collect(
        self, chunk: Chunk, mask: np.ndarray | None, futures: dict[str, Future[Any]]
    ) -> tuple[Chunk, Columns]:
        fields = {}
        for one in self.schema:
            fields[one.name], present = futures[f"field {one.name}"].result()
            self._present[one.name] += present
        rows = np.arange(chunk.num_rows) if mask is None else np.flatnonzero(mask)
        if self.quantiles and rows.size:
            self.sample.add(rows + chunk.start, [fields[name][rows] for name in self.quantiles])
        self._rows += rows.size
        labels = futures[""].result()
        for name, values in zip(self.schema.labels, labels, strict=True):
            self._labelled[name] += rows.size - int(np.isnan(values[rows]).sum())
        weight, group = futures.get("weight"), futures.get("group")
        return chunk, Columns(
            chunk.num_rows,
            fields,
            labels,
            None if weight is None else weight.result(),
            None if group is None else group.result(),
        )

    def _field(
        self, one: Field, chunk: Chunk, mask: np.ndarray | None, index: int
    ) -> tuple[np.ndarray | Lists, int]:
        """Provisional column, and how many training rows have a value; runs in a worker."""
        coder = self._coders[one.name]
        values = read_field(one, coder, chunk, self.nan_as_missing)
        if isinstance(values, Lists):
            learnt = values if mask is None else values.take(np.flatnonzero(mask))
            codes = learnt.values
        elif one.kind is Kind.NUMERIC:
            values = before_scaling(values, one.encoding)
            learnt_numbers = values if mask is None else values[mask]
            learnt_numbers = learnt_numbers[~np.isnan(learnt_numbers)]
            if one.name in self.moments:
                self.moments[one.name].add(index, learnt_numbers)
            return values, learnt_numbers.size
        else:
            codes = values if mask is None else values[mask]
        if isinstance(coder, Interner):
            present = _count(coder, codes)
            if not isinstance(values, Lists):
                return values, present
        valid = codes != MISSING
        if isinstance(values, Lists):
            ends = np.cumsum(learnt.lengths)
            sums = np.concatenate([[0], np.cumsum(valid)])
            return values, int((sums[ends] > sums[ends - learnt.lengths]).sum())
        return values, int(np.count_nonzero(valid))

    def learnt(self) -> Learnt:
        """What was learnt so far, for `merge`."""
        return Learnt(
            self._rows,
            self._present,
            self._labelled,
            {name: interner.learnt() for name, interner in self.interners.items()},
            self.moments,
            self.sample,
        )

    def merge(self, other: Learnt) -> dict[str, np.ndarray]:
        """Add what another fitter of the same schema learnt from other rows; in any order.

        Returns:
            By vocabulary, the table [provisional code of the other] -> provisional code here.
        """
        self._rows += other.num_rows
        for mine, its in ((self._present, other.present), (self._labelled, other.labelled)):
            for name, number in its.items():
                mine[name] += number
        for name, moments in other.moments.items():
            self.moments[name].merge(moments)
        self.sample.merge(other.sample)
        with ThreadPoolExecutor(num_workers()) as pool:
            tables = pool.map(
                lambda name: self.interners[name].merge(*other.texts[name]), other.texts
            )
            return dict(zip(other.texts, tables, strict=True))

    def finish(self) -> Finish:
        """Fix codes, edges and scales.

        Raises:
            SchemaError: There was no training row, or a column or a label has no value in any.
        """
        if not self._rows:
            raise SchemaError(
                "the training split has no rows; change the split fractions or the time cuts."
            )
        for name, present in self._present.items():
            if not present:
                raise SchemaError(
                    f'column "{name}" is null in all {self._rows:,} training rows, so there is '
                    f"nothing to learn from it. Leave it out: data.fields.{name}.kind=ignore."
                )
        for name, labelled in self._labelled.items():
            if not labelled:
                raise SchemaError(
                    f'label "{name}" is missing in all {self._rows:,} training rows, so there is '
                    "nothing to learn from. Leave it out of data.labels."
                )
        vocabularies, tables = self._freeze()
        scales = {}
        for name, moments in self.moments.items():
            scale = moments.scale()
            assert scale is not None, name
            scales[name] = scale
        for position, name in enumerate(self.quantiles):
            edges = self.sample.edges(position, self.schema[name].num_buckets or 32)
            scales[name] = Scale(Encoding.QUANTILE, edges=edges)
        fields = []
        for one in self.schema:
            owner = self.schema[one.shares] if one.shares else one
            fields.append(dataclasses.replace(one, size=_size(owner, vocabularies, scales)))
        schema = self.schema.replace(fields)
        pipeline = FeaturePipeline(schema, vocabularies, scales, self.nan_as_missing)
        gaps = {name: n for name, n in self._labelled.items() if n < self._rows}
        missing = {name: 1 - n / self._rows for name, n in (self._present | gaps).items()}
        return Finish(pipeline, tables, missing)

    def _freeze(self) -> tuple[dict[str, Vocabulary], dict[str, np.ndarray]]:
        def freeze(name: str) -> tuple[Vocabulary, np.ndarray]:
            one = self.schema[name]
            return self.interners[name].freeze(one.dtype, one.min_count, one.max_size)

        with ThreadPoolExecutor(num_workers()) as pool:
            frozen = list(pool.map(freeze, self.interners))
        names = list(self.interners)
        self.interners.clear()
        self._coders.clear()
        return (
            {name: vocabulary for name, (vocabulary, _) in zip(names, frozen, strict=True)},
            {name: table for name, (_, table) in zip(names, frozen, strict=True)},
        )


@dataclass(frozen=True)
class Learnt:
    """What a fitter learnt from some of the rows. Sums of counts: fitters merge them in any order.

    Args:
        num_rows: Training rows.
        present: By field, training rows with a value.
        labelled: By label, training rows that have it.
        texts: By vocabulary, distinct texts in the order of their codes, and training counts.
        moments: By numeric field.
        sample: Of the quantile fields.
    """

    num_rows: int
    present: dict[str, int]
    labelled: dict[str, int]
    texts: dict[str, tuple[pa.Array, np.ndarray]]
    moments: dict[str, Moments]
    sample: RowSample


@dataclass(frozen=True)
class Finish:
    """A fitted pipeline, and the tables from provisional to final codes."""

    pipeline: FeaturePipeline
    tables: dict[str, np.ndarray]
    missing: dict[str, float]
    """Share of the training rows without a value, by field, and by label that has gaps."""

    def of_other(self, codes: Mapping[str, np.ndarray]) -> Finish:
        """The same for the provisional codes of another fitter.

        Args:
            codes: Tables that `Fitter.merge` gave for what that fitter had learnt.
        """
        tables = {name: np.take(self.tables[name], found) for name, found in codes.items()}
        return dataclasses.replace(self, tables=tables)

    def encode(self, columns: Columns) -> EncodedTable:
        """Provisional columns of some rows to encoded rows."""
        return assemble(self.pipeline.schema, columns, self._finish)

    def _finish(self, one: Field, values: np.ndarray) -> np.ndarray:
        if one.kind is Kind.NUMERIC:
            return self.pipeline.scales[one.name].finish(values)
        table = self.tables.get(one.shares or one.name)
        return values if table is None else np.take(table, values)


def _count(interner: Interner, codes: np.ndarray) -> int:
    """Add the training counts of provisional codes, and return how many are not MISSING."""
    if codes.size and int(codes.max()) > 8 * codes.size:  # a huge vocabulary, a short chunk
        found, counts = np.unique(codes, return_counts=True)
        found, counts = found[found >= NUM_RESERVED], counts[found >= NUM_RESERVED]
    else:
        counts = np.bincount(codes, minlength=NUM_RESERVED)
        found = np.flatnonzero(counts[NUM_RESERVED:]) + NUM_RESERVED
        counts = counts[found]
    interner.add(found, counts)
    return int(counts.sum())


def _size(
    owner: Field, vocabularies: dict[str, Vocabulary], scales: dict[str, Scale]
) -> int | None:
    """Number of codes of a field that owns its table; None of a number."""
    if owner.name in vocabularies:
        return vocabularies[owner.name].size
    if owner.encoding is Encoding.HASH:
        return NUM_RESERVED + (owner.hash_size or 0)
    if owner.encoding is Encoding.DYNAMIC:
        return OPEN_SIZE
    return scales[owner.name].size if owner.encoding is Encoding.QUANTILE else None


def _extra(function: Any, name: str, chunk: Chunk) -> np.ndarray:
    return function(chunk.column(name), name, chunk)
