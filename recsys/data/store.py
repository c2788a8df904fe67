"""Encoded rows on disk: raw row-major files, memory-mapped."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from recsys.data.batch import Batch
from recsys.data.schema import Schema


class Store:
    """Encoded rows of one split, opened without reading them."""

    num_rows: int
    schema: Schema
    digest: str
    ids: np.ndarray
    dense: np.ndarray
    label: np.ndarray
    weight: np.ndarray | None
    group: np.ndarray | None
    ragged: dict[str, tuple[np.ndarray, np.ndarray]]

    @classmethod
    def open(cls, path: Path) -> Store:
        """Memory-map a folder written by `StoreWriter`."""
        raise NotImplementedError

    def gather(self, rows: np.ndarray) -> Batch:
        """Copy these rows, in this order, into one batch."""
        raise NotImplementedError

    def where(self, row: int) -> str:
        """File and row a store row came from, for error messages."""
        raise NotImplementedError
