"""python -m pipelines.tune as a person runs it: stopped, killed, started twice."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import polars as pl
import pytest

from pipelines.tune import tune
from recsys import config
from recsys.errors import ConfigError
from tests.pipelines.conftest import ROOT, Run, mine


@pytest.fixture(scope="module")
def keys(clicks: Path, home: Path) -> list[str]:
    path = home / "few.parquet"
    pl.read_parquet(clicks)[:2000].write_parquet(path)
    space = "search.space={optimizer.lr: {low: 1e-3, high: 1e-1, log: true}}"
    nulls = ["embedding.dim", "ctr.num_layers", "ctr.num_heads", "ctr.attention_dim",
             "ctr.hidden_dims", "ctr.dropout", "ctr.hidden_dropout"]  # fmt: skip
    return [*mine(path), space, *[f"search.space.{one}=null" for one in nulls], "tracking=none",
            "search.pruner=none", "console=plain"]  # fmt: skip


def start(home: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pipelines.tune", *arguments],
        cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def states(home: Path, name: str) -> list[str]:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{home}/{name}.db")
    return [one.state.name for one in study.trials]


def until(process: subprocess.Popen[str], home: Path, name: str, wanted: int) -> None:
    """Wait until so many trials of a study have begun."""
    deadline = time.monotonic() + 120
    while True:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        try:
            if len(states(home, name)) >= wanted:
                return
        except Exception:
            pass  # the study is not there yet
        time.sleep(0.1)


def of(name: str, home: Path) -> list[str]:
    return [f"search.study={name}", f"search.storage=sqlite:///{home}/{name}.db",
            f"output_dir={home}/{name}"]  # fmt: skip


def test_ctrl_c_ends_cleanly_and_the_next_call_goes_on(
    run: Run, keys: list[str], home: Path
) -> None:
    long = [*keys, *of("stopped", home), "trainer.epochs=3000", "trainer.patience=0"]
    process = start(home, *long, "search.trials=2")
    until(process, home, "stopped", 1)
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in errors
    assert "Traceback" not in errors
    assert states(home, "stopped") == ["FAIL", "WAITING"]


def test_a_killed_search_is_taken_over(run: Run, keys: list[str], home: Path) -> None:
    mine = [*keys, *of("killed", home), "search.trials=2", "trainer.patience=0"]
    process = start(home, *mine, "trainer.epochs=30", "trainer.eval_every=1")
    until(process, home, "killed", 1)
    process.kill()
    process.wait()
    assert states(home, "killed") == ["RUNNING"]
    done = run("pipelines.tune", *mine, "trainer.epochs=30", "trainer.eval_every=1")
    assert "saved in" in done.stdout
    assert states(home, "killed") == ["FAIL", "COMPLETE", "COMPLETE"]


def test_two_processes_work_on_one_study(keys: list[str], home: Path) -> None:
    mine = [*keys, *of("shared", home), "search.trials=6"]
    processes = [start(home, *mine) for _ in range(2)]
    outputs = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert states(home, "shared").count("COMPLETE") in (6, 7)
    told = [out.count(" trial ") for out, _ in outputs]
    assert min(told) >= 1, outputs
    result = json.loads((home / "shared" / "result.json").read_text())
    table = pl.read_csv(home / "shared" / "trials.csv")
    assert result["best"]["value"] == table["value"].max()
    assert table["optimizer.lr"].n_unique() == len(table)


def test_the_console_tells_the_story(run: Run, keys: list[str], home: Path) -> None:
    mine = [*keys, *of("told", home)]
    first = run("pipelines.tune", *mine, "search.trials=1").stdout
    assert "study told: optimizer.lr" in first
    assert "1/1  trial 0 done  auc 0." in first
    assert f"next: python -m pipelines.train experiment={home}/told/best.yaml" in first
    again = run("pipelines.tune", *mine, "search.trials=2").stdout
    assert "continuing study told: 1 of 2 trials done" in again
    assert "\x1b" not in again


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "choose exactly one model"),
        (["cf=lightgcn"], "has no user-item pairs"),
        (["ctr=autoint", "search.trails=3"], "Did you mean search.trials?"),
        (["ctr=autoint", "search=autoitn"], "Did you mean autoint?"),
        (["ctr=autoint", "search.space.ctr.num_head=[1]"], "Did you mean ctr.num_heads"),
        (["ctr=autoint", "search.storage=nonsense"], "search.storage=nonsense"),
        (["experiment=nowhere.yaml"], "experiment=nowhere.yaml cannot be read"),
    ],
)
def test_wrong_usage_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        tune(config.compose("tune", [*arguments, "data.rows=500", "console=none"]))
    assert message in str(error.value)


def test_wrong_usage_is_one_sentence(run: Run) -> None:
    done = run("pipelines.tune", "ctr=autoint", "search.trails=3", check=False)
    assert done.returncode == 2
    assert done.stderr == "error: search.trails is not an option. Did you mean search.trials?\n"


def test_help_answers_without_loading_anything_heavy(run: Run) -> None:
    done = run("pipelines.tune", "--help")
    for piece in ("python -m pipelines.tune ctr=autoint", "search", "dcnv2", "seed "):
        assert piece in done.stdout
    code = (
        "import sys, pipelines.tune\n"
        "print({'torch', 'optuna', 'mlflow', 'polars'} & set(sys.modules))\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "set()"
