"""A store whose rows come over a network, block by block, when they are first asked for.

A local folder holds the files of the store, at first as holes without content. A block that arrives
is written where it belongs, and marked; from then on it is read like any memory-mapped store. The
processes of one machine share the folder, and a later run finds in it what earlier ones fetched.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.data.atomic import move_into_place, temporary_sibling, write_all
from recsys.data.batch import Batch
from recsys.data.remote import Place, reaching
from recsys.data.store import META, Store, map_array, read_meta

BLOCK_ROWS = 8192
"""Rows fetched together: about a megabyte of 39 columns."""
REQUEST_BLOCKS = 16
"""Neighbouring blocks that one request asks for, at most."""
FETCHERS = 16
"""Requests under way at a time."""
FAR_META = "far.json"
MARKS = "fetched"


class FarStore(Store):
    """Rows of a store behind an address. Whole arrays (`ids`, `label`, ...) are fetched whole."""

    def __init__(
        self, path: Path, meta: dict[str, Any], arrays: dict[str, np.ndarray], place: Place
    ) -> None:
        super().__init__(path, meta, arrays)
        self.place = place
        self.fetched_bytes = 0
        """By this process."""
        # A value is found by its offset: offsets come first.
        self._names = sorted(arrays, key=lambda name: (name.endswith("_values"), name))
        num_blocks = -(-self.num_rows // BLOCK_ROWS)
        shape = (len(self._names), num_blocks)
        self._marks = np.memmap(path / MARKS, np.uint8, "r+", shape=shape) if num_blocks else None
        self._whole = np.zeros(num_blocks, bool)
        self._handles: dict[str, Any] = {}

    @classmethod
    def open_far(cls, place: Place, cache: Path) -> FarStore:
        """Read what the store says of itself, and no row.

        Args:
            place: Folder of the store.
            cache: Local folder for what is fetched; made unless it is there.

        Raises:
            SchemaError: the address cannot be reached, or holds no store.
        """
        if not (cache / FAR_META).exists():
            _make_cache(place, cache)
        meta = read_meta(cache / FAR_META)
        arrays = {name: map_array(cache, one) for name, one in meta["arrays"].items()}
        return cls(cache, meta, arrays, place)

    def array(self, name: str) -> np.ndarray:
        """All of an array, fetched if need be."""
        names = [name]
        if name.endswith("_values"):
            names = [name.removesuffix("values") + "offsets", name]
        self._fetch(names, np.arange(len(self._whole)))
        return super().array(name)

    def gather(self, rows: np.ndarray | Tensor) -> Batch:
        """Copy these rows into one batch; blocks that hold them are fetched first."""
        index = torch.as_tensor(rows, dtype=torch.int64)
        blocks = np.unique(index.numpy() // BLOCK_ROWS)
        blocks = blocks[(blocks >= 0) & (blocks < len(self._whole))]
        blocks = blocks[~self._whole[blocks]]
        if blocks.size:
            self._fetch(self._names, blocks)
            self._whole[blocks] = True
        return super().gather(index)

    def will_need(self, starts: np.ndarray, stops: np.ndarray) -> None:
        """Nothing: of the rows of a window, other processes need most."""

    def verify(self) -> None:
        """Fetch everything, and compare it with the checksums of the writer."""
        self._fetch(self._names, np.arange(len(self._whole)))
        super().verify()

    def _fetch(self, names: Sequence[str], blocks: np.ndarray) -> None:
        """Bring blocks of some arrays; those that are here already are left."""
        if self._marks is None or not blocks.size:
            return
        for late in (False, True):  # values are found by the offsets that came before them
            chosen = [name for name in names if name.endswith("_values") is late]
            missing = {
                name: blocks[self._marks[self._names.index(name), blocks] == 0] for name in chosen
            }
            jobs = [(name, run) for name, ones in missing.items() for run in _runs(ones)]
            if not jobs:
                continue
            for name, _ in jobs:
                self._open(name)
            with ThreadPoolExecutor(FETCHERS) as pool:
                self.fetched_bytes += sum(pool.map(self._fetch_run, *zip(*jobs, strict=True)))
            for name, ones in missing.items():
                self._make_durable(name)
                self._marks[self._names.index(name), ones] = 1

    def _open(self, name: str) -> None:
        if name not in self._handles:
            place = self.place / self._meta["arrays"][name]["file"]
            with reaching(place.address):
                self._handles[name] = place.filesystem.open_input_file(place.path)

    def _fetch_run(self, name: str, run: tuple[int, int]) -> int:
        """Fetch the blocks [first, stop) of an array in one request; how many bytes they have."""
        start, stop = run[0] * BLOCK_ROWS, min(run[1] * BLOCK_ROWS, self.num_rows)
        if name.endswith("_offsets"):
            stop += 1
        elif name.endswith("_values"):
            offsets = self._arrays[name.removesuffix("values") + "offsets"]
            start, stop = int(offsets[start]), int(offsets[stop])
        one = self._meta["arrays"][name]
        item = int(np.prod(one["shape"][1:], dtype=np.int64)) * np.dtype(one["dtype"]).itemsize
        size = (stop - start) * item
        if not size:
            return 0
        file = self.path / one["file"]
        with reaching(f"{self.place.address}/{one['file']}"):
            data = self._handles[name].read_at(size, start * item)
            if len(data) != size:
                raise OSError(f"{len(data):,} bytes came in place of {size:,}")
        handle = os.open(file, os.O_WRONLY)
        try:
            os.lseek(handle, start * item, os.SEEK_SET)
            write_all(handle, data)
        finally:
            os.close(handle)
        return size

    def _make_durable(self, name: str) -> None:
        """Before a mark says that a block is here: a power cut must not leave a hole behind it."""
        handle = os.open(self.path / self._meta["arrays"][name]["file"], os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _make_cache(place: Place, cache: Path) -> None:
    """A folder with the files of a store, all of them holes."""
    text = (place / META).read()
    partial = temporary_sibling(cache)
    partial.mkdir(parents=True)
    try:
        (partial / FAR_META).write_bytes(text)
        meta = read_meta(partial / FAR_META)
        for one in meta["arrays"].values():
            size = int(np.prod(one["shape"], dtype=np.int64)) * np.dtype(one["dtype"]).itemsize
            with (partial / one["file"]).open("wb") as handle:
                handle.truncate(size)
        with (partial / MARKS).open("wb") as handle:
            handle.truncate(len(meta["arrays"]) * -(-meta["num_rows"] // BLOCK_ROWS))
        move_into_place(partial, cache)
    except (json.JSONDecodeError, OSError):
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _runs(blocks: np.ndarray) -> list[tuple[int, int]]:
    """Neighbours together, as (first, stop).

    Example:
        >>> _runs(np.array([0, 1, 2, 7]))
        [(0, 3), (7, 8)]
    """
    found: list[tuple[int, int]] = []
    for block in blocks.tolist():
        if found and found[-1][1] == block and block - found[-1][0] < REQUEST_BLOCKS:
            found[-1] = (found[-1][0], block + 1)
        else:
            found.append((block, block + 1))
    return found
