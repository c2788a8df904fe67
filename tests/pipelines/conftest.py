"""Pipelines run as a person runs them: real processes, real files, a real MLflow store."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys import config

ROOT = Path(__file__).parents[2]
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session")
def clicks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's own table: strings, integers, numbers, a list, nulls, a label."""
    rng = np.random.default_rng(0)
    rows = 6000
    user, item = rng.integers(0, 60, rows), rng.integers(0, 80, rows)
    price = rng.lognormal(size=rows)
    logit = rng.normal(size=60)[user] + rng.normal(size=80)[item] + 0.3 * np.log(price)
    city = [None if x < 0.1 else f"city {int(x * 10)}" for x in rng.random(rows)]
    frame = pl.DataFrame(
        {
            "user": user,
            "item": [f"item-{i}" for i in item],
            "price": price,
            "city": city,
            "tags": [[f"t{t}" for t in rng.integers(0, 5, rng.integers(0, 4))] for _ in item],
            "clicked": (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8),
        },
        schema_overrides={"tags": pl.List(pl.String)},
    )
    path = tmp_path_factory.mktemp("clicks") / "clicks.parquet"
    frame.write_parquet(path)
    return path


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty working directory: outputs and the store of the runs lie here."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def run(home: Path) -> Run:
    """Run `python -m <module> <arguments>` in the working directory."""

    def start(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=home,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done

    return start


@pytest.fixture
def told(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """As `run`, in this process: for what is refused, where to start another takes longer than all
    the rest. That a process ends with the same words and code is tested once, in test_train."""

    def start(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        name = module.rpartition(".")[2]
        monkeypatch.chdir(home)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.setattr(sys, "argv", [module, *arguments])
        capsys.readouterr()
        code = 0
        try:
            config.main(getattr(importlib.import_module(module), name), name)
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return subprocess.CompletedProcess([module, *arguments], code, said.out, said.err)

    return start


SMALL = ["trainer.epochs=2", "trainer.batch_size=512", "ctr.num_layers=1", "embedding.dim=8"]


def mine(clicks: Path) -> list[str]:
    """Arguments of a quick training run on the person's own table."""
    return ["ctr=autoint", "data=parquet", f"data.path={clicks}", "data.label=clicked", *SMALL]


@pytest.fixture(scope="session")
def trained(run: Run, clicks: Path, home: Path) -> Path:
    """Output folder of one run, tracked in MLflow."""
    folder = home / "first"
    done = run(
        "pipelines.train", *mine(clicks), f"output_dir={folder}", f"result_file={home}/copy.json"
    )
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


@pytest.fixture(scope="session")
def pair_table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two groups of people, each with a half of the items to itself."""
    rng = np.random.default_rng(0)
    rows = [
        (f"p{user}", f"i{item}")
        for user in range(60)
        for item in range(40)
        if rng.random() < (0.45 if user % 2 == item % 2 else 0.03)
    ]
    path = tmp_path_factory.mktemp("pairs") / "pairs.parquet"
    pl.DataFrame(rows, schema=["user", "item"], orient="row").write_parquet(path)
    return path
