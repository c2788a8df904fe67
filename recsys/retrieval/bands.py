"""Vectors of like length apart from longer and shorter ones: what makes inner products searchable.

Approximate search assumes that what is near a query is near its neighbours. Inner products break
that: a long vector is a better match of most vectors than they are of themselves, graphs and
clusters gather around few long vectors, and much of the rest is never reached. Among vectors of
about one length inner product and cosine agree, so each such band gets an index of its own. The
bands are searched from the longest on, and a band is passed over where even its longest vector
could not enter the list: |x| |q| is no more than the last score found (Cauchy and Schwarz).

Source   Yan et al., "Norm-Ranging LSH for Maximum Inner Product Search", NeurIPS 2018,
         arXiv:1809.08782, Sec. 3.
Differs  Bands have a ratio of lengths rather than equal sizes, and Faiss searches in them. The
         other remedy, one more dimension that gives all vectors the longest one's length, makes
         them all alike instead: with lengths of deviation 1.0 (log-normal) an HNSW graph of such
         vectors finds 9 % of what it finds of vectors of one length (see
         tests/benchmarks/bench_index.py).
Letters  N vectors.
"""

from __future__ import annotations

import numpy as np

LEAST_ROWS, MOST_ROWS = 1_000, 10_000
"""A band of fewer rows than a hundredth of all, within these bounds, is joined with the next."""


def least_rows(num_rows: int) -> int:
    """Rows that a band has at least, where there are so many; so few are searched exactly."""
    return int(np.clip(num_rows // 100, LEAST_ROWS, MOST_ROWS))


def band_edges(norms: np.ndarray, ratio: float) -> np.ndarray:
    """Greatest length of each band, descending: a vector belongs to the last band whose edge is
    not below its length.

    Args:
        norms: [N] lengths, at least one.
        ratio: Longest over shortest of a band, > 1; more where `least_rows` asks for it.

    Example:
        >>> band_edges(np.repeat([9.0, 8.0, 3.0, 0.0], 1000), 1.5).tolist()
        [9.0, 3.0, 0.0]
    """
    falling = np.sort(norms)[::-1]
    least = least_rows(len(norms))
    edges, start = [], 0
    while start < len(falling):
        edges.append(float(falling[start]))
        stop = len(falling) - np.searchsorted(falling[::-1], falling[start] / ratio, side="left")
        start = max(int(stop), start + least)
        if start < len(falling):  # equal lengths are never cut apart
            start = len(falling) - int(np.searchsorted(falling[::-1], falling[start - 1], "left"))
        if len(falling) - start < least:
            break
    return np.array(edges)


def band_of(norms: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Band of each vector [N]; one longer than all edges belongs to the first.

    Example:
        >>> band_of(np.array([10.0, 9.0, 5.0, 2.0]), np.array([9.0, 3.0])).tolist()
        [0, 0, 0, 1]
    """
    return np.maximum(len(edges) - 1 - np.searchsorted(edges[::-1], norms, side="left"), 0)
