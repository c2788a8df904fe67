"""Saved and loaded: the same answers, or a refusal that says what is wrong."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from recsys.data import atomic
from recsys.errors import CheckpointError, ConfigError
from recsys.retrieval.build import fitted_index
from recsys.retrieval.index_folder import load_index, save_index
from recsys.retrieval.options import RetrievalOptions
from recsys.retrieval.vector_index import VectorIndex
from recsys.retrieval.vectors import INNER_PRODUCT
from tests.retrieval.conftest import FACTS, clustered, export_matrix


def built(folder: Path, kind: str = "hnsw", rows: int = 3000) -> VectorIndex:
    options = RetrievalOptions(kind=kind, neighbors=8, ef_construction=20, num_lists=6)
    vectors = export_matrix(folder / "export", clustered(rows, deviation=0.8), INNER_PRODUCT)
    return fitted_index(vectors, kind, options, lambda *_: None)


@pytest.mark.parametrize("kind", ["flat", "ivf", "hnsw"])
def test_a_loaded_index_answers_as_the_saved_one(kind: str, tmp_path: Path) -> None:
    index = built(tmp_path, kind)
    index.effort = 50
    index.remove(pa.array([1000, 1005, 3999]))
    index.add(pa.array([5]), clustered(1, seed=9, deviation=2.0))
    card = save_index(index, tmp_path / "index", {"facts": FACTS})
    assert card["num_items"] == 2998
    loaded = load_index(tmp_path / "index")
    queries = clustered(50, seed=1)
    before, after = index.search(queries, 8), loaded.index.search(queries, 8)
    np.testing.assert_array_equal(before.positions, after.positions)
    np.testing.assert_array_equal(before.scores, after.scores)
    assert loaded.index.ids.equals(index.ids)
    loaded.index.add(pa.array([6]), clustered(1))  # it can go on


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-7])


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["band-000.faiss", "ids.parquet"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [(truncate, "truncated"), (flip, "corrupted"), (Path.unlink, "is missing")],
)
def test_damaged_files_are_refused(
    name: str, damage: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "index"
    save_index(built(tmp_path), folder, {"facts": FACTS})
    damage(folder / name)
    with pytest.raises(CheckpointError, match=f"{message}.*Build it again"):
        load_index(folder)


def test_files_of_another_index_are_refused(tmp_path: Path) -> None:
    folder, other = tmp_path / "index", tmp_path / "other"
    save_index(built(tmp_path / "1"), folder, {"facts": FACTS})
    save_index(built(tmp_path / "2", rows=900), other, {"facts": FACTS})
    (other / "band-000.faiss").rename(folder / "band-000.faiss")
    with pytest.raises(CheckpointError, match="its card says"):
        load_index(folder)
    # Even where somebody has made the sums fit.
    card = json.loads((folder / "index.json").read_text())
    card["files"]["band-000.faiss"] = json.loads((other / "index.json").read_text())["files"][
        "band-000.faiss"
    ]
    (folder / "index.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="holds 900 vectors of width 16, but its card"):
        load_index(folder)
    (folder / "index.json").write_text("{}")
    with pytest.raises(CheckpointError, match="of a None of version None"):
        load_index(folder)


def test_an_index_of_nothing_is_refused(tmp_path: Path) -> None:
    index = built(tmp_path, "flat", rows=20)
    index.remove(index.ids)
    save_index(index, tmp_path / "index", {"facts": FACTS})
    with pytest.raises(CheckpointError, match="holds no vector that was not removed"):
        load_index(tmp_path / "index")


def test_a_stale_index_is_refused(tmp_path: Path) -> None:
    save_index(built(tmp_path), tmp_path / "index", {"facts": FACTS})
    saved = load_index(tmp_path / "index")
    saved.require_run(FACTS | {"seed": 7})
    with pytest.raises(CheckpointError, match="it is of the run r1, the model of the run r2"):
        saved.require_run(FACTS | {"run_id": "r2"})
    with pytest.raises(CheckpointError, match="of the data d1, the model of the data d2"):
        saved.require_run(FACTS | {"data_digest": "d2"})


def test_what_is_there_stays_until_all_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "index"
    save_index(built(tmp_path / "1"), folder, {"facts": FACTS})

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "move_into_place", killed)
        patch.setattr(atomic.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(SystemExit):
            save_index(built(tmp_path / "2", rows=2500), folder, {"facts": FACTS})
    assert len(load_index(folder).index) == 3000
    save_index(built(tmp_path / "3", rows=2500), folder, {"facts": FACTS})
    assert len(load_index(folder).index) == 2500
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes").write_text("x")
    with pytest.raises(ConfigError, match="holds other files"):
        save_index(built(tmp_path / "4", rows=20), tmp_path / "mine", {"facts": FACTS})
