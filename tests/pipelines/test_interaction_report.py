"""Interactions of fields, by pipelines.explain: files, numbers, other runs, refusals."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from pipelines.explain import explain
from recsys import config
from recsys.data.datasets.synthetic import build
from recsys.errors import ConfigError, SchemaError
from recsys.models.saved import ModelSpec, SavedModel
from recsys.models.saved_cf import FORMAT
from tests.pipelines.conftest import SMALL, Run

FEW = ("rows=0", "explained_rows=0", "importance_rows=0", "interactions.resamples=100")


def run_explain(folder: Path | str, rows: Path, output: Path, *keys: str) -> dict[str, Any]:
    overrides = [f"run={folder}", f"data.path={rows}", f"output_dir={output}", *FEW, *keys]
    return explain(config.compose("explain", [*overrides, "console=none", "tracking=none"]))


def table_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "interactions.csv").open() as file:
        return list(csv.DictReader(file))


def test_pairs_of_a_trained_network_as_a_person_asks_for_them(
    trained: Path, clicks: Path, home: Path, tmp_path: Path, run: Run
) -> None:
    done = run(
        "pipelines.explain", f"run={trained}", f"data.path={clicks}", f"output_dir={tmp_path}/out",
        "interactions.pairs=2", "interactions.rows=900", *FEW,
    )  # fmt: skip
    assert "interactions: 2 pairs in 148 passes each over 600 rows, after at most" in done.stdout
    assert "interactions over 37 models that lose at most 0.01 of log-loss" in done.stdout
    found = json.loads((tmp_path / "out" / "result.json").read_text())["interactions"]
    assert found["rows"] == 600
    rows = table_of(tmp_path / "out")
    assert [[one["field_1"], one["field_2"]] for one in rows] == [
        one["fields"] for one in found["pairs"]
    ]
    for row, one in zip(rows, found["pairs"], strict=True):
        assert float(row["score"]) == one["score"]
        assert float(row["lowest"]) <= one["score"] <= float(row["highest"])
        assert float(row["low"]) <= one["score"] <= float(row["high"])
    for name in ("swarm", "halo"):
        assert (tmp_path / "out" / f"{name}.png").stat().st_size < 200_000
    assert len(pl.read_csv(tmp_path / "out" / "swarm.csv")) == 2 * 37
    assert len(pl.read_csv(tmp_path / "out" / "halo.csv")) == 2 * 36
    run_id = json.loads((trained / "result.json").read_text())["run_id"]
    assert f"in MLflow: run {run_id}, artifacts explain/out" in done.stdout
    kept = [*home.glob(f"outputs/artifacts/**/{run_id}/artifacts/explain/out/halo.png")]
    assert len(kept) == 1


def test_other_runs_join_where_they_are_near(trained: Path, clicks: Path, tmp_path: Path) -> None:
    keys = ("interactions.pairs=3", "interactions.rows=400", "interactions.fields=[user,item,city]")
    itself = run_explain(trained, clicks, tmp_path, *keys, f"interactions.runs=[{trained}]")
    swarm = pl.read_csv(tmp_path / "swarm.csv")
    assert swarm["model"].value_counts().to_dict(as_series=False) is not None
    same = swarm.filter(pl.col("model") == str(trained))
    mine = swarm.filter(pl.col("model") == "reference")
    assert same["score"].to_list() == mine["score"].to_list()
    assert same["logloss_rise"].to_list() == [0.0] * 3
    assert itself["interactions"]["outside"] == {}
    # all pairs of three fields were asked for: there is nothing to choose, every row judges
    assert itself["interactions"]["rows"] == 400
    names = {name for one in itself["interactions"]["pairs"] for name in one["fields"]}
    assert names == {"user", "item", "city"}
    moved = SavedModel.load(trained / "model")
    for parameter in moved.recommender.model.parameters():
        parameter.data.neg_()
    moved.save(tmp_path / "other" / "model")
    other = tmp_path / "other"
    far = run_explain(trained, clicks, tmp_path, *keys, f"interactions.runs=[{other}]")
    assert list(far["interactions"]["outside"]) == [str(other)]
    assert far["interactions"]["outside"][str(other)] > 0.01


def test_what_cannot_be_done_is_refused(trained: Path, clicks: Path, tmp_path: Path) -> None:
    def ask(*keys: str, rows: Path = clicks, folder: Path = trained) -> None:
        run_explain(folder, rows, tmp_path / "out", "interactions.pairs=1", *keys)

    with pytest.raises(ConfigError, match=r"reads no field usr\. Did you mean user"):
        ask("interactions.fields=[usr,item]", "interactions.rows=200")
    with pytest.raises(ConfigError, match="a pair needs two different fields"):
        ask("interactions.fields=[user]")
    with pytest.raises(ConfigError, match=r"interactions.repeats=0; it must be at least 1"):
        ask("interactions.repeats=0")
    with pytest.raises(ConfigError, match=r"interactions.rows=.*must be int"):
        ask("interactions.rows=many")
    unlabelled = tmp_path / "rows.parquet"
    pl.read_parquet(clicks).drop("clicked").head(300).write_parquet(unlabelled)
    with pytest.raises(SchemaError, match="interactions are measured on rows with labels"):
        ask(rows=unlabelled)
    pairs = tmp_path / "pairs" / "model"
    pairs.mkdir(parents=True)
    (pairs / "model.json").write_text(json.dumps(FORMAT))
    with pytest.raises(ConfigError, match=r"model of users and items.*no fields to explain"):
        ask(folder=tmp_path / "pairs")
    trees = SavedModel.load(trained / "model")
    spec = ModelSpec("ctr", "recsys.models.ctr.lightgbm.LightGBM", {})
    from pipelines.interaction_report import check_comparable, require_vectors

    trees.spec = spec
    with pytest.raises(ConfigError, match=r"LightGBM is made of trees"):
        require_vectors(trees)
    saved, other = SavedModel.load(trained / "model"), SavedModel.load(trained / "model")
    schema = other.pipeline.schema
    object.__setattr__(schema, "labels", ("bought",))
    with pytest.raises(ConfigError, match="x learns bought, this run clicked"):
        check_comparable("x", other, saved)


@pytest.mark.slow
def test_the_planted_pair_comes_first(run: Run, home: Path, tmp_path: Path) -> None:
    """color x shape, which tell nothing by themselves."""
    folder = home / "planted"
    run(
        "pipelines.train", "ctr=dcnv2", *[key for key in SMALL if "num_layers" not in key],
        "trainer.epochs=6", "importance_rows=0", f"output_dir={folder}", "tracking=none",
    )  # fmt: skip
    raw = build()
    rows = tmp_path / "rows.parquet"
    pl.from_arrow(raw.files["test"].head(4000)).write_parquet(rows)
    result = run_explain(folder, rows, tmp_path / "out", "interactions.pairs=1")
    first = result["interactions"]["pairs"][0]
    assert set(first["fields"]) == {"color", "shape"}
    assert first["interval"][0] > 0.02
    assert first["range"][0] > 0
    assert first["sign_changes"] == 0
    assert np.isfinite(result["interactions"]["logloss"])
