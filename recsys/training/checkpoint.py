"""Checkpoints: a folder that is complete or does not exist.

A checkpoint holds tensors (safetensors files: plain data, nothing in them is ever executed), plain
facts (`state.json`) and a manifest with the SHA-256 of every file. It is written under a temporary
name, flushed to disk and renamed, so that a kill or a full disk leaves the previous one as the
newest. `best.json` names the best one.

    checkpoints/
        step-00001200/  weights.safetensors  optimizer.safetensors  state.json  manifest.json
        step-00001800/  ...
        best.json

Where tables are sharded, every process writes its parts of them into `tables/` (see `table_files`),
the fitted feature pipeline lies beside them, and the rest is as above.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from recsys.data.atomic import (
    atomic_folder,
    move_into_place,
    sync_tree,
    temporary_sibling,
    write_text_whole,
)
from recsys.errors import CheckpointError
from recsys.training.ranks import Ranks
from recsys.training.table_files import FOLDER, write_tables

_NAME = re.compile(r"step-(\d{8,})$")
_MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was read back."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    """File stem -> name -> tensor."""
    state: dict[str, Any]
    folder: Path
    tables: Path | None = None
    """Folder of the sharded tables, for `table_files`; None where tables are among the tensors."""


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: Where they lie; made when the first one is saved.
        keep_last: How many of the newest to keep, besides the best.
        attach: Writes more into the folder of a checkpoint with sharded tables: what others need
            to use it.
    """

    def __init__(
        self, folder: Path, keep_last: int = 2, attach: Callable[[Path], object] | None = None
    ) -> None:
        if keep_last < 1:
            raise ValueError(f"keep_last={keep_last}; at least the newest checkpoint must be kept.")
        self.folder = folder
        self.keep_last = keep_last
        self.attach = attach

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        if not self.folder.is_dir():
            return []
        found = [_NAME.match(path.name) for path in self.folder.iterdir()]
        return sorted(int(match.group(1)) for match in found if match)

    def best_step(self) -> int | None:
        """Step of the best checkpoint, None before the first validation."""
        try:
            return int(json.loads((self.folder / "best.json").read_text())["step"])
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(
                f"{self.folder / 'best.json'} is not readable ({error}); delete it and name a "
                "checkpoint with trainer.resume=<folder>."
            ) from error

    def path(self, step: int) -> Path:
        """Folder of the checkpoint of a step."""
        return self.folder / f"step-{step:08d}"

    def save(
        self,
        step: int,
        tensors: dict[str, dict[str, Tensor]],
        state: dict[str, Any],
        best: bool = False,
    ) -> Path:
        """Write a checkpoint, then forget those that are neither the best nor among the newest.

        Args:
            step: Optimiser steps done.
            tensors: File stem -> name -> tensor.
            state: Plain facts; floats survive exactly.
            best: Make this one the best.

        Raises:
            CheckpointError: it could not be written; nothing half-written is left behind.
        """
        target = self.path(step)
        try:
            with atomic_folder(target) as temporary:
                _write(temporary, tensors, state)
            if best:
                write_text_whole(self.folder / "best.json", json.dumps({"step": step}))
        except (OSError, SafetensorError) as error:
            raise self._not_written(step, error) from error
        self._prune()
        return target

    def save_together(
        self,
        step: int,
        tensors: dict[str, dict[str, Tensor]],
        state: dict[str, Any],
        tables: Mapping[str, Any],
        ranks: Ranks,
        best: bool = False,
    ) -> Path:
        """As `save`, by all processes at once, each writing its parts of the tables.

        Args:
            step: Optimiser steps done.
            tensors: The first process writes its.
            state: Plain facts; the first process writes its.
            tables: Name -> sharded tensor.
            ranks: All processes; they see one file system.
            best: Make this one the best.

        Raises:
            CheckpointError: one process could not write; on all of them.
        """
        target = self.path(step)
        partial = target
        try:
            partial = ranks.first(lambda: _made(temporary_sibling(target)))
            write_tables(partial / FOLDER, tables)
            mine = [one for one in (partial / FOLDER).iterdir() if _writer(one.name) == ranks.rank]
            entries = {f"{FOLDER}/{path.name}": _entry(path) for path in mine}
            every = {name: entry for part in ranks.gather(entries) for name, entry in part.items()}

            def complete() -> None:
                if self.attach is not None:
                    self.attach(partial)
                _write(partial, tensors, state, every)
                sync_tree(partial)
                move_into_place(partial, target)
                if best:
                    write_text_whole(self.folder / "best.json", json.dumps({"step": step}))
                self._prune()

            ranks.first(complete)
        except (OSError, SafetensorError) as error:
            if ranks.is_first:
                shutil.rmtree(partial, ignore_errors=True)
            raise self._not_written(step, error) from error
        return target

    def _not_written(self, step: int, error: Exception) -> CheckpointError:
        newest = self.steps()
        kept = f"step {newest[-1]} is intact" if newest else "there is no earlier one"
        return CheckpointError(
            f"the checkpoint of step {step} could not be written to {self.folder}: {error}. "
            f"Free space or choose another output_dir, then continue with trainer.resume=auto "
            f"({kept})."
        )

    def load(self, step: int | None = None, verified: bool = False) -> Checkpoint:
        """Read a checkpoint and check every byte against its manifest.

        Args:
            step: Which; None for the newest.
            verified: True where another process has checked it.

        Raises:
            CheckpointError: there is none, or a file is missing or not what was written.
        """
        if step is None:
            steps = self.steps()
            if not steps:
                raise CheckpointError(
                    f"there is no checkpoint in {self.folder}; start without trainer.resume."
                )
            step = steps[-1]
        folder = self.path(step)
        if not verified:
            verify(folder)
        tensors = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
        state = json.loads((folder / "state.json").read_text())
        tables = folder / FOLDER
        return Checkpoint(step, tensors, state, folder, tables if tables.is_dir() else None)

    def load_newest_intact(self) -> tuple[Checkpoint, list[str]]:
        """Read the newest checkpoint that is intact; also say which newer ones were not."""
        problems: list[str] = []
        for step in reversed(self.steps()):
            try:
                return self.load(step), problems
            except CheckpointError as error:
                problems.append(str(error))
        raise CheckpointError(
            f"no intact checkpoint in {self.folder}. " + " ".join(problems or ["It holds none."])
        )

    def _prune(self) -> None:
        steps = self.steps()
        keep = {*steps[-self.keep_last :], self.best_step()}
        for step in steps:
            if step not in keep:
                # Renamed first, so that a kill while deleting leaves no half checkpoint by name.
                doomed = self.path(step).rename(self.folder / f".deleting-{step:08d}")
                shutil.rmtree(doomed, ignore_errors=True)


