"""What an index finds after vectors were added or taken out, and the effort that takes.

Exact search goes over the vectors that the index itself holds; those of ivfpq are its 8-bit
numbers, and without them (`retrieval.refine=1`) there is nothing to compare with.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from recsys.retrieval import faiss_index
from recsys.retrieval.measure import Point, cheapest, exact_lists, measure
from recsys.retrieval.options import RetrievalOptions
from recsys.retrieval.vector_index import VectorIndex

BLOCK_ROWS = 65_536


@dataclass(frozen=True)
class Remeasured:
    """What was measured."""

    k: int
    points: list[Point]
    chosen: Point
    reached: bool
    """Whether the chosen effort, else the greatest there is, reaches `min_recall`."""
    queries_from: str
    """What it was measured with, `users` or `items`."""


def measure_again(
    index: VectorIndex, options: RetrievalOptions, users: np.ndarray | None = None
) -> Remeasured | None:
    """Recall of an index as it is now against exact search, and the effort that it takes.

    An index that no longer reaches `min_recall` stays usable: the greatest effort is chosen.

    Args:
        index: Changed; its effort is set to the one chosen.
        options: Those that it was built with.
        users: Queries [q, D]; None: some of the vectors of the index.

    Returns:
        None where the index holds codes alone.
    """
    if not all(faiss_index.holds_vectors(band.index) for band in index.bands):
        return None
    positions = np.concatenate([b.positions[~index.removed[b.positions]] for b in index.bands])
    queries = _taken(index, options.drawn(len(positions))) if users is None else users
    k = min(options.k, len(index))
    truth = positions[exact_lists(_kept(index), queries, k, index.similarity)]
    points = measure(index, queries, truth, options.efforts(index.kind))
    found = cheapest(points, options.min_recall)
    point = found or points[-1]
    index.effort = point.effort
    return Remeasured(k, points, point, found is not None, "items" if users is None else "users")


def _kept(index: VectorIndex) -> Iterator[np.ndarray]:
    """Vectors that can be found, band after band, a block [n, D] at a time."""
    for band in index.bands:
        start = 0
        for vectors in faiss_index.stored_blocks(band.index, BLOCK_ROWS):
            kept = ~index.removed[band.positions[start : start + len(vectors)]]
            start += len(vectors)
            if kept.any():
                yield vectors[kept, : index.dim]


def _taken(index: VectorIndex, wanted: np.ndarray) -> np.ndarray:
    """Of the vectors that can be found, those of some ascending numbers."""
    taken, start = [], 0
    for block in _kept(index):
        low, high = np.searchsorted(wanted, (start, start + len(block)))
        taken.append(block[wanted[low:high] - start])
        start += len(block)
    return np.concatenate(taken)
