"""How much an index finds of what exact search finds, and how long it takes.

    recall@k   share of the k best vectors that the index gives as well, mean over queries
    latency    milliseconds of one query at a time on one thread, 50th and 99th percentile

Letters   q queries, k length of a list, D width.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import faiss
import numpy as np

from recsys.errors import ConfigError
from recsys.retrieval import faiss_index
from recsys.retrieval.vector_index import VectorIndex, unit
from recsys.retrieval.vectors import COSINE

WARM_UP = 20
"""Queries whose time does not count."""
TIMED = 500
"""Queries that are timed, at most: enough for a 99th percentile."""


@dataclass(frozen=True)
class Point:
    """What one effort reaches."""

    effort: int
    recall: float
    p50_ms: float
    p99_ms: float

    def as_dict(self) -> dict[str, Any]:
        """As it goes to a card."""
        return asdict(self)


def exact_lists(
    blocks: Iterable[np.ndarray], queries: np.ndarray, k: int, similarity: str
) -> np.ndarray:
    """Positions of the k best vectors for each query, [q, k] int64, by comparing all of them.

    Args:
        blocks: The vectors, [n, D] float32 at a time; at least k in all.
        queries: [q, D] float32.
        k: At least 1.
        similarity: `cosine` or `inner_product`.
    """
    cosine = similarity == COSINE
    queries = np.ascontiguousarray(unit(queries) if cosine else queries, np.float32)
    scores = np.full((len(queries), k), -np.inf, np.float32)
    positions = np.full((len(queries), k), -1, np.int64)
    start = 0
    for block in blocks:
        block = np.ascontiguousarray(unit(block) if cosine else block, np.float32)
        more, rows = faiss.knn(
            queries, block, min(k, len(block)), metric=faiss.METRIC_INNER_PRODUCT
        )
        both = np.concatenate([scores, more], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :k]
        scores = np.take_along_axis(both, order, axis=1)
        positions = np.take_along_axis(
            np.concatenate([positions, rows + start], axis=1), order, axis=1
        )
        start += len(block)
    return positions


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean share of each row of `truth` [q, k] that is in the same row of `found` [q, any].

    Example:
        >>> recall(np.array([[4, 1], [2, -1]]), np.array([[1, 7], [2, 5]]))
        0.5
    """
    hits = (truth[:, :, None] == found[:, None, :]).any(axis=2)
    return float(hits.mean())


def latencies(search: Callable[[np.ndarray], object], queries: np.ndarray) -> tuple[float, float]:
    """50th and 99th percentile of the milliseconds of one query at a time, on one thread.

    Args:
        search: Called with [1, D].
        queries: [q, D], at least one.
    """
    with faiss_index.threads(1):
        for query in queries[:WARM_UP]:
            search(query[None])
        taken = []
        for query in queries[:TIMED]:
            begin = time.perf_counter()
            search(query[None])
            taken.append(time.perf_counter() - begin)
    p50, p99 = np.percentile(np.array(taken) * 1e3, [50, 99])
    return float(p50), float(p99)


def measure(
    index: VectorIndex,
    queries: np.ndarray,
    truth: np.ndarray,
    efforts: Sequence[int],
    progress: Callable[[int, int], None] | None = None,
) -> list[Point]:
    """Recall and latency of an index at each effort.

    Args:
        index: To be measured.
        queries: [q, D] float32.
        truth: [q, k] positions that exact search finds.
        efforts: In ascending order.
        progress: Told how many efforts are done.
    """
    points = []
    k = truth.shape[1]
    for done, effort in enumerate(efforts):
        found = index.search(queries, k, effort=effort)

        def one(query: np.ndarray, effort: int = effort) -> object:
            return index.search(query, k, effort=effort)

        points.append(Point(effort, recall(found.positions, truth), *latencies(one, queries)))
        if progress is not None:
            progress(done + 1, len(efforts))
    return points


def cheapest(points: Sequence[Point], min_recall: float) -> Point | None:
    """The least effort that reaches a recall; None if none does.

    Efforts are compared, not times: a busy machine cannot change the choice.
    """
    return next((point for point in points if point.recall >= min_recall), None)


def require(points: Sequence[Point], min_recall: float, kind: str, k: int) -> Point:
    """As `cheapest`.

    Raises:
        ConfigError: no effort reaches the recall; the message has the best one.
    """
    found = cheapest(points, min_recall)
    if found is None:
        best = max(points, key=lambda point: point.recall)
        raise ConfigError(
            f"retrieval={kind} reaches recall@{k} {best.recall:.4f} at effort {best.effort}, less "
            f"than retrieval.min_recall={min_recall}. Use retrieval=auto, which falls back to "
            "exact search, give retrieval.grid greater efforts, or lower retrieval.min_recall."
        )
    return found
