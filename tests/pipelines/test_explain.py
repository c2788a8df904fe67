"""python -m pipelines.explain: figures and single rows of a trained model, on any rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines.explain import explain, text_of
from recsys import config
from recsys.data.encode import FeaturePipeline
from recsys.data.options import DataOptions, apply_options
from recsys.data.readers import Source
from recsys.data.schema import Field, Schema
from recsys.errors import ConfigError, SchemaError
from recsys.models.ctr.lightgbm import LightGBM
from recsys.models.importance import permutation_importance
from recsys.models.saved import ModelSpec, SavedModel
from tests.pipelines.conftest import Run


def run_explain(folder: Path, rows: Path, output: Path, *keys: str) -> dict[str, Any]:
    overrides = [f"run={folder}", f"data.path={rows}", f"output_dir={output}", *keys]
    return explain(config.compose("explain", [*overrides, "console=none"]))


def saved_schema(folder: Path) -> Schema:
    return SavedModel.load(folder / "model").pipeline.schema


def test_figures_importance_and_rows_of_a_trained_network(
    trained: Path, clicks: Path, tmp_path: Path, run: Run
) -> None:
    done = run(
        "pipelines.explain", f"run={trained}", f"data.path={clicks}", "rows=2",
        "importance_rows=300", f"output_dir={tmp_path}",
    )  # fmt: skip
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["figures"] == ["attention.png", "importance.png", "sensitivity.png"]
    ranked = apply_options(
        saved_schema(trained), DataOptions(features=tmp_path / "sensitivity.csv", top=2)
    )
    best = pl.read_csv(tmp_path / "sensitivity.csv")["feature"][:2]
    assert set(ranked.names) == set(best)
    assert (result["model"], result["rows"]) == ("autoint", 4096)
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert len(rows) == 2
    saved, frame = SavedModel.load(trained / "model"), pl.read_parquet(clicks)
    assert [row["probability"] for row in rows] == saved.predict(frame.head(2)).tolist()
    assert [row["clicked"] for row in rows] == frame["clicked"].head(2).to_list()
    for position, row in enumerate(rows):
        pairs = row["attention"]
        assert len(pairs) == 5
        weights = [pair["weight"] for pair in pairs]
        assert weights == sorted(weights, reverse=True)
        for pair in pairs:
            for slot, value in zip(pair["slots"], pair["values"], strict=True):
                raw = frame[slot][position]
                raw = raw.to_list() if isinstance(raw, pl.Series) else raw
                assert value == (None if raw is None else str(raw))
    text = (tmp_path / "rows.txt").read_text()
    assert text.strip() in done.stdout
    assert f"user={frame['user'][0]}" in text
    assert "importance: 5 fields" in done.stdout
    expected = permutation_importance(
        saved.logits_of, saved.pipeline.schema, saved.pipeline.transform(frame.head(300))
    )
    assert dict(result["importance"]) == dict(expected.top(5))


def test_without_a_label_there_is_no_importance(
    trained: Path, clicks: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    pl.read_parquet(clicks).drop("tags").head(30).write_csv(rows)
    with pytest.raises(SchemaError, match="tags"):
        run_explain(trained, rows, tmp_path / "out")
    rows = tmp_path / "rows.parquet"
    pl.read_parquet(clicks).drop("clicked").head(30).write_parquet(rows)
    result = run_explain(trained, rows, tmp_path / "out", "rows=0")
    assert (result["importance"], result["figures"], result["rows"]) == (
        None, ["attention.png"], 30,
    )  # fmt: skip
    assert json.loads((tmp_path / "out" / "rows.json").read_text()) == []


def test_trees_say_what_each_field_adds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"city": rng.choice(["a", "b"], 400), "noise": rng.normal(size=400)})
    frame = frame.with_columns((pl.col("city") == "a").cast(pl.Int8).alias("y"))
    fields = (
        Field(name="city", kind="categorical", encoding="vocabulary"),
        Field(name="noise", kind="numeric", encoding="standard", dtype="float"),
    )
    pipeline = FeaturePipeline.fit(Source.from_frame(frame), Schema(fields=fields, labels=("y",)))
    options = {"min_data_in_leaf": 5, "min_data_per_group": 5, "learning_rate": 0.5}
    spec = ModelSpec("ctr", f"{LightGBM.__module__}.LightGBM", options)
    model = spec.make_boosted()
    from recsys.data.store import Store, StoreWriter

    with StoreWriter(tmp_path / "store", pipeline.schema) as writer:
        writer.append(pipeline.transform(frame))
    growing = model.start(Store.open(tmp_path / "store"), None, threads=1)
    for _ in range(10):
        growing.grow()
    SavedModel(growing.finish(10), pipeline, spec).save(tmp_path / "model")
    frame.write_parquet(tmp_path / "rows.parquet")
    result = run_explain(tmp_path / "model", tmp_path / "rows.parquet", tmp_path / "out")
    assert result["figures"] == ["gain.png", "importance.png"]
    assert result["importance"]["city"] > 0.3
    rows = json.loads((tmp_path / "out" / "rows.json").read_text())
    for row, city in zip(rows, frame["city"].head(5), strict=True):
        first = row["contributions"][0]
        assert (first["slots"], first["values"]) == (["city"], [city])
        assert (first["weight"] > 0) == (city == "a")


def test_a_row_as_text() -> None:
    text = text_of(
        {
            "row": 3,
            "probability": 0.25,
            "attention": [{"slots": ["a", "b"], "values": ["1", None], "weight": 0.5}],
            "crosses": [
                {"slots": ["a", "b"], "values": ["1", "x" * 50], "weights": [0.5, -2.0],
                 "num_slots": 4},
            ],
            "interest.items": [{"events_ago": 2, "weight": 0.75, "value": "shoe"}],
            "gates": [],
        }
    )  # fmt: skip
    assert text.splitlines() == [
        "row 3   probability 0.2500",
        "  attention",
        "       0.5000  a=1 -> b=missing",
        "  crosses",
        "    +0.5 a=1  x  -2 b=" + "x" * 31 + "…  (and 2 more)",
        "  interest.items",
        "       0.7500  2 events ago: shoe",
    ]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["run=x"], "data.path is missing"),
        (["data.path=x"], "run is missing"),
        (["run=x", "data.path=x", "rows=-1"], "rows=-1; it must be a whole number, 0 or more"),
    ],
)
def test_bad_input_is_named(keys: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        explain(config.compose("explain", [*keys, "console=none"]))
