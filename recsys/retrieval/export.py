"""Tables of vectors as folders of Parquet files, under external ids.

    items/
        part-00000.parquet, ...   id, vector, norm, popularity, and scale where dtype=int8
        embeddings.json           what they are: run, data, similarity, width, checksums

The same facts lie in the metadata of every Parquet file under the key `recsys`. Rows are written a
block at a time, so that a table may be larger than memory.

Letters   N rows, D width.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.atomic import atomic_folder
from recsys.errors import ConfigError, NonFiniteError, SchemaError
from recsys.retrieval.checksums import check_replaceable, checksum
from recsys.retrieval.number_format import check_dtype, stored
from recsys.retrieval.vectors import SIMILARITIES, VectorSource

FORMAT = {"format": "recsys-embeddings", "version": 1}
CARD = "embeddings.json"
BLOCK_ROWS = 65_536
_ARROW = {"float32": pa.float32(), "float16": pa.float16(), "int8": pa.int8()}

Progress: TypeAlias = Callable[[int, int], None]
"""Told how many rows are done, of how many."""


def export_tables(
    sources: Sequence[VectorSource],
    folder: Path,
    facts: Mapping[str, Any],
    *,
    dtype: str = "float32",
    rows_per_shard: int = 1_000_000,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Write a folder with a folder for each table: all of it or nothing.

    Args:
        sources: What to write.
        folder: Replaced if it is an earlier export.
        facts: Run id, model, data and its digest: they travel with the vectors.
        dtype: One of `number_format.DTYPES`.
        rows_per_shard: Rows of a file, at least 1.
        progress: Told of rows of all tables.

    Returns:
        The cards, in the order of the tables.

    Raises:
        ConfigError: the type or the number of rows is impossible, a number does not fit the type,
            or the folder holds other files.
        NonFiniteError: a vector holds NaN or infinity.
        SchemaError: a table is empty, or an id is there twice or is null.
    """
    check_dtype(dtype)
    if rows_per_shard < 1:
        raise ConfigError(f"rows_per_shard={rows_per_shard}; it must be at least 1.")
    check_replaceable(folder, (f"*/{CARD}",))
    total = sum(len(source.ids) for source in sources)
    cards, before = [], 0
    with atomic_folder(folder) as partial:
        for source in sources:

            def told(done: int, before: int = before) -> None:
                if progress is not None:
                    progress(before + done, total)

            target = partial / re.sub(r"[^\w\- ]", "_", source.name)
            cards.append(_write_table(source, target, facts, dtype, rows_per_shard, told))
            before += len(source.ids)
    return cards


def _write_table(
    source: VectorSource,
    folder: Path,
    facts: Mapping[str, Any],
    dtype: str,
    rows_per_shard: int,
    told: Callable[[int], None],
) -> dict[str, Any]:
    assert source.similarity in SIMILARITIES, source.similarity
    check_ids(source.ids, source.name)
    about = {
        **FORMAT,
        "name": source.name,
        "folder": folder.name,
        "num_rows": len(source.ids),
        "dim": source.dim,
        "dtype": dtype,
        "similarity": source.similarity,
        "id_type": str(source.ids.type),
        "facts": dict(facts),
    }
    schema = _schema(source, dtype).with_metadata({"recsys": json.dumps(about)})
    folder.mkdir(parents=True)
    names: list[str] = []
    writer: pq.ParquetWriter | None = None
    room = done = 0
    largest = 0.0
    try:
        for block in source.blocks(min(BLOCK_ROWS, rows_per_shard)):
            refuse_non_finite(block, source.ids, done, source.name)
            norms = np.linalg.norm(block, axis=1).astype(np.float32)
            largest = max(largest, float(norms.max(initial=0.0)))
            table = _rows(source, block, norms, done, dtype, schema)
            at = 0
            while at < len(block):
                if room == 0:
                    if writer is not None:
                        writer.close()
                    names.append(f"part-{len(names):05d}.parquet")
                    writer = pq.ParquetWriter(
                        folder / names[-1],
                        schema,
                        compression="none",  # vectors do not compress
                        # Parquet knows no number of 8 bits but as the place in a dictionary.
                        use_dictionary=["vector.list.element"] if dtype == "int8" else False,
                    )
                    room = rows_per_shard
                assert writer is not None
                taken = table.slice(at, room)
                writer.write_table(taken)
                at, room = at + taken.num_rows, room - taken.num_rows
            done += len(block)
            told(done)
    finally:
        if writer is not None:
            writer.close()
    assert done == len(source.ids), (done, len(source.ids))
    card = {**about, "max_norm": largest, "files": {n: checksum(folder / n) for n in names}}
    (folder / CARD).write_text(json.dumps(card, indent=1))
    return card


def _schema(source: VectorSource, dtype: str) -> pa.Schema:
    fields = [
        pa.field("id", source.ids.type),
        pa.field("vector", pa.list_(pa.field("item", _ARROW[dtype], nullable=False), source.dim)),
        pa.field("norm", pa.float32()),
        pa.field("popularity", pa.int64()),
    ]
    if dtype == "int8":
        fields.append(pa.field("scale", pa.float32()))
    return pa.schema(fields)


def _rows(
    source: VectorSource,
    block: np.ndarray,
    norms: np.ndarray,
    start: int,
    dtype: str,
    schema: pa.Schema,
) -> pa.Table:
    numbers, scale = stored(block, dtype)
    rows = slice(start, start + len(block))
    counts = source.popularity
    popularity = pa.nulls(len(block), pa.int64()) if counts is None else pa.array(counts[rows])
    columns = {
        "id": source.ids[rows],
        "vector": pa.FixedSizeListArray.from_arrays(
            pa.array(numbers.reshape(-1)), type=schema.field("vector").type
        ),
        "norm": pa.array(norms),
        "popularity": popularity,
    }
    if scale is not None:
        columns["scale"] = pa.array(scale)
    return pa.table(columns, schema=schema)


def check_ids(ids: pa.Array, name: str) -> None:
    """Raise SchemaError for no id at all, a null, or an id that is there twice."""
    if not len(ids):
        raise SchemaError(f"{name} has no rows: there is no vector. Give at least one.")
    if ids.null_count:
        raise SchemaError(f"{name} has {ids.null_count:,} rows without an id. Leave them out.")
    column = pl.Series(ids)
    if column.n_unique() < len(column):
        twice = column.filter(column.is_duplicated())
        raise SchemaError(
            f"{name} has the id {twice[0]!r} more than once ({twice.n_unique():,} such ids); each "
            "must be there once. Leave the repeats out."
        )


def refuse_non_finite(block: np.ndarray, ids: pa.Array, start: int, name: str) -> None:
    """Raise NonFiniteError for a vector with NaN or infinity; the message names its id."""
    wrong = ~np.isfinite(block).all(axis=1)
    if wrong.any():
        first = ids[start + int(wrong.argmax())].as_py()
        raise NonFiniteError(
            f"the vector of {first!r} in {name} holds NaN or infinity ({int(wrong.sum()):,} such "
            "in this block); only finite numbers can be compared. Look for a diverged training, "
            "and lower optimizer.lr."
        )
