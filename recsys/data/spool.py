"""Provisional columns on disk, between the pass that learns and the pass that finishes.

One flat file, chunk after chunk, column after column; only its index stays in memory.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import numpy as np

from recsys.data.atomic import write_all
from recsys.data.columns import Lists
from recsys.data.encode import Columns


@dataclass(frozen=True)
class _Piece:
    name: str
    dtype: np.dtype
    length: int


class Spool:
    """Columns written once and read once, in order; between the two, it may move to another
    process.

    Args:
        path: File to write; removed by `remove`.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._index: list[tuple[int, list[_Piece]]] = []
        self._handle: FileIO | None = path.open("w+b", buffering=0)

    def close(self) -> None:
        """Everything is written: the spool may be read by another process, on any machine."""
        os.fsync(self._descriptor)
        if self._handle is not None:
            self._handle.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"_path": self._path, "_index": self._index, "_handle": None}

    @property
    def _descriptor(self) -> int:
        if self._handle is None:
            self._handle = self._path.open("rb", buffering=0)
        return self._handle.fileno()

    def write(self, columns: Columns) -> None:
        """Append the columns of one chunk."""
        pieces: list[_Piece] = []
        for name, values in columns.fields.items():
            if isinstance(values, Lists):
                self._put(pieces, f"values {name}", values.values)
                self._put(pieces, f"lengths {name}", values.lengths)
            else:
                self._put(pieces, f"field {name}", values)
        for position, label in enumerate(columns.labels):
            self._put(pieces, f"label {position}", label)
        if columns.weight is not None:
            self._put(pieces, "weight", columns.weight)
        if columns.group is not None:
            self._put(pieces, "group", columns.group)
        self._index.append((columns.num_rows, pieces))

    def _put(self, pieces: list[_Piece], name: str, values: np.ndarray) -> None:
        write_all(self._descriptor, values)
        pieces.append(_Piece(name, values.dtype, len(values)))

    def read(self) -> Iterator[Columns]:
        """Give the chunks back, in order."""
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        for num_rows, pieces in self._index:
            arrays = {piece.name: self._get(piece) for piece in pieces}
            fields: dict[str, np.ndarray | Lists] = {}
            labels = []
            for name, array in arrays.items():
                what, _, rest = name.partition(" ")
                if what == "values":
                    fields[rest] = Lists(array, arrays[f"lengths {rest}"])
                elif what == "field":
                    fields[rest] = array
                elif what == "label":
                    labels.append(array)
            yield Columns(num_rows, fields, labels, arrays.get("weight"), arrays.get("group"))

    def _get(self, piece: _Piece) -> np.ndarray:
        array = np.empty(piece.length, piece.dtype)
        view = array.view(np.uint8).data
        done = 0
        while done < len(view):
            count = os.readv(self._descriptor, [view[done:]])
            assert count, f"{self._path} is shorter than what was written to it"
            done += count
        return array

    def remove(self) -> None:
        """Close and delete the file."""
        if self._handle is not None:
            self._handle.close()
        self._path.unlink(missing_ok=True)
