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
