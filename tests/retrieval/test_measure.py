"""Recall and the choice that rests on it, against slow references."""

from pathlib import Path

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.retrieval.build import fitted_index
from recsys.retrieval.measure import (
    TIMED,
    WARM_UP,
    Point,
    cheapest,
    exact_lists,
    latencies,
    measure,
    recall,
    require,
)
from recsys.retrieval.options import RetrievalOptions
from recsys.retrieval.vector_index import unit
from recsys.retrieval.vectors import COSINE, INNER_PRODUCT
from tests.retrieval.conftest import clustered, export_matrix


@pytest.mark.parametrize("similarity", [COSINE, INNER_PRODUCT])
@pytest.mark.parametrize("block", [3, 100, 1000])
def test_exact_lists(similarity: str, block: int) -> None:
    vectors, queries = clustered(300, deviation=1.0), clustered(9, seed=1, deviation=1.0)
    blocks = [vectors[at : at + block] for at in range(0, 300, block)]
    found = exact_lists(blocks, queries, 5, similarity)
    for query, row in zip(queries, found, strict=True):
        scores = [
            float(x @ query) / (np.linalg.norm(x) if similarity == COSINE else 1.0) for x in vectors
        ]
        assert row.tolist() == sorted(range(300), key=lambda i: -scores[i])[:5]


def test_recall_is_the_mean_share() -> None:
    rng = np.random.default_rng(0)
    truth = np.array([rng.choice(30, 5, replace=False) for _ in range(40)])
    found = np.array([rng.choice(30, 8, replace=False) for _ in range(40)])
    shares = [len(set(a) & set(b)) / 5 for a, b in zip(found, truth, strict=True)]
    assert recall(found, truth) == pytest.approx(np.mean(shares))
    assert recall(truth, truth) == 1.0


def test_every_query_is_timed_alone() -> None:
    shapes: list[tuple[int, ...]] = []
    p50, p99 = latencies(lambda query: shapes.append(query.shape), clustered(30))
    assert 0 <= p50 <= p99
    assert shapes == [(1, 16)] * (WARM_UP + 30)
    assert len(clustered(30)) <= TIMED


def test_measured_points(tmp_path: Path) -> None:
    vectors, queries = clustered(2000), unit(clustered(40, seed=1))
    options = RetrievalOptions(kind="ivf", num_lists=16)
    index = fitted_index(
        export_matrix(tmp_path / "e", vectors, COSINE), "ivf", options, lambda *_: None
    )
    truth = exact_lists([vectors], queries, 5, COSINE)
    told: list[tuple[int, int]] = []
    points = measure(index, queries, truth, (1, 4, 16), lambda *done: told.append(done))
    assert told == [(1, 3), (2, 3), (3, 3)]
    assert [point.effort for point in points] == [1, 4, 16]
    for point in points:
        found = index.search(queries, 5, effort=point.effort).positions
        assert point.recall == recall(found, truth)
    assert points[0].recall < points[2].recall == 1.0


def test_the_cheapest_that_is_good_enough() -> None:
    points = [Point(1, 0.5, 9.0, 9.0), Point(2, 0.96, 5.0, 5.0), Point(4, 0.99, 1.0, 1.0)]
    assert cheapest(points, 0.95) is points[1]  # whatever the clock said
    assert cheapest(points, 0.96) is points[1]
    assert cheapest(points, 0.999) is None
    assert require(points, 0.97, "ivf", 10) is points[2]
    with pytest.raises(ConfigError, match=r"recall@10 0\.9900 at effort 4, less than .*0\.999"):
        require(points, 0.999, "ivf", 10)
