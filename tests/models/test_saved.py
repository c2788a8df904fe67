"""A saved model: the same scores after loading, and clear words about what is not one."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from recsys.data.encode import FeaturePipeline
from recsys.data.readers import Source
from recsys.data.schema import Field, Schema
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.storage import DenseStorage
from recsys.errors import CheckpointError, ConfigError, SchemaError
from recsys.models.recommender import Recommender
from recsys.models.saved import ModelSpec, SavedModel, probabilities


def frame(rows: int = 200) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    return pl.DataFrame(
        {
            "user": rng.integers(0, 20, rows),
            "city": [f"c{i}" for i in rng.integers(0, 5, rows)],
            "price": rng.normal(size=rows),
            "click": rng.integers(0, 2, rows),
        }
    )


@pytest.fixture
def saved() -> SavedModel:
    schema = Schema(
        fields=(
            Field(name="user", kind="categorical", encoding="vocabulary", dtype="int"),
            Field(name="city", kind="categorical", encoding="vocabulary"),
            Field(name="price", kind="numeric", encoding="standard", dtype="float"),
        ),
        labels=("click",),
    )
    pipeline = FeaturePipeline.fit(Source.from_frame(frame()), schema)
    spec = ModelSpec("ctr", "recsys.models.ctr.dcnv2.DCNv2", {"hidden_dims": [8]})
    torch.manual_seed(0)
    recommender = Recommender.build(
        pipeline.schema, EmbeddingOptions(dim=4, init_std=0.5), spec.make, DenseStorage
    )
    return SavedModel(recommender, pipeline, spec, {"run_id": "r1"})


def test_loading_gives_the_same_scores(saved: SavedModel, tmp_path: Path) -> None:
    loaded = SavedModel.load(saved.save(tmp_path / "model"))
    np.testing.assert_array_equal(loaded.predict(frame()), saved.predict(frame()))
    assert loaded.facts == {"run_id": "r1"}
    assert loaded.spec.stem == "dcnv2"
    assert loaded.spec.class_name == "DCNv2"


def test_any_kind_of_table_gives_the_same_scores(saved: SavedModel) -> None:
    rows = frame(30)
    expected = saved.predict(rows)
    for table in (rows.to_arrow(), rows.to_pandas(), rows.to_dict(as_series=False)):
        np.testing.assert_array_equal(saved.predict(table), expected)
    np.testing.assert_array_equal(saved.predict(rows.select(reversed(rows.columns))), expected)


def test_unseen_and_missing_values_are_scored(saved: SavedModel) -> None:
    rows = pl.DataFrame({"user": [999, None], "city": [None, "new"], "price": [None, 1.0]})
    assert np.isfinite(saved.predict_logits(rows)).all()


def test_a_missing_column_is_named(saved: SavedModel) -> None:
    with pytest.raises(SchemaError, match="price"):
        saved.predict(frame().drop("price"))


def test_saving_again_replaces(saved: SavedModel, tmp_path: Path) -> None:
    saved.save(tmp_path / "model")
    saved.save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_a_folder_that_is_no_model(tmp_path: Path, saved: SavedModel) -> None:
    with pytest.raises(CheckpointError, match="not a saved model"):
        SavedModel.load(tmp_path)
    folder = saved.save(tmp_path / "model")
    (folder / "weights.safetensors").write_bytes(b"\x00" * 64)
    with pytest.raises(CheckpointError, match="not a saved model"):
        SavedModel.load(folder)


def test_another_version_is_refused(tmp_path: Path, saved: SavedModel) -> None:
    folder = saved.save(tmp_path / "model")
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, "version": 99}))
    with pytest.raises(CheckpointError, match="version 99"):
        SavedModel.load(folder)


def test_a_card_cannot_name_foreign_code(tmp_path: Path, saved: SavedModel) -> None:
    folder = saved.save(tmp_path / "model")
    card = json.loads((folder / "model.json").read_text())
    card["model"]["target"] = "subprocess.run"
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(ConfigError, match="not part of recsys"):
        SavedModel.load(folder)


def test_weights_of_another_model_are_refused(tmp_path: Path, saved: SavedModel) -> None:
    folder = saved.save(tmp_path / "model")
    card = json.loads((folder / "model.json").read_text())
    card["model"]["arguments"] = {"hidden_dims": [9]}
    (folder / "model.json").write_text(json.dumps(card))
    with pytest.raises(CheckpointError, match="do not fit"):
        SavedModel.load(folder)


def test_probabilities_are_the_sigmoid() -> None:
    logits = np.array([-30.0, 0.0, 2.0], dtype=np.float32)
    np.testing.assert_allclose(probabilities(logits), 1 / (1 + np.exp(-logits)), rtol=1e-6)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_probability_depends_on_its_logit_alone(threads: int) -> None:
    """Not on its place in the array, nor on its length; 70,001 numbers are shared by threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        logits = np.random.default_rng(0).normal(size=70_001).astype(np.float32)
        expected = probabilities(logits)
        for start, stop in ((0, 1), (3, 100), (17, 716), (5, 40_006), (69_990, 70_001)):
            np.testing.assert_array_equal(probabilities(logits[start:stop]), expected[start:stop])
        pairs = logits[:70_000].reshape(-1, 2)
        np.testing.assert_array_equal(probabilities(pairs).reshape(-1), expected[:70_000])
        assert probabilities(logits[:0]).shape == (0,)
    finally:
        torch.set_num_threads(before)


