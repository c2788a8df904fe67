"""Encoded rows on disk: raw row-major little-endian files, memory-mapped.

    meta.json                     shapes, types, checksums, schema, digest, source files
    ids.bin                       [n, F]  int32 or int64
    dense.bin                     [n, N]  float32
    label.bin                     [n] or [n, K] float32
    weight.bin, group.bin         [n]     float32, int64; only when the schema has them
    row.bin                       [n]     int64 position in the source, where rows were picked
    ragged_<i>_values/offsets.bin [sum of lengths], [n + 1] int64

Letters   n rows of the store, F coded fields, N dense columns, K labels.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.data.atomic import move_into_place, sync_folder, temporary_sibling, write_all
from recsys.data.batch import Batch, Ragged
from recsys.data.encode import EncodedTable, id_dtype
from recsys.data.schema import Schema
from recsys.errors import SchemaError

VERSION = 1
META = "meta.json"


class Store:
    """Encoded rows of one split, opened without reading them."""

    def __init__(self, path: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        self.path = path
        self.num_rows: int = meta["num_rows"]
        self.schema = Schema.from_dict(meta["schema"])
        self.digest: str = meta["digest"]
        self.split: str = meta["split"]
        self.files: tuple[tuple[str, int], ...] = tuple((n, r) for n, r in meta["files"])
        """Name and row count of each source file, in reading order."""
        self.regional = False
        """Whether a process should keep to a region of the rows: they come over a network."""
        self._meta = meta
        self._arrays = arrays
        self._tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}

    def array(self, name: str) -> np.ndarray:
        """All of an array of `meta.json`."""
        return self._arrays[name]

    def _optional(self, name: str) -> np.ndarray | None:
        return self.array(name) if name in self._arrays else None

    @property
    def ids(self) -> np.ndarray:
        return self.array("ids")

    @property
    def dense(self) -> np.ndarray:
        return self.array("dense")

    @property
    def label(self) -> np.ndarray:
        return self.array("label")

    @property
    def weight(self) -> np.ndarray | None:
        return self._optional("weight")

    @property
    def group(self) -> np.ndarray | None:
        return self._optional("group")

    @property
    def row(self) -> np.ndarray | None:
        return self._optional("row")

    @property
    def ragged(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Values and offsets, by field."""
        return {
            field.name: (self.array(f"ragged_{i}_values"), self.array(f"ragged_{i}_offsets"))
            for i, field in enumerate(self.schema.ragged)
        }

    @classmethod
    def open(cls, path: Path) -> Store:
        """Memory-map a folder written by `StoreWriter`.

        Raises:
            SchemaError: The folder is no store, is incomplete, or a file has the wrong size.
        """
        path = Path(path)
        meta = read_meta(path / META)
        arrays = {name: map_array(path, one) for name, one in meta["arrays"].items()}
        return cls(path, meta, arrays)

    def __len__(self) -> int:
        return self.num_rows

    def __repr__(self) -> str:
        coded, dense, ragged = (self.schema.coded, self.schema.dense, self.schema.ragged)
        fields = f"{len(coded)} coded, {len(dense)} dense, {len(ragged)} lists"
        return f"Store({self.split}, {self.num_rows:,} rows, {fields})"

    def gather(self, rows: np.ndarray | Tensor) -> Batch:
        """Copy these rows, in this order, into one batch.

        Args:
            rows: Positions in the store [B], int64.

        Raises:
            IndexError: A position is outside the store.
        """
        index = torch.as_tensor(rows, dtype=torch.int64)
        tensors = self._tensors
        ragged = {}
        for position, field in enumerate(self.schema.ragged):
            ragged[field.name] = _gather_lists(
                tensors[f"ragged_{position}_values"],
                tensors[f"ragged_{position}_offsets"],
                index,
            )
        return Batch(
            ids=tensors["ids"].index_select(0, index),
            dense=tensors["dense"].index_select(0, index),
            label=tensors["label"].index_select(0, index),
            ragged=ragged,
            weight=tensors["weight"].index_select(0, index) if "weight" in tensors else None,
            group=tensors["group"].index_select(0, index) if "group" in tensors else None,
            row=index,
        )

    def will_need(self, starts: np.ndarray, stops: np.ndarray) -> None:
        """Ask the system to read blocks of rows soon, each in one go; only a hint.

        Rows gathered at random from a cold disk arrive twice as fast after it.

        Args:
            starts: First row of each block [K].
            stops: Row after the last of each block [K].
        """
        if not hasattr(os, "posix_fadvise"):  # not on macOS
            return
        for name, one in self._meta["arrays"].items():
            first, last = starts, stops
            if name.endswith("_values"):  # as many per row as its offsets say
                offsets = self._tensors[name.removesuffix("values") + "offsets"].numpy()
                first, last = offsets[starts], offsets[stops]
            item = int(np.prod(one["shape"][1:], dtype=np.int64)) * np.dtype(one["dtype"]).itemsize
            handle = os.open(self.path / one["file"], os.O_RDONLY)
            try:
                for start, stop in zip(first.tolist(), last.tolist(), strict=True):
                    length = (stop - start) * item
                    if length:  # 0 would mean up to the end of the file
                        os.posix_fadvise(handle, start * item, length, os.POSIX_FADV_WILLNEED)
            finally:
                os.close(handle)

    def where(self, rows: int | Sequence[int] | np.ndarray | Tensor) -> str:
        """Source file and row of one store row, or the range that some rows span.

        Example: `clicks/part-3.parquet row 1207`, or `... rows 12 to 4096`.
        """
        at = np.atleast_1d(np.asarray(rows, dtype=np.int64))
        source = at if self.row is None else np.asarray(self.row[at])
        first, last = (self._file_row(int(one)) for one in (source.min(), source.max()))
        if first == last:
            return f"{first[0]} row {first[1]}"
        if first[0] == last[0]:
            return f"{first[0]} rows {first[1]} to {last[1]}"
        return f"{first[0]} row {first[1]} to {last[0]} row {last[1]}"

    def verify(self) -> None:
        """Read every byte and compare it with the checksums of the writer.

        Raises:
            SchemaError: A file was changed or damaged after it was written.
        """
        for one in self._meta["arrays"].values():
            checksum = 0
            with (self.path / one["file"]).open("rb") as handle:
                while block := handle.read(1 << 22):
                    checksum = zlib.crc32(block, checksum)
            if checksum != one["crc32"]:
                raise SchemaError(
                    f"{self.path / one['file']} is corrupted: its checksum is {checksum:08x}, "
                    f"written as {one['crc32']:08x}. Prepare the data again with data.rebuild=true."
                )

    def _file_row(self, row: int) -> tuple[str, int]:
        for name, num_rows in self.files:
            if row < num_rows:
                return name, row
            row -= num_rows
        raise IndexError(f"row {row} is beyond the source files of {self.path}")


