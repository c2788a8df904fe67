"""Tables of a checkpoint that no process holds whole, through torch.distributed.checkpoint.

Every process writes its parts; any number of processes, split in any way, reads what it needs, and
so does a process that takes the whole table. Which part lies where is said by `tables.json`, in
place of the pickled file of torch: parts are read as plain tensors (`weights_only`), and nothing of
a foreign file is ever executed.

    tables/
        __0_0.distcp  __1_0.distcp  ...   parts
        tables.json                       name -> type, size, parts

Letters   R rows, V physical width of a table.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter, _StorageInfo
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult

from recsys.errors import CheckpointError

FOLDER = "tables"
INDEX = "tables.json"


def write_tables(folder: Path, tables: Mapping[str, Any]) -> None:
    """Write this process's parts; every process calls it, on a file system that all see.

    Args:
        folder: New; the same on every process.
        tables: Name -> sharded tensor, or a plain one that all processes have.

    Raises:
        OSError: on every process, where one could not write.
    """
    try:
        save(dict(tables), storage_writer=_Writer(folder), no_dist=not dist.is_initialized())
    except CheckpointException as error:  # no Exception: nothing else would catch it
        raise OSError(_first_cause(error)) from error


def read_tables(folder: Path, tables: Mapping[str, Any]) -> None:
    """Fill tensors, in place, from parts that may have been cut in any other way.

    Args:
        folder: What `write_tables` wrote.
        tables: Name -> sharded tensor (every process calls this), or plain tensors [R, V] or [R].

    Raises:
        CheckpointError: a table is missing, has another size, or cannot be read; on every process.
    """
    sizes = table_sizes(folder)
    for name, tensor in tables.items():
        if name not in sizes:
            raise CheckpointError(
                f"{folder} has no {name}; it has {', '.join(sorted(sizes))}. It was written with "
                "another optimizer or other columns."
            )
        if tuple(tensor.size()) != sizes[name]:
            raise CheckpointError(
                f"{name} is {list(sizes[name])} in {folder} and {list(tensor.size())} here."
            )
    alone = not any(hasattr(tensor, "local_shards") for tensor in tables.values())
    try:
        with warnings.catch_warnings():  # that one process reads is meant
            warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
            load(dict(tables), storage_reader=_Reader(folder), no_dist=alone)
    except CheckpointException as error:
        raise CheckpointError(f"{folder} cannot be read: {_first_cause(error)}") from error


def read_whole(folder: Path) -> dict[str, Tensor]:
    """Every table, whole, in this process's memory; no other process is needed."""
    index = _index(folder)
    tables = {
        name: torch.empty(entry["size"], dtype=getattr(torch, entry["dtype"]))
        for name, entry in index.items()
    }
    read_tables(folder, tables)
    return tables


def table_sizes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Name -> size of what a folder holds."""
    return {name: tuple(entry["size"]) for name, entry in _index(folder).items()}


def _index(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / INDEX).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / INDEX} is missing or damaged ({error}).") from error
    return found


def _first_cause(error: BaseException) -> str:
    """What went wrong on the first process where something did."""
    failures = getattr(error, "failures", {})
    for rank, (cause, _) in sorted(failures.items()):
        return f"{cause} (process {rank})"
    return str(error)


class _Writer(FileSystemWriter):
    """torch's, with its index as JSON."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        where = {
            (one.index.fqn, tuple(one.index.offset or ())): one.storage_data
            for rank in results
            for one in rank
        }
        index = {}
        for name, entry in metadata.state_dict_metadata.items():
            assert isinstance(entry, TensorStorageMetadata)
            parts = []
            for chunk in entry.chunks:
                at = where[name, tuple(chunk.offsets)]
                parts.append(
                    {
                        "first": list(chunk.offsets),
                        "size": list(chunk.sizes),
                        "file": at.relative_path,
                        "offset": at.offset,
                        "bytes": at.length,
                    }
                )
            dtype = str(entry.properties.dtype).removeprefix("torch.")
            index[name] = {"dtype": dtype, "size": list(entry.size), "parts": parts}
        (self.folder / INDEX).write_text(json.dumps(index, indent=1))


class _Reader(FileSystemReader):
    """torch's, with the index that `_Writer` wrote."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        sizes, places = {}, {}
        for name, entry in _index(self.folder).items():
            chunks = []
            for part in entry["parts"]:
                first, size = torch.Size(part["first"]), torch.Size(part["size"])
                chunks.append(ChunkStorageMetadata(first, size))
                # A name alone: a path would lead out of the folder.
                file = Path(part["file"]).name
                places[MetadataIndex(name, first)] = _StorageInfo(
                    file, part["offset"], part["bytes"]
                )
            properties = TensorProperties(dtype=getattr(torch, entry["dtype"]))
            sizes[name] = TensorStorageMetadata(properties, torch.Size(entry["size"]), chunks)
        meta = StorageMeta(load_id=self.load_id)
        return Metadata(state_dict_metadata=dict(sizes), storage_data=places, storage_meta=meta)