FORMATS = ("float16", "int8", "int4")


@pytest.fixture
def wide() -> SavedModel:
    """Vectors wide enough for codes, and first-order weights."""
    pipeline = FeaturePipeline.fit(
        Source.from_frame(frame()),
        Schema(
            fields=(
                Field(name="user", kind="categorical", encoding="vocabulary", dtype="int"),
                Field(name="city", kind="categorical", encoding="vocabulary"),
                Field(name="price", kind="numeric", encoding="standard", dtype="float"),
            ),
            labels=("click",),
        ),
    )
    spec = ModelSpec("ctr", "recsys.models.ctr.deepfm.DeepFM", {"hidden_dims": [8]})
    torch.manual_seed(0)
    options = EmbeddingOptions(dim=16, init_std=0.5)
    recommender = Recommender.build(pipeline.schema, options, spec.make, DenseStorage)
    return SavedModel(recommender, pipeline, spec, {"run_id": "r1"})


@pytest.mark.parametrize("tables", FORMATS)
def test_a_copy_with_small_tables_is_a_saved_model(
    wide: SavedModel, tables: str, tmp_path: Path
) -> None:
    copy = wide.with_tables(tables)
    loaded = SavedModel.load(copy.save(tmp_path / "copy"))
    assert loaded.tables == copy.tables == tables
    np.testing.assert_array_equal(loaded.predict(frame()), copy.predict(frame()))
    assert loaded.facts == wide.facts
    assert wide.tables == "float32"
    tolerance = {"float16": 5e-3, "int8": 0.1, "int4": 1.0}[tables]
    off = np.abs(copy.predict_logits(frame()) - wide.predict_logits(frame())).max()
    assert 0 < off < tolerance
    whole = wide.save(tmp_path / "whole")
    sizes = [
        (folder / "weights.safetensors").stat().st_size for folder in (tmp_path / "copy", whole)
    ]
    assert sizes[0] < sizes[1]


def test_a_copy_of_separate_tables_has_a_grid_for_each_label(tmp_path: Path) -> None:
    rows = frame().with_columns(pl.col("click").reverse().alias("like"))
    schema = Schema(
        fields=(Field(name="user", kind="categorical", encoding="vocabulary", dtype="int"),),
        labels=("click", "like"),
    )
    pipeline = FeaturePipeline.fit(Source.from_frame(rows), schema)
    spec = ModelSpec("mtl", "recsys.models.mtl.singletask.SingleTask", {})
    torch.manual_seed(0)
    recommender = Recommender.build(
        pipeline.schema, EmbeddingOptions(dim=16), spec.make, DenseStorage, separate_tables=True
    )
    saved = SavedModel(recommender, pipeline, spec, {})
    loaded = SavedModel.load(saved.with_tables("int4").save(tmp_path / "copy"))
    assert loaded.recommender.lookup.storage.weights()["int4"].shape[1] == 2 * (4 + 8)
    np.testing.assert_allclose(loaded.predict(rows), saved.predict(rows), atol=1e-3)


def test_rows_that_a_gate_dropped_stay_dropped(wide: SavedModel, tmp_path: Path) -> None:
    lookup = wide.recommender.lookup
    kept = {
        table.name: torch.arange(span) % 2 == 0
        for table, span in zip(lookup.layout.tables, lookup.layout.spans, strict=True)
    }
    torch.manual_seed(1)
    pruned = Recommender.build(
        wide.pipeline.schema, EmbeddingOptions(dim=16, init_std=0.5), wide.spec.make, DenseStorage,
        kept=kept,
    )  # fmt: skip
    saved = SavedModel(pruned, wide.pipeline, wide.spec, {})
    loaded = SavedModel.load(saved.with_tables("int8").save(tmp_path / "copy"))
    assert loaded.recommender.lookup.storage.num_rows == pruned.lookup.storage.num_rows
    np.testing.assert_allclose(loaded.predict(frame()), saved.predict(frame()), atol=0.02)


def test_a_copy_of_a_copy_is_refused(wide: SavedModel) -> None:
    with pytest.raises(ConfigError, match=r"int8 tables already.*made of, r1"):
        wide.with_tables("int8").with_tables("int4")


def test_a_format_that_does_not_exist_is_named(wide: SavedModel, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match='tables="int2" does not exist'):
        wide.with_tables("int2")
    folder = wide.with_tables("int8").save(tmp_path / "copy")
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**card, "tables": "int4"}))
    with pytest.raises(CheckpointError, match="do not fit"):
        SavedModel.load(folder)


def test_a_table_that_no_copy_can_hold_is_refused(wide: SavedModel) -> None:
    wide.recommender.lookup.storage.table()[3, 3] = 1e6
    with pytest.raises(ConfigError, match="Use tables=float32"):
        wide.with_tables("int8")
