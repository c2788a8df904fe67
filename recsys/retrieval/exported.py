"""Reads what `export` wrote: ids at once, vectors a block at a time.

Letters   N rows, D width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import ConfigError
from recsys.retrieval.checksums import check_files, check_sizes, read_json_card
from recsys.retrieval.export import CARD, FORMAT
from recsys.retrieval.number_format import restored

_REMEDY = "Export again: python -m pipelines.export_embeddings run=<run id>."


class ExportedVectors:
    """A table of vectors on disk; a `VectorSource` itself.

    Args:
        folder: Of one table.

    Raises:
        CheckpointError: the folder is incomplete, or its files have other sizes than its card says.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.card: dict[str, Any] = read_json_card(folder / CARD, FORMAT, _REMEDY)
        self._files: dict[str, dict[str, Any]] = self.card["files"]
        check_sizes(folder, self._files, _REMEDY)
        self.name: str = self.card["name"]
        self.similarity: str = self.card["similarity"]
        self.dim: int = self.card["dim"]
        self.facts: dict[str, Any] = self.card["facts"]
        self.max_norm: float = self.card["max_norm"]

    @classmethod
    def open(cls, path: Path) -> ExportedVectors:
        """The table in a folder, or the items of an export of users and items.

        Raises:
            ConfigError: there is no table, or more than one and none is called items.
            CheckpointError: as above.
        """
        if (path / CARD).is_file():
            return cls(path)
        tables = sorted(card.parent for card in path.glob(f"*/{CARD}"))
        items = [table for table in tables if table.name == "items"]
        if not items and len(tables) != 1:
            found = ", ".join(table.name for table in tables) or "none"
            raise ConfigError(
                f"embeddings={path}: its tables are {found}. Name the folder of one, as "
                "pipelines.export_embeddings wrote it."
            )
        return cls((items or tables)[0])

    def sibling(self, name: str) -> ExportedVectors | None:
        """Another table of the same export, such as its `users`; None where there is none."""
        folder = self.folder.parent / name
        return ExportedVectors(folder) if (folder / CARD).is_file() else None

    def __len__(self) -> int:
        return int(self.card["num_rows"])

    @property
    def digest(self) -> str:
        """Of all files: the same vectors of the same run give the same text."""
        text = "".join(str(one["sha256"]) for one in self._files.values())
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def ids(self) -> pa.Array:
        """External ids [N]."""
        found = pa.chunked_array([self._column(name, "id") for name in self._files])
        return found.combine_chunks() if found.num_chunks != 1 else found.chunk(0)

    @property
    def popularity(self) -> np.ndarray | None:
        """[N] int64, or None where nobody counted."""
        parts = [self._column(name, "popularity") for name in self._files]
        if any(part.null_count for part in parts):
            return None
        return np.concatenate([part.to_numpy() for part in parts])

    @property
    def norms(self) -> np.ndarray:
        """Length of each vector before it was rounded, [N] float32."""
        return np.concatenate([self._column(name, "norm").to_numpy() for name in self._files])

    def verify(self) -> None:
        """Read every byte and compare it with the checksums of the card.

        Raises:
            CheckpointError: a file was changed or damaged.
        """
        check_files(self.folder, self._files, _REMEDY)

    def blocks(self, rows: int) -> Iterator[np.ndarray]:
        """Vectors in the order of the ids, [at most `rows`, D] float32."""
        scaled = self.card["dtype"] == "int8"
        columns = ["vector", *(["scale"] if scaled else [])]
        for name in self._files:
            with pq.ParquetFile(self.folder / name) as file:
                for batch in file.iter_batches(rows, columns=columns):
                    lists = batch.column("vector")
                    numbers = lists.flatten().to_numpy().reshape(-1, self.dim)
                    yield restored(numbers, batch.column("scale").to_numpy() if scaled else None)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """Some vectors, [n, D] float32, in the order of `rows`, which must ascend."""
        parts, start = [np.empty((0, self.dim), np.float32)], 0
        for block in self.blocks(65_536):
            inside = rows[(rows >= start) & (rows < start + len(block))] - start
            parts.append(block[inside])
            start += len(block)
        return np.concatenate(parts)

    def _column(self, file: str, column: str) -> pa.Array:
        return pq.read_table(self.folder / file, columns=[column])[column].combine_chunks()
