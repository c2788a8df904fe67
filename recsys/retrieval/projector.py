"""Vectors as tab-separated text, for TensorBoard's projector and programs like it.

embeddings.tsv   a line of D numbers per row, no heading
metadata.tsv     id, popularity, and the title where there is one, with a heading
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from recsys.data.atomic import write_text_whole
from recsys.retrieval.exported import ExportedVectors


def write_projector(
    vectors: ExportedVectors, folder: Path, num_rows: int, titles: pa.Array | None = None
) -> int:
    """Write the most popular rows, in the order of the table, or the first where nobody counted.

    Args:
        vectors: What to write.
        folder: Of the two files.
        num_rows: At most so many; a projector shows some 10,000.
        titles: [N] string.

    Returns:
        How many were written.
    """
    popularity = vectors.popularity
    if popularity is None:
        chosen = np.arange(min(num_rows, len(vectors)))
    else:
        chosen = np.sort(np.argsort(-popularity, kind="stable")[:num_rows])
    lines = ("\t".join(f"{x:.6g}" for x in row) for row in vectors.take(chosen).tolist())
    write_text_whole(folder / "embeddings.tsv", "\n".join(lines) + "\n")
    columns = {"id": vectors.ids.take(pa.array(chosen)).to_pylist()}
    if popularity is not None:
        columns["popularity"] = popularity[chosen].tolist()
    if titles is not None:
        columns["title"] = titles.take(pa.array(chosen)).to_pylist()
    rows = ("\t".join(map(_cell, row)) for row in zip(*columns.values(), strict=True))
    write_text_whole(folder / "metadata.tsv", "\n".join(["\t".join(columns), *rows]) + "\n")
    return len(chosen)


def _cell(value: object) -> str:
    """Text without what would end a cell or a line."""
    return "" if value is None else " ".join(str(value).split())
