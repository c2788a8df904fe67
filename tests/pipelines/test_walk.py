"""A newcomer's walk: the README's commands, in its order, on a table of one's own."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.pipelines.conftest import ROOT

README = (ROOT / "README.md").read_text()
WORDS = " ".join(README.replace("`", " ` ").split())
"""The README without line breaks: a command may be wrapped."""


class Walk:
    """Runs commands that stand in the README, in a folder that was empty.

    Args:
        home: The folder.
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self.stands_for: dict[str, str] = {}
        """What a text of the README is: `<run id>` that of a run."""

    def go(self, command: str, *more: str) -> str:
        """Run a command, with more words that make it quick, and return what it prints."""
        assert f"python -m {command}" in WORDS, "the README has no such command any more"
        for name, value in self.stands_for.items():
            command = command.replace(name, value)
        return self.run(*command.split(), *more)

    def run(self, *words: str) -> str:
        """Run a command that the README leaves to the reader."""
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        done = subprocess.run(
            [sys.executable, "-m", *words],
            cwd=self.home, env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
        return done.stdout


@pytest.mark.slow
def test_from_a_table_to_a_recommendation(clicks: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(clicks)
    frame.head(5000).write_parquet(tmp_path / "clicks.parquet")
    frame.tail(1000).write_parquet(tmp_path / "new.parquet")
    pairs = frame.filter(pl.col("clicked") == 1).select("user", "item").unique(maintain_order=True)
    pairs.write_parquet(tmp_path / "pairs.parquet")
    walk = Walk(tmp_path)
    mine = "data=parquet data.path=clicks.parquet data.label=clicked"
    small = ("trainer.batch_size=512", "trainer.epochs=2")

    assert "clicked" in walk.go(f"pipelines.prepare {mine}")
    printed = walk.go(f"pipelines.train ctr=autoint {mine}", *small, "ctr.num_layers=1")
    told = re.search(r"pipelines\.evaluate run=(\w+)", printed)
    assert told is not None, "the last line of a training gives the id that other commands take"
    walk.stands_for["<run id>"] = told.group(1)
    walk.run("pipelines.train", "ctr=lr", *mine.split(), *small)
    compared = walk.go("pipelines.compare baseline=lr", "bootstrap=20")
    assert {"autoint", "lr", "baseline"} <= set(compared.split())
    assert "1,000 rows" in walk.go("pipelines.evaluate run=<run id> data.path=new.parquet")

    ranked = walk.go(f"pipelines.rank_features {mine}", "ranking.halves=0", "output_dir=ranked")
    assert "ranked/ranking.csv" in ranked

    walk.go(
        "pipelines.train cf=lightgcn data=interactions data.path=pairs.parquet "
        "output_dir=runs/films",
        "trainer.epochs=5", "cf.embed_dim=8",
    )  # fmt: skip
    folder = "runs/films"
    walk.go(f"pipelines.export_embeddings run={folder} output_dir={folder}/vectors")
    walk.go(f"pipelines.build_index embeddings={folder}/vectors output_dir={folder}/index")
    shown = walk.go(f"pipelines.recommend run={folder} user=1 k=5 index={folder}/index")
    assert len(re.findall(r"item-\d+", shown)) == 5
    result = json.loads((tmp_path / folder / "result.json").read_text())
    assert result["metrics"]["test"]["recall_at_20"] > 0
