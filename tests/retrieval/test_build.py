"""From an export to a measured index."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.errors import CheckpointError, ConfigError, NonFiniteError, SchemaError
from recsys.retrieval import build, export, options
from recsys.retrieval.build import build_index, queries_of
from recsys.retrieval.export import export_tables
from recsys.retrieval.exported import ExportedVectors
from recsys.retrieval.options import RetrievalOptions
from recsys.retrieval.vectors import COSINE, INNER_PRODUCT, MatrixVectors
from tests.retrieval.conftest import FACTS, clustered, export_matrix


def test_the_cheapest_effort_of_the_kind(tmp_path: Path) -> None:
    vectors = export_matrix(tmp_path / "e", clustered(3000), COSINE, clustered(200, seed=1))
    told: set[str] = set()
    wanted = RetrievalOptions(
        kind="ivf", num_lists=32, min_recall=0.98, queries=100, grid=[1, 2, 4, 8, 32]
    )
    built = build_index(vectors, wanted, lambda done, total, stage: told.add(stage))
    assert told == {"exact search", "build ivf", "measure ivf"}
    points = built.points["ivf"]
    assert [point.effort for point in points] == [1, 2, 4, 8, 32]
    assert built.chosen == next(point for point in points if point.recall >= 0.98)
    assert built.index.effort == built.chosen.effort
    assert 1 < built.chosen.effort < 32
    assert built.queries_from == "users"
    assert built.index.ids.equals(vectors.ids)


def test_blocks_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = export_matrix(tmp_path / "e", clustered(2500, deviation=0.8), INNER_PRODUCT)
    queries = clustered(30, seed=1)
    found = []
    for rows in (100_000, 333):
        monkeypatch.setattr(build, "BLOCK_ROWS", rows)
        index = build_index(vectors, RetrievalOptions(kind="flat")).index
        found.append(index.search(queries, 9))
    np.testing.assert_array_equal(found[0].positions, found[1].positions)


def test_auto_falls_back_until_the_recall_is_reached(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectors = export_matrix(tmp_path / "e", clustered(2000), COSINE)
    assert list(build_index(vectors, RetrievalOptions()).points) == ["flat"]
    monkeypatch.setattr(options, "FLAT_ITEMS", 100)
    weak = {"neighbors": 4, "ef_construction": 4, "num_lists": 40, "queries": 100}
    built = build_index(vectors, RetrievalOptions(**weak, min_recall=1.0, grid=[1]))
    assert list(built.points) == ["ivf", "hnsw", "flat"]
    assert (built.index.kind, built.chosen.recall) == ("flat", 1.0)
    with pytest.raises(ConfigError, match=r"retrieval=ivf reaches recall@10 .* at effort 1, less"):
        build_index(vectors, RetrievalOptions(kind="ivf", num_lists=40, grid=[1], min_recall=1.0))
    built = build_index(vectors, RetrievalOptions(**weak, min_recall=0.01, grid=[1, 64]))
    assert list(built.points) == ["ivf"]


def test_queries_are_users_where_there_are_any(tmp_path: Path) -> None:
    items, users = clustered(60), clustered(40, seed=1)
    vectors = export_matrix(tmp_path / "both", items, INNER_PRODUCT, users)
    queries, whose = queries_of(vectors, RetrievalOptions(queries=25))
    assert whose == "users"
    assert queries.shape == (25, 16)
    assert all((users == query).all(axis=1).any() for query in queries)
    alone = export_matrix(tmp_path / "alone", items, INNER_PRODUCT)
    queries, whose = queries_of(alone, RetrievalOptions())
    assert whose == "items"
    np.testing.assert_array_equal(queries, items)


def test_users_of_another_model_are_refused(tmp_path: Path) -> None:
    export_matrix(tmp_path / "a", clustered(60), COSINE, clustered(40, dim=8))
    with pytest.raises(SchemaError, match="vectors of width 8"):
        build_index(ExportedVectors.open(tmp_path / "a"), RetrievalOptions())
    export_matrix(tmp_path / "b", clustered(60), COSINE, clustered(40))
    other = MatrixVectors("users", COSINE, pa.array(range(40)), clustered(40))
    export_tables([other], tmp_path / "c", FACTS | {"run_id": "r2"})
    (tmp_path / "b" / "users").rename(tmp_path / "gone")
    (tmp_path / "c" / "users").rename(tmp_path / "b" / "users")
    with pytest.raises(CheckpointError, match="of different runs"):
        build_index(ExportedVectors.open(tmp_path / "b"), RetrievalOptions())


def test_what_cannot_be_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = export_matrix(tmp_path / "e", clustered(8), COSINE)
    with pytest.raises(ConfigError, match=r"retrieval\.k=10 of 8 vectors; allowed are 1 to 8"):
        build_index(vectors, RetrievalOptions())
    # An export refuses these itself, so that they come from elsewhere.
    monkeypatch.setattr(export, "refuse_non_finite", lambda *_: None)
    monkeypatch.setattr(export, "check_ids", lambda *_: None)
    broken = clustered(30)
    broken[17, 3] = np.nan
    with pytest.raises(NonFiniteError, match="the vector of 1017 in items holds NaN"):
        build_index(export_matrix(tmp_path / "nan", broken, COSINE), RetrievalOptions())
    twice = MatrixVectors("items", COSINE, pa.array(["a", "b", "a"]), clustered(3))
    export_tables([twice], tmp_path / "twice", FACTS)
    with pytest.raises(SchemaError, match="the id 'a' more than once"):
        build_index(ExportedVectors.open(tmp_path / "twice"), RetrievalOptions(k=1))
