"""The rows copies are compared on: all of them once, in order, encoded by the model's pipeline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.compared_rows import ComparedRows
from recsys.errors import ConfigError, SchemaError
from recsys.models.saved import SavedModel
from recsys.tracking.console import Console
from tests.models import test_saved
from tests.models.test_saved import frame

saved = test_saved.saved  # the fixture


@pytest.fixture
def rows_file(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    frame(90).write_parquet(path)
    return path


def compared(
    saved: SavedModel, path: Path | None, folder: Path, block: int = 32, most: int | None = None
) -> ComparedRows:
    return ComparedRows(path, saved, folder, block, most, Console("none"))


@pytest.mark.parametrize(("block", "most"), [(32, None), (32, 40), (200, 7), (10, 90), (1, 3)])
def test_the_first_rows_come_once_and_in_order(
    saved: SavedModel,
    rows_file: Path,
    tmp_path: Path,
    block: int,
    most: int | None,
) -> None:
    rows = compared(saved, rows_file, tmp_path, block, most)
    assert rows.num_rows == (most or 90)
    blocks = list(rows.blocks())
    whole = saved.pipeline.transform(frame(90))
    ids = np.concatenate([one.ids for one in blocks])
    np.testing.assert_array_equal(ids, whole.ids[: rows.num_rows])
    labels = np.concatenate([one.label for one in blocks])
    np.testing.assert_array_equal(labels, whole.label[: rows.num_rows])
    assert max(len(one) for one in blocks) <= block
    assert list(rows.example.columns) == list(saved.pipeline.schema.names)
    assert rows.split == "data"


def test_rows_may_have_no_labels(saved: SavedModel, tmp_path: Path) -> None:
    path = tmp_path / "unlabelled.csv"
    frame(20).drop("click").write_csv(path)
    assert all(one.label is None for one in compared(saved, path, tmp_path).blocks())


def test_a_missing_column_and_no_rows_are_named(saved: SavedModel, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    frame(20).drop("city").write_parquet(path)
    with pytest.raises(SchemaError, match="city"):
        compared(saved, path, tmp_path)
    pl.DataFrame(schema=frame(1).schema).write_parquet(path)
    with pytest.raises(SchemaError, match="no rows"):
        compared(saved, path, tmp_path)


def test_a_model_without_its_run_needs_rows(saved: SavedModel, tmp_path: Path) -> None:
    folder = saved.save(tmp_path / "run" / "model")
    with pytest.raises(ConfigError, match=r"without its run's config.yaml.*data.path="):
        compared(saved, None, folder)
    (tmp_path / "run" / "config.yaml").write_text("trainer: {}\n")
    with pytest.raises(ConfigError, match=r"names no data.*data.path="):
        compared(saved, None, folder)
