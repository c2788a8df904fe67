"""Vectors of like length apart from longer and shorter ones: what makes inner products searchable.

Inner products are searched as distances between vectors that one more number has made equally
long (`band_index`). Where lengths differ widely that number is nearly all of most vectors: they lie
together at a pole, and what tells them apart is lost. So vectors are parted into bands, each with
an index of its own. The bands are searched from the longest on, and the search ends where even the
longest vector of the next band could not enter the list: |x| |q| is no more than the last score
found (Cauchy and Schwarz).

Source   Yan et al., "Norm-Ranging LSH for Maximum Inner Product Search", NeurIPS 2018,
         arXiv:1809.08782, Sec. 3.
Differs  Bands have a ratio of lengths rather than equal sizes, and Faiss searches in them.
         tests/benchmarks/bench_index.py compares them with one graph of either kind.
Letters  N vectors.
"""

from __future__ import annotations

import numpy as np

LEAST_ROWS, MOST_ROWS = 1_000, 10_000
"""Bounds of the rows up to which a band is searched exactly, else a hundredth of all."""


def least_rows(num_rows: int) -> int:
    """Rows up to which a band may hold any lengths, because so few are searched exactly."""
    return int(np.clip(num_rows // 100, LEAST_ROWS, MOST_ROWS))


def band_edges(norms: np.ndarray, ratio: float) -> np.ndarray:
    """Greatest length of each band, descending: a vector belongs to the last band whose edge is
    not below its length.

    Args:
        norms: [N] lengths, at least one.
        ratio: Longest over shortest of a band of more than `least_rows`, > 1.

    Example:
        >>> band_edges(np.repeat([9.0, 8.0, 3.0, 0.0], 1000), 1.5).tolist()
        [9.0, 3.0, 0.0]
    """
    rising = np.sort(norms)
    least = least_rows(len(rising))
    edges, stop = [], len(rising)
    while stop > 0:  # the band ends before `stop`
        edges.append(float(rising[stop - 1]))
        start = int(np.searchsorted(rising, rising[stop - 1] / ratio, side="left"))
        if stop - start < least:
            start = max(stop - least, 0)
            if start > 0 and rising[start - 1] == rising[start]:  # equal lengths stay together
                start = int(np.searchsorted(rising, rising[start], side="right"))
        stop = start
    return np.array(edges)


def band_of(norms: np.ndarray, edges: np.ndarray) -> np.ndarray:
    """Band of each vector [N]; one longer than all edges belongs to the first.

    Example:
        >>> band_of(np.array([10.0, 9.0, 5.0, 2.0]), np.array([9.0, 3.0])).tolist()
        [0, 0, 0, 1]
    """
    return np.maximum(len(edges) - 1 - np.searchsorted(edges[::-1], norms, side="left"), 0)
