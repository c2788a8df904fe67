"""Where a run writes, and what it continues from."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from recsys.errors import CheckpointError
from recsys.training.checkpoint import Checkpoint, Checkpoints


@dataclass(frozen=True)
class Continued:
    """A checkpoint, and the stage of the run that wrote it."""

    stage: str
    checkpoint: Checkpoint


@dataclass(frozen=True)
class RunFolder:
    """Finds the output folder of a run.

    Args:
        base: Folder of all runs of this model on this data.
        fingerprint: Of everything that decides what the run computes.
        stages: Folders of checkpoints within a run's folder, in the order in which they are
            written; of several that have any, the last one is continued.
        notify: Told what is skipped.
    """

    base: Path
    fingerprint: str
    stages: Sequence[str]
    notify: Callable[[str], None]

    def choose(
        self, given: str | None, resume: str | None, started: datetime
    ) -> tuple[Path, Continued | None]:
        """The folder, and what to continue from if there is anything.

        Args:
            given: `output_dir`.
            resume: `trainer.resume`: auto, or a folder.
            started: Names a new folder.

        Raises:
            CheckpointError: the folder to continue holds no checkpoint of this configuration, or a
                new run would start in the folder of one that has not finished.
        """
        folder = Path(given) if given else self.base / f"{started:%Y%m%d-%H%M%S}-{os.getpid()}"
        if resume not in (None, "auto"):
            return Path(resume), self._continuable(Path(resume), required=True)
        if resume == "auto":
            for candidate in [folder] if given else newest_first(self.base):
                found = self._continuable(candidate)
                if found is not None:
                    return candidate, found
        self._check_free(folder)
        if resume == "auto":
            self.notify("nothing to continue; starting anew")
        return folder, None

    def claim(self, folder: Path, continued: Continued | None) -> None:
        """Make the folder, and write down whose it is; a new run takes a finished one's place."""
        folder.mkdir(parents=True, exist_ok=True)
        if continued is None:
            for stage in self.stages:
                shutil.rmtree(folder / stage, ignore_errors=True)
            (folder / "result.json").unlink(missing_ok=True)
        (folder / "identity.txt").write_text(self.fingerprint)

    def _check_free(self, folder: Path) -> None:
        """A new run among the checkpoints of a paused one would delete the one or lose its own."""
        paused = any(Checkpoints(folder / stage).steps() for stage in self.stages)
        if not paused or (folder / "result.json").exists():
            return
        if self._belongs(folder):
            way = "trainer.resume=auto continues it"
        else:
            way = f"it has another configuration: compare {folder / 'config.yaml'} with --cfg job"
        raise CheckpointError(
            f"output_dir={folder} holds the checkpoints of a run that has not finished; {way}. "
            "To start anew, give another output_dir, or delete this one."
        )

    def _belongs(self, folder: Path) -> bool:
        try:
            return (folder / "identity.txt").read_text() == self.fingerprint
        except OSError:
            return False

    def _continuable(self, folder: Path, required: bool = False) -> Continued | None:
        """The newest intact checkpoint of a run with this configuration that has not finished."""
        same = self._belongs(folder)
        there = [stage for stage in self.stages if Checkpoints(folder / stage).steps()]
        if not same or not there:
            if required:
                raise CheckpointError(
                    f"trainer.resume={folder}: there is no checkpoint of this configuration. "
                    f"Compare {folder / 'config.yaml'} with --cfg job, or use trainer.resume=auto."
                )
            return None
        if (folder / "result.json").exists() and not required:
            return None
        checkpoint, problems = Checkpoints(folder / there[-1]).load_newest_intact()
        for problem in problems:
            self.notify(f"skipped: {problem}")
        return Continued(there[-1], checkpoint)


def newest_first(base: Path) -> list[Path]:
    """Run folders, the newest first (their names are times)."""
    return sorted((p for p in base.glob("*") if p.is_dir()), key=lambda p: p.name, reverse=True)
