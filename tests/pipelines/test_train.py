"""python -m pipelines.train on a person's own table, from the first error to the tracked model."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from tests.pipelines.conftest import ROOT, Run, mine


def test_result_json_has_its_keys(trained: Path, home: Path) -> None:
    result = json.loads((trained / "result.json").read_text())
    assert json.loads((home / "copy.json").read_text()) == result
    for key in (
        "run_id", "model", "data", "seed", "config", "data_digest", "num_parameters", "metrics",
        "epochs", "fit_seconds", "train_rows_per_second", "peak_memory_mib",
    ):  # fmt: skip
        assert key in result, key
    assert result["model"] == "autoint"
    assert result["data"] == "clicks"
    assert result["epochs"] == 2
    for split in ("val", "test"):
        assert 0.5 < result["metrics"][split]["auc"] < 1
        assert {"auc", "logloss", "ne", "calibration", "ece"} <= result["metrics"][split].keys()


def test_the_console_tells_the_story_in_plain_text(trained: Path) -> None:
    text = (trained / "stdout.txt").read_text()
    assert "\x1b" not in text
    for piece in ("AutoInt on clicks", "columns", "price", "embedding", "auc", "next: python -m"):
        assert piece.lower() in text.lower(), piece
    assert max(len(line) for line in text.splitlines()) < 250


def test_the_output_folder_is_complete(trained: Path) -> None:
    for name in (
        "config.yaml", "result.json", "model/model.json", "model/weights.safetensors",
        "model/pipeline/pipeline.json", "plots/training_curve.png", "plots/test_calibration.csv",
        "plots/attention.png", "checkpoints/best.json",
    ):  # fmt: skip
        assert (trained / name).is_file(), name
    assert not list(trained.rglob("*.pkl"))
    for figure in (trained / "plots").glob("*.png"):
        assert figure.stat().st_size < 200_000


def test_mlflow_has_parameters_metrics_data_and_a_model_that_takes_raw_columns(
    trained: Path, home: Path, clicks: Path
) -> None:
    import mlflow

    uri = f"sqlite:///{home}/outputs/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri)
    result = json.loads((trained / "result.json").read_text())
    run = client.get_run(result["run_id"])
    assert client.get_experiment(run.info.experiment_id).name == "recsys/clicks"
    assert run.info.status == "FINISHED"
    assert run.data.params["ctr.num_layers"] == "1"
    assert run.data.tags["seed"] == "0"
    assert run.data.metrics["test/auc"] == result["metrics"]["test"]["auc"]
    assert len(client.get_metric_history(run.info.run_id, "val/auc")) == 2
    assert len(run.data.metrics) <= 40
    contexts = [item.tags[0].value for item in run.inputs.dataset_inputs]
    assert sorted(contexts) == ["test", "training", "validation"]
    models = client.search_logged_models([run.info.experiment_id])
    (model,) = (one for one in models if one.source_run_id == run.info.run_id)
    code = (
        "import sys, mlflow, pandas as pd\n"
        f"mlflow.set_tracking_uri({uri!r})\n"
        f"model = mlflow.pyfunc.load_model('models:/{model.model_id}')\n"
        f"frame = pd.read_parquet({str(clicks)!r}).head(50)\n"
        "print(model.metadata.signature.inputs.input_names())\n"
        "print(*model.predict(frame.drop(columns='clicked'))['probability'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=home
    )
    assert done.returncode == 0, done.stderr[-3000:]
    names, scores = done.stdout.strip().splitlines()[-2:]
    assert names == "['user', 'item', 'price', 'city', 'tags']"
    from recsys.models.saved import SavedModel

    frame = pl.read_parquet(clicks).head(50)
    ours = SavedModel.load(trained / "model").predict(frame)
    assert [float(score) for score in scores.split()] == pytest.approx(ours.tolist(), abs=1e-7)


def test_kill_and_resume_give_the_losses_of_an_uninterrupted_run(
    run: Run, clicks: Path, home: Path
) -> None:
    """SIGKILL in the middle of training; the metrics series in MLflow is whole afterwards."""
    keys = [*mine(clicks), "trainer.epochs=12", "trainer.patience=0", "trainer.log_every=1"]
    keys += ["trainer.checkpoint_every=3"]
    whole, killed = home / "whole", home / "killed"
    run("pipelines.train", *keys, f"output_dir={whole}", "tracking=none")
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.train", *keys, f"output_dir={killed}"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(killed.glob("checkpoints/step-0000001?")):
        assert process.poll() is None, "the run ended before it was killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "result.json").exists()
    done = run("pipelines.train", *keys, f"output_dir={killed}", "trainer.resume=auto")
    assert re.search(r"continuing after step \d+", done.stdout)

    def curve(folder: Path) -> list[str]:
        lines = (folder / "plots" / "training_curve.csv").read_text().splitlines()
        return [line for line in lines if line.startswith(("train/loss", "val/auc"))]

    assert curve(killed) == curve(whole)
    one, two = (json.loads((f / "result.json").read_text()) for f in (whole, killed))
    assert one["metrics"] == two["metrics"]
    assert one["num_parameters"] == two["num_parameters"]


def test_ctrl_c_saves_and_names_the_way_back(run: Run, clicks: Path, home: Path) -> None:
    folder = home / "interrupted"
    keys = [*mine(clicks), "trainer.epochs=500", "trainer.patience=0", f"output_dir={folder}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines.train", *keys, "trainer.log_every=1"],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not list(folder.glob("checkpoints/step-*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "trainer.resume=auto" in errors
    assert "Traceback" not in errors
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{home}/outputs/mlflow.db")
    experiment = client.get_experiment_by_name("recsys/clicks")
    runs = client.search_runs([experiment.experiment_id])
    assert "KILLED" in {found.info.status for found in runs}


def test_a_menu_and_suggestions_come_before_anything_heavy(run: Run, clicks: Path) -> None:
    done = run("pipelines.train", check=False)
    assert done.returncode == 2
    assert re.search(r"ctr: .*\bautoint\b.*\bdcnv2\b", done.stderr)
    assert "Traceback" not in done.stderr
    done = run("pipelines.train", "ctr=autoint", "ctr.num_head=4", check=False)
    assert done.returncode == 2
    assert "Did you mean ctr.num_heads" in done.stderr
    loaded = run("pipelines.train", "--help", check=False).stdout
    assert "Choices" in loaded
    assert "data=parquet" in loaded


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["data.label=clickd"], "Did you mean clicked"),
        (["data.path=missing.parquet"], "missing.parquet"),
        (["ctr.num_heads=3", "ctr.attention_dim=64"], "num_heads"),
        (["optimizer=lazy_adam", "+optimizer.embedding_l2=0.1"], "optimizer=adam"),
        (["data.fields.user.kind=sparse"], "sparse"),
        (["trainer.epochs=0"], "trainer.epochs=0"),
        (["tracking.uri=sqlite:////proc/none/mlflow.db"], "tracking=none"),
        (["trainer.resume=nowhere"], "no checkpoint of this configuration"),
    ],
)
def test_bad_input_is_one_sentence_with_a_remedy(
    told: Run, clicks: Path, extra: list[str], message: str
) -> None:
    done = told("pipelines.train", *mine(clicks), *extra)
    assert done.returncode in (1, 2)
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_gates_leave_a_smaller_model_that_scores_the_same(
    run: Run, clicks: Path, home: Path
) -> None:
    folder = home / "gated"
    keys = ["ctr=fm", "data=parquet", f"data.path={clicks}", "data.label=clicked"]
    keys += ["gate=optfs", "gate.search_epochs=8", "gate.gate_l1=0.2", "gate.lr=0.02"]
    keys += ["trainer.epochs=2", "trainer.batch_size=512", "optimizer.lr=0.05"]
    done = run("pipelines.train", *keys, f"output_dir={folder}")
    assert "training again from epoch 1" in done.stdout
    result = json.loads((folder / "result.json").read_text())
    gate = result["gate"]
    assert 0 < gate["kept_rows"] < gate["seen_rows"] < gate["rows"]
    assert gate["fields"].keys() == {"user", "item", "city", "tags"}
    assert sum(one["kept"] for one in gate["fields"].values()) == gate["kept_rows"]
    assert gate["table_bytes"] == (gate["kept_rows"] + 1) * 17 * 4 < gate["full_table_bytes"]
    assert result["embedding_bytes"]["serving"] == gate["table_bytes"] + gate["map_bytes"]
    assert result["parameters"]["embedding"] * 4 == gate["table_bytes"]
    assert (folder / "plots" / "kept_rows.png").is_file()

    import mlflow

    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{home}/outputs/mlflow.db")
    metrics = client.get_run(result["run_id"]).data.metrics
    assert metrics["gate/kept_share"] == gate["kept_share"]

    scored = run(
        "pipelines.evaluate", f"run={folder}", f"data.path={clicks}", f"output_dir={home}/scored"
    )
    assert "auc" in scored.stdout
    from recsys.models.saved import SavedModel

    saved = SavedModel.load(folder / "model")
    assert saved.recommender.lookup.storage.num_rows == gate["kept_rows"] + 1
    found = pl.read_parquet(home / "scored" / "predictions.parquet")["probability"].to_numpy()
    expected = saved.predict(pl.read_parquet(clicks))
    assert abs(found - expected).max() < 1e-6
