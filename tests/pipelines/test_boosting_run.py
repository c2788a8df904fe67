"""python -m pipelines.train ctr=lightgbm: the command, data, files and tracking of the others."""

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.boosting_run import BoostingRun, Rounds
from recsys import config
from recsys.errors import ConfigError
from recsys.models.saved import SavedModel
from tests.pipelines.conftest import Run

QUICK = ["ctr.num_rounds=40", "ctr.patience=10", "ctr.learning_rate=0.2", "trainer.threads=1"]


@pytest.fixture(scope="module")
def boosted(run: Run, clicks: Path, home: Path) -> Path:
    folder = home / "boosted"
    keys = ["ctr=lightgbm", "data=parquet", f"data.path={clicks}", "data.label=clicked", *QUICK]
    done = run("pipelines.train", *keys, f"output_dir={folder}")
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


def test_it_leaves_what_every_run_leaves(boosted: Path, trained: Path) -> None:
    result, other = (json.loads((f / "result.json").read_text()) for f in (boosted, trained))
    assert set(other) - {"initial_digest"} <= set(result)  # trees grow from nothing
    assert result["metrics"]["test"]["auc"] > 0.6
    assert set(result["metrics"]["test"]) == set(other["metrics"]["test"])
    assert result["trees"] <= result["steps"] <= 40
    for name in ("model/trees.txt", "model/model.json", "model/pipeline/pipeline.json"):
        assert (boosted / name).is_file()
    plots = {path.stem for path in (boosted / "plots").glob("*.png")}
    assert plots == {
        "training_curve", "test_calibration", "test_roc_pr", "test_lift", "gain", "importance",
    }  # fmt: skip
    assert not list(boosted.rglob("*.pkl"))
    with (boosted / "plots" / "gain.csv").open() as file:
        names = [row["feature"] for row in csv.DictReader(file)]
    assert {"user", "item", "price", "city", "tags.length"} <= set(names)
    text = (boosted / "stdout.txt").read_text()
    assert text.count("embedding.*") == 1
    assert "[LightGBM]" not in text


def test_the_best_round_is_kept(boosted: Path) -> None:
    with (boosted / "plots" / "training_curve.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "val/auc"]
    values = {int(row["step"]): float(row["value"]) for row in rows}
    result = json.loads((boosted / "result.json").read_text())
    assert result["trees"] == max(values, key=lambda step: (round(values[step], 6), -step))
    assert result["metrics"]["val"]["auc"] == pytest.approx(max(values.values()), abs=1e-6)


def test_evaluate_and_mlflow_score_raw_rows_with_the_same_bits(
    boosted: Path, run: Run, clicks: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    saved = SavedModel.load(boosted / "model")
    frame = pl.read_parquet(clicks)
    ours = saved.predict(frame)
    out = home / "boosted_scores"
    run("pipelines.evaluate", f"run={boosted}", f"data.path={clicks}", f"output_dir={out}")
    theirs = pl.read_parquet(out / "predictions.parquet")["probability"].to_numpy()
    np.testing.assert_array_equal(theirs, ours)
    uri = f"sqlite:///{home}/outputs/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri)
    result = json.loads((boosted / "result.json").read_text())
    tracked = client.get_run(result["run_id"])
    assert tracked.data.params["ctr.num_rounds"] == "40"
    assert tracked.data.metrics["test/auc"] == result["metrics"]["test"]["auc"]
    assert len(client.get_metric_history(result["run_id"], "val/auc")) >= 2
    (model,) = client.search_logged_models(
        [tracked.info.experiment_id], filter_string=f"source_run_id = '{result['run_id']}'"
    )
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    scores = loaded.predict(frame.head(20).drop("clicked").to_pandas())["probability"]
    np.testing.assert_array_equal(scores.to_numpy(), ours[:20])


def test_a_saved_model_of_trees_has_no_embeddings(boosted: Path) -> None:
    with pytest.raises(ConfigError, match="made of trees"):
        _ = SavedModel.load(boosted / "model").recommender


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainer.precision=bfloat16", "trainer.precision=bfloat16 is nothing for ctr=lightgbm"),
        ("trainer.compile=true", "no network to compile"),
        ("trainer.resume=auto", "rounds are not checkpointed"),
        ("trainer.device=cuda", "runs on CPUs"),
        ("trainer.block_rows=100", "all rows at once"),
        ("ctr.num_leaves=1", "ctr.num_leaves=1"),
        ("trainer.monitor=speed", "not a metric to stop on"),
    ],
)
def test_what_makes_no_sense_is_refused_before_data_is_read(override: str, message: str) -> None:
    cfg = config.compose("train", ["ctr=lightgbm", override])
    with pytest.raises(ConfigError, match=message):
        BoostingRun(cfg, "ctr")


def test_several_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="without torchrun"):
        BoostingRun(config.compose("train", ["ctr=lightgbm"]), "ctr")


def test_patience_is_in_rounds_whatever_the_rhythm_of_validations() -> None:
    class Nothing:
        val = None
        train = np.zeros(3)

    run = BoostingRun(config.compose("train", ["ctr=lightgbm", "ctr.patience=7"]), "ctr")
    for every, validations in ((1, 7), (5, 2), (10, 1)):
        options = config.build_options(
            type(run.trainer_options), {"eval_every": every, "max_steps": 9}, "trainer"
        )
        rounds = Rounds(None, run.model, options, Nothing(), ())
        assert rounds.plateau.patience == validations
        assert rounds.total == 9
