"""Reading an export: rows, blocks, and what is not an export."""

import json
from pathlib import Path

import numpy as np
import pytest

from recsys.errors import CheckpointError, ConfigError
from recsys.models.saved_cf import SavedCF
from recsys.retrieval.exported import ExportedVectors
from recsys.retrieval.vectors import COSINE, vectors_of_cf
from tests.retrieval.conftest import clustered, export_matrix


def test_it_is_a_source_of_vectors_itself(exported_cf: ExportedVectors, saved_cf: SavedCF) -> None:
    items = vectors_of_cf(saved_cf)["items"]
    assert exported_cf.ids.equals(items.ids)
    assert (exported_cf.name, exported_cf.dim) == ("items", items.dim)
    assert exported_cf.similarity == items.similarity
    np.testing.assert_array_equal(exported_cf.popularity, items.popularity)
    whole = np.concatenate(list(items.blocks(100)))
    for rows in (1, 7, 1000):
        np.testing.assert_array_equal(np.concatenate(list(exported_cf.blocks(rows))), whole)
    some = np.array([0, 3, 4, 49])
    np.testing.assert_array_equal(exported_cf.take(some), whole[some])
    assert exported_cf.take(np.array([], int)).shape == (0, items.dim)
    users = exported_cf.sibling("users")
    assert users is not None
    assert len(users) == saved_cf.data.num_users
    assert exported_cf.sibling("cities") is None


def test_popularity_that_nobody_counted(tmp_path: Path) -> None:
    assert export_matrix(tmp_path / "out", clustered(9), COSINE).popularity is None


def test_the_digest_is_of_the_vectors(tmp_path: Path) -> None:
    one, same = (export_matrix(tmp_path / name, clustered(9), COSINE) for name in "ab")
    other = export_matrix(tmp_path / "c", clustered(9, seed=1), COSINE)
    assert one.digest == same.digest != other.digest


def test_folders_that_are_no_export(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="its tables are none"):
        ExportedVectors.open(tmp_path / "nothing")
    found = export_matrix(tmp_path / "out", clustered(9), COSINE)
    file = found.folder / "part-00000.parquet"
    data = file.read_bytes()
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    file.write_bytes(changed)
    with pytest.raises(CheckpointError, match=r"is corrupted.*Export again"):
        ExportedVectors.open(tmp_path / "out").verify()
    file.write_bytes(data[:-5])
    with pytest.raises(CheckpointError, match="truncated"):
        ExportedVectors.open(tmp_path / "out")
    file.write_bytes(data)
    ExportedVectors.open(tmp_path / "out").verify()
    card = json.loads((found.folder / "embeddings.json").read_text()) | {"version": 2}
    (found.folder / "embeddings.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="version 2"):
        ExportedVectors.open(tmp_path / "out")
