"""Vectors of like length, searched for the largest inner products by distance.

Faiss's approximate indexes rest on a geometry in which what is near a query is near its neighbours.
Inner products have none: where all vectors point about one way, each one's best match is whichever
is longest, graphs link everything to that, and a query that points elsewhere finds nothing. So
each vector gets one more number, which gives all of them the length of the band's longest:

    x -> (x, sqrt(r^2 - |x|^2))    q -> (r q / |q|, 0)    |q' - x'|^2 = 2 r^2 - 2 (r / |q|) q x

The order of distances is that of inner products, and the geometry is that of a sphere.

Source   Bachrach et al., "Speeding Up the Xbox Recommender System Using a Euclidean Transformation
         for Inner-Product Spaces", RecSys 2014, Sec. 3.
Letters  n rows, D width, q queries, k length of a list, r greatest length.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import faiss
import numpy as np

from recsys.retrieval import faiss_index


class Found(NamedTuple):
    """The best vectors for some queries, best first."""

    positions: np.ndarray
    """[q, k] int64, -1 after the last one found."""
    scores: np.ndarray
    """[q, k] float32 inner products or cosines, minus infinity after the last one found."""


@dataclass(eq=False)
class Band:
    """Vectors of like length, and their Faiss index: of inner products where it is exact, else of
    distances between the longer vectors above."""

    index: faiss.Index
    longest: float
    """No vector of the band is longer: r."""
    positions: np.ndarray
    """Position in the whole index of each row of this one, ascending, int64."""

    @property
    def by_distance(self) -> bool:
        """Whether the index is of distances."""
        return bool(self.index.metric_type == faiss.METRIC_L2)

    def stored(self, vectors: np.ndarray) -> np.ndarray:
        """Vectors [n, D] as the index holds them, none longer than r."""
        if not self.by_distance:
            return vectors
        longer = np.zeros((len(vectors), self.index.d), np.float32)
        longer[:, : vectors.shape[1]] = vectors
        squares = np.square(vectors, dtype=np.float64).sum(axis=1)
        longer[:, vectors.shape[1]] = np.sqrt(np.maximum(self.longest**2 - squares, 0.0))
        return longer

    def add(self, vectors: np.ndarray, positions: np.ndarray) -> None:
        """Add vectors [n, D], none longer than r, of greater positions than those that are here."""
        self.index.add(self.stored(vectors))
        self.positions = np.concatenate([self.positions, positions])

    def search(
        self,
        queries: np.ndarray,
        k: int,
        effort: int,
        refine: int,
        selector: faiss.IDSelector | None,
    ) -> Found:
        """The k best vectors for each query [q, D]; see `faiss_index.search`."""
        if self.by_distance:
            lengths = np.linalg.norm(queries, axis=1, keepdims=True)
            scale = np.divide(self.longest, lengths, out=np.zeros_like(lengths), where=lengths > 0)
            asked = np.zeros((len(queries), self.index.d), np.float32)
            asked[:, : queries.shape[1]] = queries * scale
            distances, rows = faiss_index.search(self.index, asked, k, effort, refine, selector)
            back = np.divide(0.5, scale, out=np.zeros_like(scale), where=scale > 0)
            scores = (2 * self.longest**2 - distances) * back
        else:
            scores, rows = faiss_index.search(self.index, queries, k, effort, refine, selector)
        there = rows >= 0
        scores[~there] = -np.inf
        return Found(np.where(there, self.positions[rows], -1), scores)
