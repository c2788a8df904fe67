"""The kinds of Faiss index: the same answers as comparing everything, where the effort is full."""

from pathlib import Path

import faiss
import numpy as np
import pytest

from recsys.errors import CheckpointError, ConfigError
from recsys.retrieval import faiss_index
from recsys.retrieval.band_index import Band
from recsys.retrieval.options import RetrievalOptions
from tests.retrieval.conftest import clustered

SMALL = {"neighbors": 8, "ef_construction": 40, "num_lists": 8, "code_bytes": 4}


def made(kind: str, vectors: np.ndarray, **keys: int) -> Band:
    """An index of vectors of length 1, as a band of them has it."""
    options = RetrievalOptions(kind=kind, **(SMALL | keys))  # type: ignore[arg-type]
    index = faiss_index.make_index(kind, vectors.shape[1], len(vectors), options)
    band = Band(index, 1.0, np.empty(0, np.int64))
    if faiss_index.rows_to_train(index):
        index.train(band.stored(vectors))
    band.add(vectors, np.arange(len(vectors)))
    return band


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_full_effort_is_exact(kind: str) -> None:
    vectors, queries = clustered(2000), clustered(20, seed=1)
    rows, scores = made(kind, vectors).search(queries, 5, 2000, 1, None)
    expected = queries @ vectors.T
    best = np.argsort(-expected, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(rows, best)
    np.testing.assert_allclose(scores, np.take_along_axis(expected, best, 1), rtol=1e-4)


def test_more_effort_finds_more() -> None:
    vectors, queries = clustered(3000), clustered(50, seed=1)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    for kind, efforts in (("ivf", (1, 2, 8)), ("hnsw", (5, 20, 400))):
        index = made(kind, vectors, neighbors=4, ef_construction=10)
        shares = [
            np.mean([len(set(a) & set(b)) for a, b in zip(
                index.search(queries, 5, effort, 1, None).positions, best, strict=True)])
            for effort in efforts
        ]  # fmt: skip
        assert shares[0] < shares[-1]
        assert sorted(shares) == shares


@pytest.mark.slow
def test_codes_are_compared_again() -> None:
    vectors, queries = clustered(faiss_index._LEAST_PQ_ROWS), clustered(30, seed=1)
    best = np.argsort(-(queries @ vectors.T), axis=1)[:, :5]
    shares = {}
    for refine in (1, 20):
        index = made("ivfpq", vectors, refine=refine)
        assert isinstance(faiss_index.inner(index.index), faiss.IndexIVFPQ)
        rows = index.search(queries, 5, 8, refine, None).positions
        shares[refine] = np.mean([len(set(a) & set(b)) for a, b in zip(rows, best, strict=True)])
    assert shares[1] + 0.5 < shares[20]
    assert shares[20] > 4.5


@pytest.mark.parametrize("kind", ["ivf", "ivfpq"])
def test_too_few_rows_to_fit_anything_are_compared(kind: str) -> None:
    index = made(kind, clustered(100))
    assert isinstance(index.index, faiss.IndexFlat)
    assert faiss_index.rows_to_train(index.index) == 0


def test_lists_end_where_nothing_is_left() -> None:
    index = made("flat", clustered(3))
    rows, scores = index.search(clustered(2, seed=1), 5, 0, 1, None)
    assert (rows[:, 3:] == -1).all()
    assert np.isneginf(scores[:, 3:]).all()


def test_codes_must_divide_the_width() -> None:
    with pytest.raises(ConfigError, match=r"code_bytes=5 does not divide the width 16. Allowed: 1"):
        made("ivfpq", clustered(10), code_bytes=5)


def test_files(tmp_path: Path) -> None:
    vectors = clustered(500)
    for kind in ("flat", "hnsw", "ivf"):
        band = made(kind, vectors)
        faiss_index.write(band.index, tmp_path / kind)
        again = Band(faiss_index.read(tmp_path / kind, ""), 1.0, band.positions)
        for one, other in zip(*(b.search(vectors[:9], 3, 500, 1, None) for b in (band, again)),
                              strict=True):  # fmt: skip
            np.testing.assert_array_equal(one, other)
    (tmp_path / "text").write_text("this is no index")
    with pytest.raises(CheckpointError, match=r"is no index.*Do this\."):
        faiss_index.read(tmp_path / "text", "Do this.")


def test_threads_are_as_before() -> None:
    before = faiss.omp_get_max_threads()
    with faiss_index.threads(3):
        assert faiss.omp_get_max_threads() == 3
    assert faiss.omp_get_max_threads() == before
