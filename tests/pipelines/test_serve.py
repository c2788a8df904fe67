"""python -m pipelines.serve: the scores of pipelines.evaluate and the lists of pipelines.recommend,
over HTTP, to the bit."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from pipelines.serve import serve
from recsys import config
from recsys.errors import ConfigError
from tests.pipelines.conftest import ROOT, Run
from tests.serving.process import ServerProcess

CLIENT = httpx.Client(timeout=30, verify=False)


def test_scores_are_those_of_evaluate_to_the_bit(
    trained: Path, run: Run, clicks: Path, home: Path
) -> None:
    rows = pl.read_parquet(clicks).drop("clicked").slice(1000, 333)
    rows.write_parquet(home / "asked.parquet")
    out = home / "asked"
    run("pipelines.evaluate", f"run={trained}", f"data.path={home / 'asked.parquet'}",
        f"output_dir={out}")  # fmt: skip
    expected = pl.read_parquet(out / "predictions.parquet")["probability"].to_numpy()
    with ServerProcess(home, f"run={trained}") as server:
        assert CLIENT.get(f"{server.url}/health").json()["exact"] is True
        found: list[float] = []
        at = 0
        for size in (1, 2, 100, 7, 223):
            part = rows.slice(at, size).to_dicts()
            at += size
            answer = CLIENT.post(f"{server.url}/score", json={"rows": part})
            found += answer.json()["scores"]["probability"]
        np.testing.assert_array_equal(np.array(found, np.float32), expected)
        shown = server.printed().replace("\n", " ")
        (command,) = [line for line in server.printed().splitlines() if line.startswith("curl ")]
        done = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
        assert json.loads(done.stdout)["scores"]["probability"]
        assert "AutoInt of run" in shown
        taken = run("pipelines.serve", f"run={trained}", f"port={server.port}", check=False)
        assert taken.returncode == 2
        assert "in use" in taken.stderr
        assert "Traceback" not in taken.stderr


def test_lists_are_those_of_recommend(run: Run, pair_table: Path, home: Path) -> None:
    cf = home / "served-cf"
    run(
        "pipelines.train", "cf=bprmf", "data=interactions", f"data.path={pair_table}",
        "trainer.epochs=2", "cf.embed_dim=8", "ks=[5]", "trainer.monitor=recall_at_5",
        f"output_dir={cf}", "tracking=none",
    )  # fmt: skip
    pl.DataFrame({"user": ["p3", "p41"]}).write_parquet(home / "two.parquet")
    run("pipelines.recommend", f"run={cf}", f"users={home / 'two.parquet'}", "k=4",
        f"output_dir={home / 'two'}")  # fmt: skip
    expected = pl.read_parquet(home / "two" / "recommendations.parquet")
    with ServerProcess(home, f"run={cf}", "fallback=popularity") as server:
        body = {"users": ["p3", "p41", "nobody"], "k": 4}
        answers = CLIENT.post(f"{server.url}/recommend", json=body).json()["recommendations"]
    assert answers[2]["source"] == "popularity"
    for answer in answers[:2]:
        wanted = expected.filter(pl.col("user") == answer["user"])
        assert [one["item"] for one in answer["items"]] == wanted["item"].to_list()
        scores = np.array([one["score"] for one in answer["items"]], np.float32)
        np.testing.assert_array_equal(scores, wanted["score"].to_numpy())


def test_help_answers_without_loading_anything_heavy(run: Run) -> None:
    done = run("pipelines.serve", "--help")
    for piece in ("python -m pipelines.serve run=<run id>", "curl ", "reload_every", "limits"):
        assert piece in done.stdout
    code = (
        "import sys, pipelines.serve\n"
        "print({'torch', 'fastapi', 'uvicorn', 'mlflow', 'polars'} & set(sys.modules))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "run is missing"),
        (["run=x", "port=-1"], "port=-1"),
        (["run=x", "port=http"], "port=http"),
        (["run=x", "reload_every=-1"], "reload_every=-1"),
        (["run=x", "threads=0"], "threads=0"),
        (["run=x", "fallback=random"], "fallback=random; allowed: popularity"),
        (["run=x", "limits.max_rows=0"], "max_rows=0; it must be above 0"),
        (["run=x", "limits.max_rows=many"], "limits.max_rows='many'"),
        (["run=x", "host=no such host", "port=0"], "host=no such host"),
        (["run=nowhere", "port=0"], "run=nowhere"),
        (["run=models:/x", "port=0"], "models:/<name>@<alias>"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(
    arguments: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError) as error:
        serve(config.compose("serve", [*arguments, "console=none"]))
    assert message in str(error.value)


def test_keys_of_the_other_kind_are_refused(trained: Path) -> None:
    for key in ("index=somewhere", "fallback=popularity"):
        with pytest.raises(ConfigError, match=f"{key} is for models of users and items"):
            serve(config.compose("serve", [f"run={trained}", key, "port=0", "console=none"]))


@pytest.mark.slow
def test_mlflow_serves_the_logged_model_too(trained: Path, home: Path, clicks: Path) -> None:
    """`mlflow models serve` in a process of its own: the same scores from the same raw columns."""
    import mlflow

    uri = f"sqlite:///{home}/outputs/mlflow.db"
    client = mlflow.MlflowClient(tracking_uri=uri)
    run_id = json.loads((trained / "result.json").read_text())["run_id"]
    experiment = client.get_run(run_id).info.experiment_id
    (model,) = (
        one for one in client.search_logged_models([experiment]) if one.source_run_id == run_id
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = (home / "mlflow-serve.txt").open("w")
    # MLflow starts uvicorn by its name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "models", "serve", "-m", f"models:/{model.model_id}",
         "-p", str(port), "--env-manager", "local"],
        env={**os.environ, "MLFLOW_TRACKING_URI": uri, "OMP_NUM_THREADS": "1", "PATH": path},
        cwd=home, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        answer = _asked(port, pl.read_parquet(clicks).drop("clicked").head(30), process)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        log.close()
    from recsys.models.saved import SavedModel

    expected = SavedModel.load(trained / "model").predict(pl.read_parquet(clicks).head(30))
    found = np.array([one["probability"] for one in answer["predictions"]], np.float32)
    np.testing.assert_array_equal(found, expected)


def _asked(port: int, rows: pl.DataFrame, process: subprocess.Popen[bytes]) -> Any:
    body = {"dataframe_split": {"columns": rows.columns, "data": [list(r) for r in rows.rows()]}}
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline:
        assert process.poll() is None, "it has ended; see mlflow-serve.txt"
        try:
            found = CLIENT.post(f"http://127.0.0.1:{port}/invocations", json=body)
        except httpx.TransportError:
            time.sleep(0.5)
            continue
        assert found.status_code == 200, found.text
        return found.json()
    raise AssertionError("mlflow did not answer")
