"""What `configs/retrieval/*.yaml` holds: the kind of an index, and what it must reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recsys.errors import ConfigError, did_you_mean

KINDS = ("flat", "ivf", "hnsw", "ivfpq")
AUTO = "auto"
FLAT_ITEMS = 20_000
"""`auto`: a catalogue up to this is searched exactly, in well under a millisecond."""
GRIDS = {
    "flat": (0,),
    "ivf": (1, 2, 4, 8, 16, 32, 64, 128, 256),
    "hnsw": (16, 32, 64, 128, 256, 512, 1024),
    "ivfpq": (1, 2, 4, 8, 16, 32, 64, 128, 256),
}
"""Efforts that are measured: lists that are read (ivf, ivfpq), efSearch (hnsw)."""


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions:
    """How an index is built and chosen.

    Raises:
        ConfigError: a value makes no sense.
    """

    kind: str = AUTO
    """flat, ivf, hnsw, ivfpq, or auto: the first of flat (small catalogues), ivf, hnsw and flat
    that reaches `min_recall`."""
    min_recall: float = 0.95
    """Least mean recall@k against exact search; the cheapest effort that reaches it is taken."""
    k: int = 10
    """Length of the lists by which recall is measured."""
    queries: int = 1000
    """Vectors searched to measure: users where the export has them, else items."""
    norm_ratio: float = 1.5
    """inner_product: longest over shortest vector of a part that is indexed by itself, > 1."""
    grid: Sequence[int] | None = None
    """Efforts to measure, ascending; None: `GRIDS`."""
    neighbors: int = 32
    """hnsw: links of an item, 4 to 128."""
    ef_construction: int = 200
    """hnsw: candidates looked at for the links of an item."""
    num_lists: int | None = None
    """ivf, ivfpq: lists of items; None: 4 sqrt(items)."""
    code_bytes: int = 16
    """ivfpq: bytes of an item's code; must divide the width of the vectors."""
    refine: int = 10
    """ivfpq: so many times k candidates are compared again by 8-bit numbers; 1 keeps no such."""
    seed: int = 0
    """Of the training rows and the queries."""

    def __post_init__(self) -> None:
        if self.kind not in (*KINDS, AUTO):
            raise ConfigError(
                f"retrieval.kind={self.kind} does not exist.{did_you_mean(self.kind, KINDS)}"
            )
        if not 0 < self.min_recall <= 1:
            raise ConfigError(
                f"retrieval.min_recall={self.min_recall}; it must be above 0, at most 1."
            )
        if self.norm_ratio <= 1:
            raise ConfigError(f"retrieval.norm_ratio={self.norm_ratio}; it must be above 1.")
        for name in ("k", "queries", "ef_construction", "code_bytes", "refine"):
            if getattr(self, name) < 1:
                raise ConfigError(f"retrieval.{name}={getattr(self, name)}; it must be at least 1.")
        if not 4 <= self.neighbors <= 128:
            raise ConfigError(
                f"retrieval.neighbors={self.neighbors}; it must be 4 to 128 (16, 32 or 64 are "
                "usual)."
            )
        if self.num_lists is not None and self.num_lists < 1:
            raise ConfigError(f"retrieval.num_lists={self.num_lists}; it must be at least 1.")
        grid = [] if self.grid is None else list(self.grid)
        if self.grid is not None and (not grid or sorted(set(grid)) != grid or grid[0] < 1):
            raise ConfigError(
                f"retrieval.grid={grid}; give ascending whole numbers from 1 up, or null."
            )

    def drawn(self, rows: int) -> np.ndarray:
        """Numbers of the rows that an index is measured with, ascending."""
        rng = np.random.default_rng(self.seed)
        return np.sort(rng.choice(rows, min(self.queries, rows), replace=False))

    def efforts(self, kind: str) -> tuple[int, ...]:
        """What is measured for a kind, cheapest first."""
        return GRIDS[kind] if self.grid is None or kind == "flat" else tuple(self.grid)

    def kinds(self, num_items: int) -> tuple[str, ...]:
        """The kinds to try, in turn.

        Example:
            >>> RetrievalOptions().kinds(1_000), RetrievalOptions().kinds(10**6)
            (('flat',), ('ivf', 'hnsw', 'flat'))
        """
        if self.kind != AUTO:
            return (self.kind,)
        return ("flat",) if num_items <= FLAT_ITEMS else ("ivf", "hnsw", "flat")