class StoreWriter:
    """Writes a store in a temporary folder beside `path`, which `close` renames into place.

    Use it as a context manager: an error inside removes what was written. A kill leaves a hidden
    temporary folder that does not open, never a part of `path`.

    Args:
        path: Folder to appear when all is written.
        schema: Fitted.
        split: Name of the split.
        digest: What the rows were made from.
        files: Name and row count of the source files.
        picked: True when the rows are a selection of the source rows, whose positions are kept.
    """

    def __init__(
        self,
        path: Path,
        schema: Schema,
        split: str = "train",
        digest: str = "",
        files: Sequence[tuple[str, int]] = (),
        picked: bool = False,
    ) -> None:
        self.path = Path(path)
        self.schema = schema
        self.num_rows = 0
        self._meta = {"split": split, "digest": digest, "files": [list(one) for one in files]}
        self._sizes = np.array([field.size or 0 for field in schema.coded], np.int64)
        self._partial = temporary_sibling(self.path)
        self._partial.mkdir(parents=True)
        self._files: dict[str, _RawFile] = {}
        ids = np.dtype(id_dtype(schema))
        try:
            self._add("ids", ids, (len(schema.coded),))
            self._add("dense", np.dtype(np.float32), (len(schema.dense),))
            many = (len(schema.labels),) if len(schema.labels) > 1 else ()
            self._add("label", np.dtype(np.float32), many)
            if schema.weight:
                self._add("weight", np.dtype(np.float32))
            if schema.group:
                self._add("group", np.dtype(np.int64))
            if picked:
                self._add("row", np.dtype(np.int64))
            for i in range(len(schema.ragged)):
                self._add(f"ragged_{i}_values", ids)
                self._add(f"ragged_{i}_offsets", np.dtype(np.int64))
                self._files[f"ragged_{i}_offsets"].write(np.zeros(1, np.int64))
        except BaseException:
            self.abort()
            raise

    def _add(self, name: str, dtype: np.dtype, shape: tuple[int, ...] = ()) -> None:
        self._files[name] = _RawFile(self._partial / f"{name}.bin", dtype, shape)

    def append(self, table: EncodedTable, rows: np.ndarray | None = None) -> None:
        """Write some rows.

        Args:
            table: Encoded rows.
            rows: Their positions in the source, when rows are picked.

        Raises:
            SchemaError: A code is outside the range of its field.
            OSError: The disk is full.
        """
        self._check(table)
        arrays: dict[str, np.ndarray | None] = {
            "ids": table.ids,
            "dense": table.dense,
            "label": table.label,
            "weight": table.weight,
            "group": table.group,
            "row": rows,
        }
        for i, field in enumerate(self.schema.ragged):
            values, offsets = table.ragged[field.name]
            done = self._files[f"ragged_{i}_values"].length
            arrays[f"ragged_{i}_values"] = values
            arrays[f"ragged_{i}_offsets"] = offsets[1:] + done
        for name, file in self._files.items():
            array = arrays[name]
            if array is None:
                raise SchemaError(f"the rows for the store {self.path} come without {name}.")
            file.write(array)
        self.num_rows += len(table)

    def append_store(self, store: Store) -> None:
        """Write all rows of a store that was written with the same schema."""
        before = {name: file.length for name, file in self._files.items()}
        for name, file in self._files.items():
            array = store.array(name)
            if name.endswith("_offsets"):  # the first of them is the end of the rows before
                array = array[1:] + before[name.removesuffix("offsets") + "values"]
            file.write(array)
        self.num_rows += len(store)

    def _check(self, table: EncodedTable) -> None:
        coded = self.schema.coded
        for start in range(0, len(table), 8192):
            block = table.ids[start : start + 8192]
            if not block.size:
                return
            high, low = block.max(axis=0), block.min(axis=0)
            for position in np.flatnonzero((high >= self._sizes) | (low < 0)):
                bad = high[position] if low[position] >= 0 else low[position]
                raise _out_of_range(coded[position].name, int(bad), coded[position].size)
        for field in self.schema.ragged:
            values, _ = table.ragged[field.name]
            if values.size and not 0 <= values.min() <= values.max() < (field.size or 0):
                bad = values.max() if values.min() >= 0 else values.min()
                raise _out_of_range(field.name, int(bad), field.size)

    def close(self) -> Path:
        """Make the files durable and give the folder its name."""
        try:
            arrays = {name: file.close() for name, file in self._files.items()}
            meta = {
                "format": "recsys-store",
                "version": VERSION,
                "num_rows": self.num_rows,
                **self._meta,
                "schema": self.schema.to_dict(),
                "arrays": arrays,
            }
            with (self._partial / META).open("w") as handle:
                write_all(handle.fileno(), json.dumps(meta, indent=1).encode())
                os.fsync(handle.fileno())
            sync_folder(self._partial)
            move_into_place(self._partial, self.path)
        except BaseException:
            self.abort()
            raise
        return self.path

    def abort(self) -> None:
        """Remove everything written so far."""
        for file in self._files.values():
            file.discard()
        shutil.rmtree(self._partial, ignore_errors=True)

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abort()


