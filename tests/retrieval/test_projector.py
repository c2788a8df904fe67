"""Tab-separated text that other programs read."""

from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.models.saved_cf import SavedCF
from recsys.retrieval.exported import ExportedVectors
from recsys.retrieval.projector import write_projector
from recsys.retrieval.vectors import COSINE
from tests.retrieval.conftest import clustered, export_matrix


def test_the_most_popular_rows(
    exported_cf: ExportedVectors, saved_cf: SavedCF, tmp_path: Path
) -> None:
    assert write_projector(exported_cf, tmp_path, 20, saved_cf.data.titles) == 20
    numbers = np.loadtxt(tmp_path / "embeddings.tsv", delimiter="\t")
    rows = pl.read_csv(tmp_path / "metadata.tsv", separator="\t")
    assert numbers.shape == (20, exported_cf.dim)
    assert rows.columns == ["id", "popularity", "title"]
    counts = exported_cf.popularity
    assert counts is not None
    assert rows["popularity"].min() >= np.sort(counts)[-20]  # type: ignore[operator]
    at = {one: place for place, one in enumerate(exported_cf.ids.to_pylist())}
    expected = exported_cf.take(np.array([at[one] for one in rows["id"]]))
    np.testing.assert_allclose(numbers, expected, rtol=1e-5)
    assert rows["title"].to_list() == [f"film {one}" for one in rows["id"]]


def test_titles_stay_in_their_cell(tmp_path: Path) -> None:
    found = export_matrix(tmp_path / "out", clustered(3), COSINE)
    titles = pa.array(["a\tb", None, "c\nd"])
    assert write_projector(found, tmp_path, 10, titles) == 3
    lines = (tmp_path / "metadata.tsv").read_text().splitlines()
    assert lines == ["id\ttitle", "1000\ta b", "1001\t", "1002\tc d"]
