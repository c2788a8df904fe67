"""The launcher on a local Ray, which stands for two machines, against torchrun itself."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipelines import ray_launch
from tests.pipelines.conftest import ROOT, mine

STARTED = "import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('here'); "


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--machines", "0", "ctr=fm"], "--machines 0; it must be 1 or more"),
        (["--restarts", "-1", "ctr=fm"], "--restarts -1; it must be 0 or more"),
        (["--machine", "2", "ctr=fm"], "--machine is not an option"),
        (["--address", "nowhere", "ctr=fm"], "--address=nowhere; allowed: auto, local"),
    ],
)
def test_mistakes_are_said_at_once(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    class Ray:
        @staticmethod
        def is_initialized() -> bool:
            return False

    monkeypatch.setitem(sys.modules, "ray", Ray())
    try:
        code: Any = ray_launch.main(arguments)
    except SystemExit as end:
        code = end.code
    assert code == 2
    assert said in capsys.readouterr().err


def test_a_launcher_takes_its_processes_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cancelled, it does not leave a training behind that nobody waits for."""
    marker, started = tmp_path / "started", []
    real = subprocess.Popen

    def popen(*arguments: Any, **keys: Any) -> Any:
        started.append(real(*arguments, **keys))
        return started[-1]

    def cancelled(seconds: float) -> None:
        del seconds
        if marker.exists():
            raise KeyboardInterrupt

    monkeypatch.setattr(ray_launch.subprocess, "Popen", popen)
    monkeypatch.setattr(ray_launch, "time", SimpleNamespace(sleep=cancelled))
    with pytest.raises(KeyboardInterrupt):
        ray_launch._start(["-c", STARTED + "import time; time.sleep(99)", str(marker)], {}, ".")
    assert started[0].returncode is not None
    monkeypatch.undo()
    command = ["-c", "import os, sys; sys.exit(int(os.environ['CODE']))"]
    assert ray_launch._start(command, {"CODE": "3"}, str(tmp_path)) == 3


def test_what_cannot_be_had_is_said(
    two_workers: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(ray_launch, "PLACES_SECONDS", 1)
    monkeypatch.chdir(tmp_path)
    assert ray_launch.main(["--gpus", "8", "ctr=fm"]) == 2
    said = capsys.readouterr().err
    assert "1 times 1 CPU, 8 GPU were not free within 1 s; the cluster has 2 CPU and 0 GPU" in said


@pytest.mark.slow
def test_two_machines_train_what_torchrun_trains(
    two_workers: object, home: Path, clicks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = [*mine(clicks), "tracking=none", "importance_rows=0", "trainer.epochs=2"]
    keys += ["trainer.patience=0", "optimizer=rowwise_adagrad", "embedding.sharding=row_wise"]
    monkeypatch.chdir(home)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    two = ["--machines", "2", "--restarts", "0"]
    assert ray_launch.main([*two, *keys, "output_dir=outputs/by-ray"]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    subprocess.run(
        [*torchrun, "-m", "pipelines.train", *keys, "output_dir=outputs/by-torchrun"],
        cwd=home, env=dict(os.environ), capture_output=True, timeout=600, check=True,
    )  # fmt: skip
    by_ray, by_torchrun = (
        json.loads((home / "outputs" / name / "result.json").read_text())["metrics"]
        for name in ("by-ray", "by-torchrun")
    )
    assert by_ray == by_torchrun
    assert by_ray["test"]["auc"] > 0.6


@pytest.mark.slow
def test_a_training_that_fails_ends_all_launchers(
    two_workers: object, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert ray_launch.main(["--machines", "2", "--restarts", "0", "trainer.batch_size=abc"]) != 0
