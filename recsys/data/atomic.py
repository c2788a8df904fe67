"""Files and folders that are either whole or absent, whatever stops the program."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np


def write_all(descriptor: int, data: bytes | memoryview | np.ndarray) -> int:
    """Write every byte to an open file and return how many there were."""
    if isinstance(data, np.ndarray):
        data = np.ascontiguousarray(data).reshape(-1).view(np.uint8).data
    view = memoryview(data)
    done = 0
    while done < len(view):
        done += os.write(descriptor, view[done:])
    return done


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(path: Path) -> None:
    """Make every file below a folder, and the folders' names, durable."""
    for folder, _, files in os.walk(path):
        for name in files:
            descriptor = os.open(Path(folder) / name, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        sync_folder(Path(folder))


def temporary_sibling(path: Path) -> Path:
    """A name beside `path`, on the same file system, that nobody else uses."""
    return path.with_name(f".{path.name}.tmp-{uuid.uuid4().hex[:12]}")


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a temporary folder that becomes `path` when the block ends without an error.

    An existing `path` is replaced. After an error, or a kill, `path` is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_sibling(path)
    partial.mkdir()
    try:
        yield partial
        sync_tree(partial)
        move_into_place(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def move_into_place(partial: Path, path: Path) -> None:
    """Rename a finished folder, replacing one that is there."""
    if path.exists():
        old = temporary_sibling(path)
        path.rename(old)
        partial.rename(path)
        shutil.rmtree(old)
    else:
        partial.rename(path)
    sync_folder(path.parent)


def write_text_whole(path: Path, text: str) -> None:
    """Write a text file that appears, or is replaced, in one rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = temporary_sibling(path)
    partial.write_text(text)
    partial.replace(path)
