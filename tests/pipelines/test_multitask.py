"""Models of several labels, from a table to scores, as a person runs them."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from pipelines.training_run import TrainingRun
from recsys import config
from recsys.errors import ConfigError
from recsys.models.saved import SavedModel
from recsys.tracking.tracker import MAX_METRIC_NAMES
from tests.pipelines.conftest import ROOT, Run

SMALL = ["trainer.epochs=2", "trainer.batch_size=512", "embedding.dim=8", "importance_rows=500"]


@pytest.fixture(scope="session")
def labelled(clicks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clicks with two more labels: what is bought after a click, and what is liked, which is
    known of some rows only."""
    rng = np.random.default_rng(1)
    frame = pl.read_parquet(clicks)
    cheap = (frame["price"] < frame["price"].median()).to_numpy()
    bought = (frame["clicked"].to_numpy() == 1) & (rng.random(len(frame)) < 0.2 + 0.6 * cheap)
    liked = (rng.random(len(frame)) < 0.1 + 0.3 * cheap).astype(np.int8)
    frame = frame.with_columns(
        pl.Series("bought", bought.astype(np.int8)),
        pl.when(pl.Series(rng.random(len(frame)) < 0.8)).then(pl.Series(liked)).alias("liked"),
    )
    path = tmp_path_factory.mktemp("labelled") / "labelled.parquet"
    frame.write_parquet(path)
    return path


def arguments(path: Path, model: str) -> list[str]:
    return [
        f"mtl={model}", "data=parquet", f"data.path={path}",
        "data.labels=[clicked,bought,liked]", "data.nested.bought=clicked", "data.group=user",
        *SMALL,
    ]  # fmt: skip


@pytest.fixture(scope="session")
def home_run(run: Run, labelled: Path, home: Path) -> Path:
    """Output folder of one HoME run, tracked in MLflow."""
    folder = home / "multitask"
    done = run("pipelines.train", *arguments(labelled, "home"), f"output_dir={folder}")
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


def test_every_label_has_its_metrics(home_run: Path) -> None:
    result = json.loads((home_run / "result.json").read_text())
    test = result["metrics"]["test"]
    for label in ("clicked", "bought/ctcvr", "bought/cvr", "liked"):
        for name in ("auc", "gauc", "logloss", "calibration"):
            assert np.isfinite(test[f"{label}/{name}"])
    assert test["clicked/auc"] > 0.6
    assert test["auc"] == pytest.approx(
        np.mean([test[f"{label}/auc"] for label in ("clicked", "bought/ctcvr", "liked")])
    )
    shown = (home_run / "stdout.txt").read_text()
    assert "test bought ctcvr" in shown
    assert "test bought cvr" in shown


def test_experts_are_drawn_and_judged(home_run: Path) -> None:
    result = json.loads((home_run / "result.json").read_text())
    assert result["experts"]["zero_share_max"] < 0.1
    plots = home_run / "plots"
    experts = pl.read_csv(plots / "head_task_experts.csv")
    assert experts.columns == ["expert", "zero_share", "gradient_norm"]
    assert set(experts["expert"]) >= {"shared.0", "category 0.0", "clicked.0", "liked.0"}
    gates = pl.read_csv(plots / "head_task_gates.csv")
    sums = gates.group_by("reader").agg(pl.col("weight").sum())
    np.testing.assert_allclose(sums["weight"].to_numpy(), 1, atol=1e-5)
    for name in ("test_calibration_clicked", "test_roc_pr_bought_cvr", "importance_by_label"):
        assert (plots / f"{name}.png").stat().st_size > 5000
        assert (plots / f"{name}.csv").is_file()


def test_whether_labels_agree_is_drawn_and_judged(home_run: Path) -> None:
    result = json.loads((home_run / "result.json").read_text())
    drawn = pl.read_csv(home_run / "plots" / "task_gradients.csv")
    apart = drawn.filter(pl.col("task") != pl.col("other"))
    assert set(apart["task"]) == {"clicked", "bought", "liked"}
    assert result["tasks_agree"] == {
        "cosine_weights_min": pytest.approx(apart["cosine_shared_weights"].min()),
        "cosine_vectors_min": pytest.approx(apart["cosine_shared_rows_of_tables"].min()),
    }


def test_evaluate_gives_a_probability_for_each_label(
    home_run: Path, run: Run, labelled: Path, home: Path
) -> None:
    out = home / "multitask_scored"
    run("pipelines.evaluate", f"run={home_run}", f"data.path={labelled}", f"output_dir={out}")
    found = pl.read_parquet(out / "predictions.parquet")
    names = ["clicked", "bought", "liked"]
    assert found.columns == [f"probability_{name}" for name in names]
    expected = SavedModel.load(home_run / "model").predict(pl.read_parquet(labelled))
    np.testing.assert_allclose(found.to_numpy(), expected, atol=1e-6)
    metrics = json.loads((out / "result.json").read_text())["metrics"]["data"]
    assert metrics["clicked/auc"] > 0.6
    assert np.isfinite(metrics["bought/cvr/auc"])


