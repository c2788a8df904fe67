"""An index of vectors under external ids: searched, added to, taken out of.

Letters   N vectors ever added, D width, q queries, k length of a list.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import faiss
import numpy as np
import pyarrow as pa

from recsys.errors import ConfigError, NonFiniteError, SchemaError
from recsys.retrieval.band_index import Band, Found
from recsys.retrieval.bands import band_of
from recsys.retrieval.export import check_ids, refuse_non_finite
from recsys.retrieval.external_ids import as_ids, positions_in
from recsys.retrieval.vectors import COSINE

_SLACK = 1 + 1e-5
"""By how much a rounded score may exceed the product of two rounded lengths."""


@dataclass(eq=False)
class VectorIndex:
    """Vectors of one similarity, in bands of like length (see `bands`), longest first.

    Positions number the vectors in the order in which they were added; a vector that was taken out
    keeps its position and is never found.

    Args:
        kind: One of `options.KINDS`.
        similarity: `cosine` or `inner_product`.
        dim: D.
        ids: [N] external ids.
        bands: At least one.
        effort: Of a search that does not say another one.
        refine: See `faiss_index.search`.
        removed: [N] bool, what was taken out.
    """

    kind: str
    similarity: str
    dim: int
    ids: pa.Array
    bands: list[Band]
    effort: int
    refine: int
    removed: np.ndarray
    _selectors: list[faiss.IDSelector | None] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._forget_selectors()

    def __len__(self) -> int:
        """How many vectors can be found."""
        return int(len(self.removed) - self.removed.sum())

    def search(
        self,
        queries: np.ndarray,
        k: int,
        *,
        effort: int | None = None,
        excluded: Sequence[np.ndarray] | None = None,
    ) -> Found:
        """The k best vectors for each query.

        Args:
            queries: [q, D] float32.
            k: At least 1, at most `len(self)`.
            effort: Lists read (ivf, ivfpq) or efSearch (hnsw); None: the index's own.
            excluded: Positions that each query must not get, q arrays. So many more are searched
                for and left out, which keeps the list full.

        Raises:
            ConfigError: k is below 1 or above the number of vectors.
            SchemaError: the queries have another width.
            NonFiniteError: a query holds NaN or infinity.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise SchemaError(
                f"queries of shape {tuple(queries.shape)} for vectors of width {self.dim}; allowed "
                f"is [q, {self.dim}]. The index is of another model: build it again."
            )
        if not 1 <= k <= len(self):
            raise ConfigError(
                f"k={k} of {len(self):,} vectors in the index; allowed are 1 to {len(self)}. "
                "Ask for shorter lists."
            )
        if not np.isfinite(queries).all():
            raise NonFiniteError(
                "a query holds NaN or infinity; only finite numbers can be compared. Look for a "
                "diverged training, and lower optimizer.lr."
            )
        queries = np.ascontiguousarray(queries, np.float32)
        queries = unit(queries) if self.similarity == COSINE else queries
        effort = self.effort if effort is None else effort
        if excluded is None:
            return self._best(queries, k, effort)
        positions = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        wanted = np.minimum(k + np.array([len(one) for one in excluded], np.int64), len(self))
        # Queries are searched together with those that need about as many more.
        sizes = np.minimum(2 ** np.ceil(np.log2(wanted)).astype(np.int64), len(self))
        for size in np.unique(sizes):
            rows = np.flatnonzero(sizes == size)
            found = self._best(queries[rows], int(size), effort)
            for row, there, score in zip(rows.tolist(), found.positions, found.scores, strict=True):
                left = np.flatnonzero((there >= 0) & ~np.isin(there, excluded[row]))[:k]
                positions[row, : len(left)] = there[left]
                scores[row, : len(left)] = score[left]
        return Found(positions, scores)

    def _best(self, queries: np.ndarray, k: int, effort: int) -> Found:
        if len(self.bands) == 1:
            return self.bands[0].search(queries, k, effort, self.refine, self._selectors[0])
        positions = np.full((len(queries), k), -1, np.int64)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        reach = lengths(queries) * _SLACK
        for number, band in enumerate(self.bands):
            # A query of length 0 scores 0 with everything: it takes what comes.
            unsettled = (scores[:, -1] < band.longest * reach) | (positions[:, -1] < 0)
            asking = np.flatnonzero(unsettled)
            if not len(asking):
                break  # no band further on has a longer vector
            more = band.search(queries[asking], k, effort, self.refine, self._selectors[number])
            both = np.concatenate([scores[asking], more.scores], axis=1)
            order = np.argsort(-both, axis=1, kind="stable")[:, :k]
            places = np.concatenate([positions[asking], more.positions], axis=1)
            rows = np.arange(len(asking))[:, None]
            scores[asking], positions[asking] = both[rows, order], places[rows, order]
        return Found(positions, scores)

    def positions_of(self, ids: pa.Array) -> np.ndarray:
        """Position of each of some external ids, [n] int64, -1 of what is not in the index.

        Raises:
            SchemaError: the ids are of another type.
        """
        kept = np.flatnonzero(~self.removed)
        at = positions_in(self.ids.take(pa.array(kept)), as_ids(ids, self.ids.type, "vector"))
        return np.where(at >= 0, np.append(kept, -1)[at], -1)

    def add(self, ids: pa.Array, vectors: np.ndarray) -> None:
        """Add vectors; centroids and codes stay as they are, so measure again afterwards.

        Raises:
            SchemaError: an id is there already, twice, null or of another type; the width differs.
            NonFiniteError: a vector holds NaN or infinity.
        """
        if vectors.ndim != 2 or vectors.shape != (len(ids), self.dim):
            raise SchemaError(
                f"vectors of shape {tuple(vectors.shape)} for {len(ids):,} ids and an index of "
                f"width {self.dim}; allowed is [{len(ids)}, {self.dim}]."
            )
        check_ids(ids, "what is added")
        refuse_non_finite(vectors, ids, 0, "what is added")
        there = self.positions_of(ids)
        if (there >= 0).any():
            first = ids[int((there >= 0).argmax())].as_py()
            raise SchemaError(
                f"{first!r} is in the index already ({int((there >= 0).sum()):,} such ids). Remove "
                "it before its new vector is added."
            )
        start = len(self.ids)
        self.ids = pa.concat_arrays([self.ids, ids.cast(self.ids.type)])
        self.removed = np.concatenate([self.removed, np.zeros(len(ids), bool)])
        vectors = np.ascontiguousarray(vectors, np.float32)
        longest = 1.0 if self.similarity == COSINE else float(lengths(vectors).max())
        if longest > self.bands[0].longest:
            # An index of distances has no place for what is longer than all of it.
            flat = faiss.IndexFlat(self.dim, faiss.METRIC_INNER_PRODUCT)
            self.bands.insert(0, Band(flat, longest, np.empty(0, np.int64)))
        fill(self.bands, self.similarity, vectors, start)
        self._forget_selectors()

    def remove(self, ids: pa.Array) -> None:
        """Take vectors out: they are never found again. Their memory is freed by building anew.

        Raises:
            SchemaError: an id is not in the index.
        """
        there = self.positions_of(ids)
        if (there < 0).any():
            first = ids[int((there < 0).argmax())].as_py()
            raise SchemaError(
                f"{first!r} is not in the index ({int((there < 0).sum()):,} such ids). Leave it "
                "out."
            )
        self.removed[there] = True
        self._forget_selectors()

    def _forget_selectors(self) -> None:
        """Which rows of each band may be found; None where all may."""
        self._selectors = []
        for band in self.bands:
            gone = self.removed[band.positions]
            selector = None
            if gone.any():
                selector = faiss.IDSelectorNot(faiss.IDSelectorBatch(np.flatnonzero(gone)))
            self._selectors.append(selector)


def fill(bands: Sequence[Band], similarity: str, vectors: np.ndarray, start: int) -> None:
    """Add a block of vectors [n, D] to the bands of their lengths.

    Args:
        bands: Longest first; no vector is longer than the first allows.
        similarity: Of cosine the vectors get length 1.
        vectors: Positions `start`, `start + 1`, ...
        start: Position of the first.
    """
    if similarity == COSINE:
        bands[0].add(unit(vectors), np.arange(start, start + len(vectors)))
        return
    which = band_of(lengths(vectors), np.array([band.longest for band in bands]))
    for number, band in enumerate(bands):
        rows = np.flatnonzero(which == number)
        if len(rows):
            band.add(vectors if len(rows) == len(vectors) else vectors[rows], rows + start)


def lengths(vectors: np.ndarray) -> np.ndarray:
    """Length of each vector [n], float64: what bands are told apart by."""
    return np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1))


def unit(vectors: np.ndarray) -> np.ndarray:
    """Vectors of length 1, and zeros where there is no direction; float32.

    Example:
        >>> unit(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32)).round(3).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, norms, out=np.zeros_like(vectors, np.float32), where=norms > 0)
