"""Raw data set to encoded, memory-mapped stores; fitted on the training rows only, cached."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from recsys.data.options import DataOptions
from recsys.data.raw import RawDataset
from recsys.data.store import Store

if TYPE_CHECKING:
    from recsys.data.encode import FeaturePipeline

Progress = Callable[[int, int, str], None]
"""Called with (rows done, rows in all, stage)."""


@dataclass(frozen=True)
class Prepared:
    """A data set ready to train on."""

    name: str
    train: Store
    val: Store | None
    test: Store | None
    pipeline: FeaturePipeline
    digest: str
    folder: Path
    notes: tuple[str, ...]
    bayes: dict[str, float] | None
    summary: tuple[dict[str, object], ...]


def prepare(
    raw: RawDataset,
    options: DataOptions,
    cache_dir: Path,
    progress: Progress | None = None,
) -> Prepared:
    """Split, fit, encode and store a raw data set; a second call opens the result at once."""
    raise NotImplementedError
