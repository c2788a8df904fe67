"""Options common to every data set: how columns are encoded, which are kept, how rows split."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recsys.data.schema import Schema


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Keys of `configs/data/_common.yaml`. None keeps what the schema says."""

    min_count: int | None = None
    max_size: int | None = None
    categorical: str | None = None
    hash_size: int = 1_000_000
    numeric: str | None = None
    num_buckets: int = 32
    max_length: int | None = None
    fields: dict[str, dict[str, Any]] = field(default_factory=dict)
    schema: Path | None = None
    features: Path | list[str] | None = None
    top: int | None = None
    nan_as_missing: bool = False
    val_fraction: float = 0.1
    test_fraction: float = 0.1
    split_seed: int = 0
    rebuild: bool = False


def apply_options(schema: Schema, options: DataOptions) -> Schema:
    """Return the schema with the options applied."""
    raise NotImplementedError