def verify(folder: Path) -> None:
    """Check every file of a checkpoint against its manifest.

    Raises:
        CheckpointError: naming the first file that is missing, resized or changed.
    """
    try:
        manifest = json.loads((folder / _MANIFEST).read_text())
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{folder} is not a checkpoint: its {_MANIFEST} is missing or damaged ({error})."
        ) from error
    for name, entry in manifest.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"the checkpoint {folder} is incomplete: {name} is missing.")
        if path.stat().st_size != entry["bytes"] or _sha256(path) != entry["sha256"]:
            raise CheckpointError(
                f"the checkpoint {folder} is damaged: {name} is not what was written. Delete the "
                "folder; trainer.resume=auto then takes the checkpoint before it."
            )


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _writer(name: str) -> int:
    """The process that wrote a file of the tables; their index is the first one's."""
    parts = re.match(r"__(\d+)_", name)
    return int(parts.group(1)) if parts else 0


def _write(
    folder: Path,
    tensors: dict[str, dict[str, Tensor]],
    state: dict[str, Any],
    entries: Mapping[str, Any] | None = None,
) -> None:
    """Write all files of a checkpoint, and the manifest of them.

    Args:
        folder: To be filled.
        tensors: File stem -> name -> tensor.
        state: Plain facts.
        entries: The manifest's of what is there already and need not be read again.
    """
    done = dict(entries or {})
    for stem, group in tensors.items():
        plain = {k: v.detach().contiguous().cpu() for k, v in group.items()}
        # safetensors refuses tensors that share memory, as the tables of one storage do.
        whole = {
            k: v.clone() if v.untyped_storage().nbytes() > v.numel() * v.element_size() else v
            for k, v in plain.items()
        }
        save_file(whole, folder / f"{stem}.safetensors")
    (folder / "state.json").write_text(json.dumps(state, indent=1))
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    manifest = {name: done.get(name) or _entry(path) for name, path in names.items()}
    (folder / _MANIFEST).write_text(json.dumps(manifest, indent=1))


def _entry(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
