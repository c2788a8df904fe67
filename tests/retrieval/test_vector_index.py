"""Search, additions and removals, against comparing every vector."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.errors import ConfigError, NonFiniteError, SchemaError
from recsys.retrieval.build import fitted_index
from recsys.retrieval.options import RetrievalOptions
from recsys.retrieval.vector_index import VectorIndex, unit
from recsys.retrieval.vectors import COSINE, INNER_PRODUCT
from tests.retrieval.conftest import clustered, export_matrix

KINDS = ("flat", "ivf", "hnsw")
FULL = 10_000


def built(
    folder: Path, vectors: np.ndarray, similarity: str = INNER_PRODUCT, kind: str = "flat"
) -> VectorIndex:
    options = RetrievalOptions(kind=kind, neighbors=16, ef_construction=60, num_lists=6)
    return fitted_index(
        export_matrix(folder / "export", vectors, similarity), kind, options, lambda *_: None
    )


def expected(
    vectors: np.ndarray, queries: np.ndarray, k: int, similarity: str
) -> tuple[np.ndarray, np.ndarray]:
    if similarity == COSINE:
        vectors, queries = unit(vectors), unit(queries)
    scores = queries @ vectors.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return best, np.take_along_axis(scores, best, axis=1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("similarity", [COSINE, INNER_PRODUCT])
def test_full_effort_is_exact_whatever_the_lengths(
    kind: str, similarity: str, tmp_path: Path
) -> None:
    vectors, queries = clustered(4000, deviation=1.0), clustered(40, seed=1, deviation=1.0)
    index = built(tmp_path, vectors, similarity, kind)
    assert (len(index.bands) > 2) == (similarity == INNER_PRODUCT and kind != "flat")
    found = index.search(queries, 7, effort=FULL)
    best, scores = expected(vectors, queries, 7, similarity)
    np.testing.assert_allclose(found.scores, scores, rtol=1e-4)
    assert (found.positions == best).mean() > 0.999  # equal but for rounding


def test_bands_beat_one_graph_of_inner_products(tmp_path: Path) -> None:
    """At one effort: what a plain graph misses among vectors of very different lengths."""
    import faiss

    directions, queries = clustered(8000, dim=32), unit(clustered(100, dim=32, seed=1))
    lengths = np.exp(np.random.default_rng(3).normal(size=(8000, 1)))
    vectors = (unit(directions) * lengths).astype(np.float32)
    best, _ = expected(vectors, queries, 10, INNER_PRODUCT)
    plain = faiss.IndexHNSWFlat(32, 16, faiss.METRIC_INNER_PRODUCT)
    plain.hnsw.efConstruction, plain.hnsw.efSearch = 60, 16
    plain.add(vectors)

    def share(rows: np.ndarray, truth: np.ndarray = best) -> float:
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, truth, strict=True)]))

    index = built(tmp_path, vectors, INNER_PRODUCT, "hnsw")
    alike = built(tmp_path / "alike", directions, COSINE, "hnsw")
    ours = share(index.search(queries, 10, effort=16).positions)
    same = share(
        alike.search(queries, 10, effort=16).positions,
        expected(directions, queries, 10, COSINE)[0],
    )
    assert ours >= same
    assert ours > share(plain.search(queries, 10)[1]) + 0.02


@pytest.mark.parametrize("kind", KINDS)
def test_excluded_vectors_are_left_out_and_lists_stay_full(kind: str, tmp_path: Path) -> None:
    vectors, queries = clustered(3000, deviation=0.7), clustered(12, seed=1)
    index = built(tmp_path, vectors, INNER_PRODUCT, kind)
    best, _ = expected(vectors, queries, 200, INNER_PRODUCT)
    # Each query has another number of its best vectors already.
    excluded = [best[row, : row * 9][::-1] for row in range(12)]
    found = index.search(queries, 6, effort=FULL, excluded=excluded)
    for row in range(12):
        np.testing.assert_array_equal(found.positions[row], best[row, row * 9 : row * 9 + 6])


@pytest.mark.parametrize("kind", KINDS)
def test_added_and_removed_vectors(kind: str, tmp_path: Path) -> None:
    vectors, more = clustered(3000, deviation=0.7), clustered(400, seed=5, deviation=1.5)
    queries = clustered(30, seed=1)
    index = built(tmp_path, vectors, INNER_PRODUCT, kind)
    index.add(pa.array(np.arange(400) + 50_000), more)
    gone = np.arange(0, 3000, 3)
    index.remove(pa.array(gone + 1000))
    assert len(index) == 3400 - len(gone)
    whole = np.concatenate([vectors, more])
    whole[gone] = 0.0
    found = index.search(queries, 5, effort=FULL)
    scores = queries @ whole.T
    scores[:, gone] = -np.inf
    best = np.argsort(-scores, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(found.positions, best)
    assert max(band.longest for band in index.bands) >= np.linalg.norm(more, axis=1).max()
    # What was removed can come back with another vector.
    index.add(pa.array([1000]), 100 * queries[:1])
    assert index.search(queries[:1], 1, effort=FULL).positions.tolist() == [[3400]]
    assert index.positions_of(pa.array([1000, 1003, 50_000, 7])).tolist() == [3400, -1, 3000, -1]


def test_impossible_changes_change_nothing(tmp_path: Path) -> None:
    index = built(tmp_path, clustered(50))
    one = clustered(1)
    for ids, vectors, error, message in (
        (pa.array([1003]), one, SchemaError, "1003 is in the index already"),
        (pa.array([7, 7]), clustered(2), SchemaError, "7 more than once"),
        (pa.array([7]), clustered(1, dim=5), SchemaError, r"\(1, 5\) for 1 ids"),
        (pa.array([7]), one * np.nan, NonFiniteError, "the vector of 7"),
        (pa.array(["x"]), one, SchemaError, "int64"),
    ):
        with pytest.raises(error, match=message):
            index.add(ids, vectors)
    with pytest.raises(SchemaError, match=r"9 is not in the index \(1 such"):
        index.remove(pa.array([1003, 9]))
    assert len(index) == len(index.ids) == 50


def test_impossible_searches(tmp_path: Path) -> None:
    index = built(tmp_path, clustered(50))
    with pytest.raises(ConfigError, match="k=51 of 50 vectors in the index; allowed are 1 to 50"):
        index.search(clustered(2), 51)
    with pytest.raises(ConfigError, match="k=0"):
        index.search(clustered(2), 0)
    with pytest.raises(SchemaError, match=r"\(2, 5\) for vectors of width 16"):
        index.search(clustered(2, dim=5), 3)
    with pytest.raises(NonFiniteError, match="a query holds NaN"):
        index.search(clustered(2) * np.nan, 3)
    assert index.search(clustered(2), 50).positions.min() >= 0


def test_vectors_and_queries_of_length_zero(tmp_path: Path) -> None:
    vectors = clustered(3000, deviation=0.7)
    vectors[:1500] = 0.0
    for number, similarity in enumerate((COSINE, INNER_PRODUCT)):
        index = built(tmp_path / str(number), vectors, similarity, "hnsw")
        found = index.search(np.zeros((1, 16), np.float32), 3, effort=FULL)
        assert (found.positions >= 0).all()
        np.testing.assert_array_equal(found.scores, 0.0)