class _RawFile:
    """One growing array file with its checksum."""

    def __init__(self, path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> None:
        self.path = path
        self.dtype = dtype.newbyteorder("<")
        self.shape = shape
        self.length = 0
        self.checksum = 0
        self._handle = path.open("wb", buffering=0)

    def write(self, array: np.ndarray) -> None:
        data = np.ascontiguousarray(array, self.dtype)
        assert data.shape[1:] == self.shape, (self.path.name, data.shape, self.shape)
        if data.size:
            view = data.reshape(-1).view(np.uint8).data
            self.checksum = zlib.crc32(view, self.checksum)
            write_all(self._handle.fileno(), view)
        self.length += len(data)

    def close(self) -> dict[str, Any]:
        os.fsync(self._handle.fileno())
        self._handle.close()
        return {
            "file": self.path.name,
            "dtype": self.dtype.str,
            "shape": [self.length, *self.shape],
            "crc32": self.checksum,
        }

    def discard(self) -> None:
        self._handle.close()


def read_meta(path: Path) -> dict[str, Any]:
    """What a store says of itself.

    Raises:
        SchemaError: it is not there, or of a version that is not read.
    """
    try:
        meta: dict[str, Any] = json.loads(path.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise SchemaError(
            f"{path.parent} holds no complete store ({error}). Prepare the data again with "
            "data.rebuild=true."
        ) from error
    if meta.get("format") != "recsys-store" or meta.get("version") != VERSION:
        raise SchemaError(
            f"{path.parent} holds a store of version {meta.get('version')}; this program reads "
            f"version {VERSION}. Prepare the data again with data.rebuild=true."
        )
    return meta


def map_array(path: Path, one: dict[str, Any]) -> np.ndarray:
    """Memory-map one array after checking that its file has the size it should have."""
    file, dtype, shape = path / one["file"], np.dtype(one["dtype"]), tuple(one["shape"])
    wanted = int(np.prod(shape)) * dtype.itemsize
    try:
        found = file.stat().st_size
    except OSError as error:
        raise SchemaError(
            f"{file} is missing. Prepare the data again with data.rebuild=true."
        ) from error
    if found != wanted:
        raise SchemaError(
            f"{file} has {found:,} bytes, but its {shape} values need {wanted:,}: it is truncated "
            "or was changed. Prepare the data again with data.rebuild=true."
        )
    if not wanted:
        return np.empty(shape, dtype)
    # Copy-on-write: torch needs memory it may write to, and the file stays as it is.
    return np.memmap(file, dtype, "c", shape=shape).view(np.ndarray)


def _gather_lists(values: Tensor, offsets: Tensor, index: Tensor) -> Ragged:
    """Lists of some rows, end to end."""
    starts = offsets.index_select(0, index)
    lengths = offsets.index_select(0, index + 1) - starts
    out = torch.zeros(index.numel() + 1, dtype=torch.int64)
    torch.cumsum(lengths, 0, out=out[1:])
    shift = torch.repeat_interleave(starts - out[:-1], lengths)
    return Ragged(values.index_select(0, torch.arange(shift.numel()) + shift), out)


def _out_of_range(name: str, code: int, size: int | None) -> SchemaError:
    return SchemaError(
        f'field "{name}" has code {code}, but its table holds {size} codes; codes must be in '
        f"[0, {size}). Prepare the data again with data.rebuild=true."
    )
