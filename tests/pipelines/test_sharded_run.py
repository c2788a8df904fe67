"""Sharded runs as a person starts them: torchrun, real processes, one of them killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import psutil
import pytest

from tests.pipelines.conftest import ROOT, Run, mine

SHARDED = ["embedding.sharding=row_wise", "optimizer=rowwise_adagrad", "importance_rows=0"]
PAIR = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def arguments(clicks: Path, folder: Path, *more: str) -> list[str]:
    keys = [*mine(clicks), "trainer.patience=0", "trainer.log_every=1", "tracking=none"]
    return [*keys, *SHARDED, f"output_dir={folder}", *more]


@pytest.fixture(scope="module")
def whole(run: Run, clicks: Path, home: Path) -> Path:
    """A run on two processes that nothing has disturbed."""
    folder = home / "whole-pair"
    more = ["trainer.epochs=6", "trainer.checkpoint_every=3"]
    done = run(*PAIR, "-m", "pipelines.train", *arguments(clicks, folder, *more))
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


def test_the_plan_is_printed_and_stored(whole: Path) -> None:
    assert "Plan for 2 processes, cpu" in (whole / "stdout.txt").read_text()
    plan = json.loads((whole / "plan.json").read_text())
    assert [one["table"] for one in plan] == ["user", "item", "city", "tags"]
    assert all(one["sharding"] == "row_wise" and one["ranks"] == [0, 1] for one in plan)
    assert json.loads((whole / "result.json").read_text())["plan"] == plan


def test_the_model_it_leaves_is_plain(whole: Path, run: Run, clicks: Path, home: Path) -> None:
    """Evaluation and serving need neither the processes nor TorchRec."""
    run("pipelines.evaluate", f"run={whole}", f"data.path={clicks}", f"output_dir={home}/plain")
    from recsys.models.saved import SavedModel

    found = pl.read_parquet(home / "plain" / "predictions.parquet")["probability"].to_numpy()
    expected = SavedModel.load(whole / "model").predict(pl.read_parquet(clicks))
    assert abs(found - expected).max() < 1e-6
    assert expected.std() > 0.05


@pytest.mark.slow
def test_a_killed_process_is_started_again_and_the_result_is_the_same(
    whole: Path, clicks: Path, home: Path
) -> None:
    """kill -9 of the second process in the middle of an epoch; torchrun starts both again."""
    folder = home / "killed-pair"
    more = ["trainer.epochs=6", "trainer.checkpoint_every=3"]
    command = [sys.executable, "-m", *PAIR[:2], "--max-restarts", "1", *PAIR[2:]]
    launcher = subprocess.Popen(
        [*command, "-m", "pipelines.train", *arguments(clicks, folder, *more)],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not list(folder.glob("checkpoints/step-0000001?")):
        assert launcher.poll() is None, launcher.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second = next(
        child
        for child in psutil.Process(launcher.pid).children()
        if child.environ().get("RANK") == "1"
    )
    os.kill(second.pid, signal.SIGKILL)
    output = launcher.communicate(timeout=240)[0]
    assert launcher.returncode == 0, output[-3000:]
    assert "continuing after step" in output
    found, expected = (json.loads((f / "result.json").read_text()) for f in (folder, whole))
    assert found["metrics"] == expected["metrics"]
    assert found["steps"] == expected["steps"]


@pytest.mark.slow
def test_two_processes_continue_as_one(run: Run, clicks: Path, home: Path, whole: Path) -> None:
    """Stopped on two processes, finished on one, split in another way."""
    folder = home / "moved"
    more = ["trainer.epochs=6", "trainer.checkpoint_every=3"]
    launcher = subprocess.Popen(
        [sys.executable, "-m", *PAIR, "-m", "pipelines.train", *arguments(clicks, folder, *more)],
        cwd=home,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 240
    while not list(folder.glob("checkpoints/step-0000001?")):
        assert launcher.poll() is None, launcher.communicate()[0][-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for child in psutil.Process(launcher.pid).children():
        child.kill()
    assert launcher.wait(timeout=60) != 0
    keys = arguments(clicks, folder, *more, "embedding.sharding=table_wise", "trainer.resume=auto")
    done = run("pipelines.train", *keys)
    assert "continuing after step" in done.stdout
    found, expected = (json.loads((f / "result.json").read_text()) for f in (folder, whole))
    for name, value in expected["metrics"]["test"].items():
        assert found["metrics"]["test"][name] == pytest.approx(value, abs=1e-4), name


def test_a_table_that_is_not_there_is_one_sentence_and_no_hang(
    told: Run, clicks: Path, home: Path
) -> None:
    """What only the data can tell: every process refuses, in the same words."""
    keys = [*mine(clicks), "optimizer=rowwise_adagrad", "tracking=none"]
    keys += ["embedding.sharding={usr: row_wise}", f"output_dir={home}/usr"]
    done = told("pipelines.train", *keys)
    assert done.returncode == 2
    assert 'embedding.sharding names "usr", which has no table. Did you mean user?' in done.stderr
    assert "Traceback" not in done.stderr