def test_the_logged_model_takes_raw_columns(home_run: Path, home: Path, labelled: Path) -> None:
    import mlflow

    uri = f"sqlite:///{home}/outputs/mlflow.db"
    result = json.loads((home_run / "result.json").read_text())
    client = mlflow.MlflowClient(tracking_uri=uri)
    logged = client.get_run(result["run_id"])
    assert logged.data.metrics["test/bought/cvr/auc"] == result["metrics"]["test"]["bought/cvr/auc"]
    assert {"experts/zero_share_max", "tasks/cosine_weights_min"} <= set(logged.data.metrics)
    assert len(logged.data.metrics) <= MAX_METRIC_NAMES
    models = client.search_logged_models([logged.info.experiment_id])
    (model,) = (one for one in models if one.source_run_id == result["run_id"])
    scores = home / "served.parquet"
    code = (  # in a process of its own: setting a store also writes the environment
        "import mlflow, pandas as pd\n"
        f"mlflow.set_tracking_uri({uri!r})\n"
        f"model = mlflow.pyfunc.load_model('models:/{model.model_id}')\n"
        f"frame = pd.read_parquet({str(labelled)!r}).head(50)\n"
        "frame = frame.drop(columns=['clicked', 'bought', 'liked'])\n"
        f"model.predict(frame).to_parquet({str(scores)!r})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=home
    )
    assert done.returncode == 0, done.stderr[-3000:]
    scored = pl.read_parquet(scores)
    expected = SavedModel.load(home_run / "model").predict(pl.read_parquet(labelled).head(50))
    assert scored.columns == [f"probability_{n}" for n in ("clicked", "bought", "liked")]
    np.testing.assert_allclose(scored.to_numpy(), expected, atol=1e-7)


@pytest.mark.parametrize("balance", ["uncertainty", pytest.param("dwa", marks=pytest.mark.slow)])
def test_a_run_continues_where_it_stopped(
    balance: str, run: Run, labelled: Path, home: Path
) -> None:
    """Killed in the middle of an epoch, after what the balance has learnt from three."""
    common = [
        *arguments(labelled, "singletask"), f"tasks.balance={balance}", "tracking=none",
        "importance_rows=0", "trainer.patience=0", "trainer.epochs=8",
        "trainer.checkpoint_every=7",
    ]  # fmt: skip
    whole, killed = home / f"whole_{balance}", home / f"killed_{balance}"
    run("pipelines.train", *common, f"output_dir={whole}")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.train", *common, f"output_dir={killed}"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoints/step-0000003?")):
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = run("pipelines.train", *common, f"output_dir={killed}", "trainer.resume=auto")
    assert re.search(r"continuing after step \d+", done.stdout)
    one, other = (json.loads((p / "result.json").read_text())["metrics"] for p in (whole, killed))
    assert one == other


def test_a_model_of_one_label_refuses_several(told: Run, labelled: Path) -> None:
    done = told(
        "pipelines.train", "ctr=mlp", "data=parquet", f"data.path={labelled}",
        "data.labels=[clicked,liked]", "tracking=none",
    )  # fmt: skip
    assert done.returncode == 2
    assert "MLP learns one label, but this data has 2: clicked, liked" in done.stderr
    done = told(
        "pipelines.train", "mtl=mmoe", "data=parquet", f"data.path={labelled}",
        "data.label=clicked", "tracking=none",
    )  # fmt: skip
    assert done.returncode == 2
    assert "MMoE learns several labels, but this data has 1 (clicked)" in done.stderr


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ctr=mlp", "tasks.balance=dwa"], r"tasks\.\* weighs the labels of mtl models"),
        (["mtl=mmoe", "tasks.balance=dawa"], r'tasks\.balance="dawa" does not exist.*dwa'),
        (["mtl=mmoe", "gate=optfs"], "gate=optfs is for ctr models"),
        (["mtl=mmoe", "mtl.num_experts=0"], "num_experts is 0"),
        (["mtl=home", "mtl.categories=[a,b]"], "list of lists"),
        (["mtl=mmoe", "tasks.weights.click=-1"], r"tasks\.weights\.click=-1"),
    ],
)
def test_impossible_settings_are_refused_before_data_is_read(
    overrides: list[str], message: str
) -> None:
    cfg = config.compose("train", overrides)
    with pytest.raises(ConfigError, match=message):
        TrainingRun(cfg, config.chosen_model(cfg)[0])


def test_weights_of_unknown_labels_are_named(told: Run, labelled: Path) -> None:
    done = told(
        "pipelines.train", *arguments(labelled, "mmoe"), "tasks.weights.boughd=2",
        "tracking=none",
    )  # fmt: skip
    assert done.returncode == 2
    assert "tasks.weights.boughd is of no label" in done.stderr
    assert "bought" in done.stderr


@pytest.mark.slow
def test_opposed_labels_spoil_a_shared_bottom_and_not_experts_of_their_own(
    run: Run, home: Path
) -> None:
    """The README's table, on three of its seeds: what the label that opposes the others reaches."""
    reached: dict[str, list[float]] = {}
    for model in ("sharedbottom", "ple", "home"):
        for seed in (1, 2, 3):
            folder = home / f"opposed_{model}_{seed}"
            run(
                "pipelines.train", f"experiment=synthetic_tasks_{model}", f"seed={seed}",
                "tracking=none", "importance_rows=0", f"output_dir={folder}",
            )  # fmt: skip
            result = json.loads((folder / "result.json").read_text())
            reached.setdefault(model, []).append(result["metrics"]["test"]["opposed/auc"])
    assert np.mean(reached["sharedbottom"]) < 0.82
    assert min(reached["ple"]) > 0.825
    assert min(reached["home"]) > 0.825
