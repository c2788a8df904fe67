"""Inner products searched as distances: the same order, the same scores, and no dead ends."""

import faiss
import numpy as np
import pytest

from recsys.retrieval import faiss_index
from recsys.retrieval.band_index import Band
from recsys.retrieval.options import RetrievalOptions


def band(vectors: np.ndarray, kind: str = "hnsw") -> Band:
    options = RetrievalOptions(kind=kind, neighbors=16, ef_construction=60, num_lists=8)
    index = faiss_index.make_index(kind, vectors.shape[1], len(vectors), options)
    made = Band(index, float(np.linalg.norm(vectors.astype(float), axis=1).max()), np.empty(0, int))
    if faiss_index.rows_to_train(index):
        index.train(made.stored(vectors))
    made.add(vectors, np.arange(len(vectors)) * 2)
    return made


def test_stored_vectors_are_of_one_length() -> None:
    vectors = np.random.default_rng(0).normal(size=(500, 6)).astype(np.float32)
    made = band(vectors)
    stored = made.stored(vectors)
    np.testing.assert_allclose(np.linalg.norm(stored, axis=1), made.longest, rtol=1e-6)
    np.testing.assert_array_equal(stored[:, :6], vectors)
    assert not band(vectors, "flat").by_distance


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf"])
def test_order_and_scores_are_those_of_inner_products(kind: str) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(3000, 6)).astype(np.float32)
    queries = (rng.normal(size=(30, 6)) * rng.lognormal(2, 2, (30, 1))).astype(np.float32)
    found = band(vectors, kind).search(queries, 9, 3000, 1, None)
    scores = queries @ vectors.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :9]
    expected = np.take_along_axis(scores, best, axis=1)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-4)
    assert (found.positions == 2 * best).mean() > 0.99
    nothing = band(vectors, kind).search(np.zeros((1, 6), np.float32), 3, 3000, 1, None)
    assert (nothing.positions >= 0).all()
    np.testing.assert_array_equal(nothing.scores, 0.0)


def test_vectors_that_all_point_one_way_are_found_from_the_other() -> None:
    """What popularity makes of a model early in training. Every score is negative, and a graph of
    inner products links everything to the longest vectors, which are the worst: it finds none."""
    rng = np.random.default_rng(0)
    direction = np.ones(16) / 4
    vectors = (1.5 * direction + 0.004 * rng.normal(size=(1500, 16))).astype(np.float32)
    queries = (-direction + 0.1 * rng.normal(size=(50, 16))).astype(np.float32)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :10]
    plain = faiss.IndexHNSWFlat(16, 16, faiss.METRIC_INNER_PRODUCT)
    plain.hnsw.efConstruction, plain.hnsw.efSearch = 60, 64
    plain.add(vectors)

    def share(rows: np.ndarray) -> float:
        return float(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, best, strict=True)]))

    assert share(plain.search(queries, 10)[1]) < 0.5
    assert share(band(vectors).search(queries, 10, 64, 1, None).positions // 2) > 0.95


def test_vectors_of_length_zero() -> None:
    made = band(np.zeros((20, 4), np.float32))
    found = made.search(np.ones((2, 4), np.float32), 3, 50, 1, None)
    np.testing.assert_array_equal(found.scores, 0.0)
