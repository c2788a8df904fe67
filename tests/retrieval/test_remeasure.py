"""An index that was changed is measured against exact search over what it holds now."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.retrieval.build import build_index
from recsys.retrieval.options import RetrievalOptions
from recsys.retrieval.remeasure import measure_again
from recsys.retrieval.vectors import COSINE, INNER_PRODUCT
from tests.retrieval.conftest import clustered, export_matrix


@pytest.mark.parametrize("similarity", [COSINE, INNER_PRODUCT])
@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_recall_of_a_changed_index(kind: str, similarity: str, tmp_path: Path) -> None:
    deviation = 0.0 if similarity == COSINE else 0.8
    old, new = clustered(3000, deviation=deviation), clustered(400, seed=2, deviation=deviation)
    options = RetrievalOptions(kind=kind, ef_construction=40, min_recall=0.9)
    index = build_index(export_matrix(tmp_path, old, similarity), options).index
    index.remove(pa.array(np.arange(1000, 1500)))
    index.add(pa.array(np.arange(9000, 9400)), new)
    users = clustered(80, seed=5)
    found = measure_again(index, options, users)
    assert found is not None
    assert found.reached
    assert found.queries_from == "users"
    every = np.concatenate([old[500:], new])
    lengths = np.linalg.norm(every, axis=1, keepdims=True)
    scores = users @ (every / lengths if similarity == COSINE else every).T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
    at = np.concatenate([np.arange(500, 3000), np.arange(3000, 3400)])
    given = index.search(users, 10).positions
    share = np.mean([len(set(at[a]) & set(b)) / 10 for a, b in zip(best, given, strict=True)])
    assert found.chosen.recall == pytest.approx(share, abs=2e-3)
    assert index.effort == found.chosen.effort
    if kind == "flat":
        assert found.chosen.recall == 1.0


def test_vectors_of_the_index_are_the_queries_where_there_are_no_users(tmp_path: Path) -> None:
    options = RetrievalOptions(kind="flat", queries=50)
    index = build_index(export_matrix(tmp_path, clustered(200), COSINE), options).index
    index.remove(pa.array(np.arange(1000, 1195)))
    found = measure_again(index, options)
    assert found is not None
    assert found.k == 5  # no more are left
    assert found.queries_from == "items"
    assert found.chosen.recall == 1.0


def test_what_can_no_longer_reach_the_recall_says_so(tmp_path: Path) -> None:
    """Vectors of another kind go to lists whose centroids know nothing of them."""
    options = RetrievalOptions(kind="ivf", num_lists=40, grid=[1], min_recall=0.5)
    index = build_index(export_matrix(tmp_path, clustered(3000), COSINE), options).index
    strange = np.random.default_rng(0).normal(size=(3000, 16)).astype(np.float32)
    index.add(pa.array(np.arange(9000, 12_000)), strange)
    strict = RetrievalOptions(kind="ivf", num_lists=40, grid=[1], min_recall=0.99)
    found = measure_again(index, strict, strange[:200])
    assert found is not None
    assert not found.reached
    assert found.chosen.recall < 0.99


@pytest.mark.slow  # codes need ten thousand rows to be fitted
@pytest.mark.parametrize("refine", [1, 10])
def test_codes(refine: int, tmp_path: Path) -> None:
    """8-bit numbers can be compared with; codes alone cannot."""
    options = RetrievalOptions(
        kind="ivfpq", code_bytes=8, refine=refine, num_lists=16, min_recall=0.5
    )
    vectors = clustered(39 * 256)
    index = build_index(export_matrix(tmp_path, vectors, COSINE), options).index
    index.remove(pa.array([1000]))
    found = measure_again(index, options)
    if refine == 1:
        assert found is None
    else:
        assert found is not None
        assert found.points[-1].recall > 0.95
