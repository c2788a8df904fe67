"""Export: what is in the files, and that a folder is whole or absent."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data import atomic
from recsys.errors import ConfigError, NonFiniteError, SchemaError
from recsys.models.saved_cf import SavedCF
from recsys.retrieval import export
from recsys.retrieval.export import export_tables
from recsys.retrieval.exported import ExportedVectors
from recsys.retrieval.number_format import DTYPES, restored, stored
from recsys.retrieval.vectors import COSINE, INNER_PRODUCT, MatrixVectors, vectors_of_cf
from tests.retrieval.conftest import FACTS


def table(rows: int = 10, **keys: object) -> MatrixVectors:
    vectors = np.random.default_rng(0).normal(size=(rows, 4)).astype(np.float32)
    given = {"name": "items", "similarity": COSINE, "ids": pa.array(np.arange(rows) * 3),
             "vectors": vectors, "popularity": np.arange(rows)} | keys  # fmt: skip
    return MatrixVectors(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", DTYPES)
def test_files_hold_external_ids_vectors_norms_and_popularity(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "BLOCK_ROWS", 4)  # blocks and files end at different rows
    source = table(11)
    seen: list[tuple[int, int]] = []
    (card,) = export_tables(
        [source], tmp_path / "out", FACTS, dtype=dtype, rows_per_shard=6,
        progress=lambda done, total: seen.append((done, total)),
    )  # fmt: skip
    assert seen == [(4, 11), (8, 11), (11, 11)]
    assert list(card["files"]) == ["part-00000.parquet", "part-00001.parquet"]
    parts = [pq.read_table(tmp_path / "out" / "items" / name) for name in card["files"]]
    assert [part.num_rows for part in parts] == [6, 5]
    told = json.loads(parts[1].schema.metadata[b"recsys"])
    assert told["facts"] == FACTS
    assert (told["dim"], told["similarity"], told["dtype"]) == (4, COSINE, dtype)
    whole = pa.concat_tables(parts)
    assert whole["id"].to_pylist() == source.ids.to_pylist()
    assert whole["popularity"].to_pylist() == list(range(11))
    np.testing.assert_allclose(whole["norm"], np.linalg.norm(source.vectors, axis=1), rtol=1e-6)
    assert card["max_norm"] == pytest.approx(float(np.linalg.norm(source.vectors, axis=1).max()))
    found = np.concatenate(list(ExportedVectors.open(tmp_path / "out").blocks(3)))
    np.testing.assert_array_equal(found, restored(*stored(source.vectors, dtype)))


def test_bytes_of_each_format(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(20_000, 32)).astype(np.float32)
    source = table(20_000, vectors=vectors)
    sizes = {}
    for dtype in DTYPES:
        (card,) = export_tables([source], tmp_path / dtype, FACTS, dtype=dtype)
        sizes[dtype] = sum(one["bytes"] for one in card["files"].values()) / 20_000
    # Beside the vector: id, norm, popularity, scale, and what Parquet adds to a list.
    for dtype, bytes_per_number in (("float32", 4), ("float16", 2), ("int8", 1)):
        assert sizes[dtype] < 32 * bytes_per_number + 40


def test_users_and_items_of_a_model(saved_cf: SavedCF, tmp_path: Path) -> None:
    cards = export_tables(list(vectors_of_cf(saved_cf).values()), tmp_path / "out", FACTS)
    assert [card["name"] for card in cards] == ["users", "items"]
    assert {card["similarity"] for card in cards} == {INNER_PRODUCT}
    users = pq.read_table(tmp_path / "out" / "users" / "part-00000.parquet")
    assert users["id"].to_pylist() == saved_cf.data.user_ids.to_pylist()


def test_a_name_that_is_no_folder_is_made_one(tmp_path: Path) -> None:
    export_tables([table(name="../city/zone")], tmp_path / "out", FACTS)
    assert ExportedVectors.open(tmp_path / "out").name == "../city/zone"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def bad_vectors(value: float) -> np.ndarray:
    vectors = np.ones((5, 4), np.float32)
    vectors[3, 2] = value
    return vectors


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"vectors": bad_vectors(np.nan)}, NonFiniteError, r"the vector of 9 in items holds NaN"),
        ({"vectors": bad_vectors(-np.inf)}, NonFiniteError, r"the vector of 9"),
        ({"ids": pa.array([1, 2, 1, 3, 2])}, SchemaError, r"the id 1 more than once \(2 such"),
        ({"ids": pa.array(["a", None, "b", "c", "d"])}, SchemaError, r"1 rows without an id"),
        ({"ids": pa.array([], pa.int64()), "vectors": np.empty((0, 4), np.float32)}, SchemaError,
         "has no rows"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported(
    keys: dict[str, object], error: type[Exception], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        export_tables([table(5, **keys)], tmp_path / "out", FACTS)
    assert not list(tmp_path.iterdir())


def test_impossible_choices(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="float8"):
        export_tables([table()], tmp_path / "out", FACTS, dtype="float8")
    with pytest.raises(ConfigError, match="rows_per_shard=0"):
        export_tables([table()], tmp_path / "out", FACTS, rows_per_shard=0)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(ConfigError, match="holds other files"):
        export_tables([table()], tmp_path, FACTS)
    assert (tmp_path / "mine").read_text() == "x"


def test_an_error_leaves_the_earlier_export(tmp_path: Path) -> None:
    export_tables([table()], tmp_path / "out", FACTS)
    before = ExportedVectors.open(tmp_path / "out").digest
    with pytest.raises(NonFiniteError):
        export_tables(
            [table(name="users"), table(5, vectors=bad_vectors(np.nan))], tmp_path / "out", FACTS
        )
    assert ExportedVectors.open(tmp_path / "out").digest == before
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
    assert not (tmp_path / "out" / "users").exists()


def test_a_kill_before_the_rename_leaves_the_earlier_export(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    export_tables([table()], out, FACTS)
    before = ExportedVectors.open(out).digest

    def killed(*_: object) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr(atomic, "move_into_place", killed)
        patch.setattr(atomic.shutil, "rmtree", lambda *_, **__: None)  # nobody is left to clean up
        with pytest.raises(SystemExit):
            export_tables([table(7)], out, FACTS)
    assert len(list(tmp_path.iterdir())) == 2
    assert ExportedVectors.open(out).digest == before
    export_tables([table(7)], out, FACTS)  # what the kill left is in nobody's way
    assert len(ExportedVectors.open(out)) == 7
