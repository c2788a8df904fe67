"""The table of one field of a saved click model, read from its file a block at a time.

The model is never built: a table that does not fit into memory is exported all the same.

Letters   N values of the field, D width, W width of a stored row.
"""

from __future__ import annotations

import json
import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors import safe_open

from recsys.data.encode import FeaturePipeline
from recsys.data.hashing import whole_numbers_of
from recsys.data.schema import NUM_RESERVED, Encoding
from recsys.embedding.dynamic_vocabulary import STATE as VOCABULARY
from recsys.embedding.layout import Layout, PrunedLayout
from recsys.embedding.lookup import EmbeddingOptions, table_of
from recsys.errors import CheckpointError, ConfigError, did_you_mean
from recsys.models.saved import FORMAT, FULL, WEIGHTS, ModelSpec, no_model, read_card
from recsys.retrieval.vectors import COSINE

SHARED = ("multiplexed", "unified")
"""Layouts whose fields lie in one stored table."""


class FieldVectors:
    """Vectors of all values of a field that training knew, by descending frequency.

    Nothing in a click model compares two of these vectors, so that only their directions can be
    compared: their similarity is the cosine. A value whose row a gate dropped has a vector of
    zeros.

    Args:
        folder: Of the saved model.
        field: Name of the field; a history has the table of the field it is a history of.

    Raises:
        CheckpointError: the folder is missing, incomplete or damaged.
        ConfigError: the model has no vectors, or the field none under external ids.
    """

    similarity = COSINE

    def __init__(self, folder: Path, field: str) -> None:
        card = read_card(folder, FORMAT)
        spec = ModelSpec(**card["model"])
        self.facts: dict[str, Any] = {**card["facts"], "model": spec.stem}
        if spec.boosted or not spec.needs_fields:
            raise ConfigError(
                f"{spec.class_name} has no vectors for its fields. Export the run of a model that "
                "has, such as ctr=dcnv2."
            )
        if card.get("tables", FULL) != FULL:
            raise ConfigError(
                f"{folder} is a copy with {card['tables']} tables. Export the vectors of the run "
                f"it was made of, {card['facts'].get('run_id')}."
            )
        self.name = field
        pipeline = FeaturePipeline.load(folder / "pipeline")
        self._table = self._table_of(pipeline, field)
        file = folder / WEIGHTS
        self.ids: pa.Array
        self.popularity: np.ndarray | None
        if self._table in pipeline.vocabularies:
            self.ids = pipeline.tokens(field)[NUM_RESERVED:]
            counts = pipeline.vocabularies[self._table].counts
            self.popularity = counts.to_numpy().astype(np.int64)
        else:
            self.ids, self.popularity = _dynamic_ids(file, self._table)
            if pipeline.schema[field].dtype == "string":
                self.ids = self.ids.cast(pa.string())
        labels = len(pipeline.schema.labels) if spec.separate_tables else 1
        self._width = int(card["embedding"]["dim"]) * labels
        layout = EmbeddingOptions(**card["embedding"]).build_layout(pipeline.schema)
        kept = _kept(file)
        self._layout: Layout = PrunedLayout(layout, kept) if kept else layout
        self._lookups = layout.table(self._table).lookups
        self.dim = self._width * self._lookups
        shared = self._layout.name in SHARED
        at = [table.name for table in layout.tables].index(self._table)
        self._first = 0 if shared else self._layout.starts[at]
        self._file, self._offset, self._shape = _place(
            file, f"tables.{self._layout.name if shared else self._table}.weight"
        )

    @staticmethod
    def _table_of(pipeline: FeaturePipeline, field: str) -> str:
        with_ids = [
            one.name
            for one in pipeline.schema
            if table_of(one) in pipeline.vocabularies or one.encoding is Encoding.DYNAMIC
        ]
        if field not in with_ids:
            raise ConfigError(
                f"field={field}: no field of that name has vectors under external ids (those of "
                f"hashed and numeric ones are nobody's own).{did_you_mean(field, with_ids)}"
            )
        return table_of(pipeline.schema[field])

    @torch.no_grad()
    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Vectors in code order, [at most `rows`, D] float32; what was read is given back to the
        system after every block."""
        with self._file.open("rb") as handle:
            mapped = mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
        stored = np.frombuffer(mapped, np.float32, int(np.prod(self._shape)), self._offset).reshape(
            self._shape
        )
        for start in range(0, len(self.ids), rows):
            stop = min(start + rows, len(self.ids))
            codes = torch.arange(start, stop) + NUM_RESERVED
            block = np.empty((stop - start, self.dim), np.float32)
            for k in range(self._lookups):
                at = self._layout.rows_of(codes, self._table, k).numpy()
                part = block[:, k * self._width : (k + 1) * self._width]
                # Row 0 of the storage, zeros, stands for what was dropped; no table holds it.
                part[:] = stored[np.maximum(at - self._first, 0), : self._width]
                part[at == 0] = 0.0
            yield block
            if hasattr(mmap, "MADV_DONTNEED"):  # not on Windows
                mapped.madvise(mmap.MADV_DONTNEED)


def _dynamic_ids(file: Path, table: str) -> tuple[pa.Array, np.ndarray]:
    """Whole numbers that have rows, in the order of the rows, and how often training read them.

    Raises:
        ConfigError: some ids are texts, of which the model knows only hashes.
    """
    try:
        with safe_open(file, "pt") as tensors:
            ids, counts, progress = (
                tensors.get_tensor(f"tables.{table}.{VOCABULARY}.{name}")
                for name in ("ids", "counts", "progress")
            )
    except Exception as error:
        raise no_model(file.parent, error) from error
    rows = slice(0, int(progress[1]))
    numbers = whole_numbers_of(ids[rows].numpy())
    texts = int((numbers < 0).sum())
    if texts:
        raise ConfigError(
            f"field={table}: {texts:,} of its {len(numbers):,} ids are texts, of which a dynamic "
            "vocabulary keeps hashes alone. Number the values (whole numbers of up to 18 digits "
            "are kept as they are), or train with embedding.vocabulary=fitted."
        )
    return pa.array(numbers), counts[rows].numpy()


def _kept(file: Path) -> Mapping[str, torch.Tensor]:
    """Masks of the rows that a gate left, by table."""
    try:
        with safe_open(file, "pt") as tensors:
            names = [n for n in tensors.keys() if n.startswith("tables.") and n.endswith(".kept")]  # noqa: SIM118
            return {
                name.removeprefix("tables.").removesuffix(".kept"): tensors.get_tensor(name)
                for name in names
            }
    except Exception as error:
        raise no_model(file.parent, error) from error


def _place(file: Path, name: str) -> tuple[Path, int, tuple[int, ...]]:
    """Where the float32 numbers of a tensor lie in a safetensors file: offset and shape.

    The format is eight bytes with the length of a JSON header, the header, and the numbers.
    """
    with file.open("rb") as handle:
        length = int.from_bytes(handle.read(8), "little")
        header = json.loads(handle.read(length))
    if name not in header or header[name]["dtype"] != "F32":
        raise CheckpointError(
            f"{file} holds no float32 tensor {name}: it does not fit its card. Train again."
        )
    begin, _ = header[name]["data_offsets"]
    return file, 8 + length + begin, tuple(header[name]["shape"])
