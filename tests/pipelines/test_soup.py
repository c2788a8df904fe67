"""python -m pipelines.soup: as a person runs it, tracked with links to its runs."""

import json
import sqlite3
from pathlib import Path

import pytest

from pipelines.soup import soup
from recsys import config
from recsys.errors import ConfigError
from tests.pipelines.conftest import Run, mine


@pytest.mark.slow
def test_from_two_runs_to_a_tracked_model(
    trained: Path, clicks: Path, home: Path, run: Run
) -> None:
    for seed in (1, 2):
        run(
            "pipelines.train", *mine(clicks), "trainer.epochs=1", f"init_from={trained}",
            f"seed={seed}", "importance_rows=0", f"output_dir={home}/tuned{seed}",
        )  # fmt: skip
    ids = [
        json.loads((home / f"tuned{seed}" / "result.json").read_text())["run_id"] for seed in (1, 2)
    ]
    done = run("pipelines.soup", f"runs=[{','.join(ids)}]", f"output_dir={home}/soup")
    assert "runs and soups; auc on val chose, test did not" in done.stdout
    lines = done.stdout.splitlines()
    for name in (*ids, "uniform", "greedy"):
        assert any(line.strip().startswith(name) for line in lines), name
    assert "Result: autoint on clicks" in done.stdout
    result = json.loads((home / "soup" / "result.json").read_text())
    with sqlite3.connect(home / "outputs" / "mlflow.db") as store:
        tags = dict(
            store.execute("SELECT key, value FROM tags WHERE run_uuid = ?", [result["run_id"]])
        )
    assert tags["ingredients"] == ", ".join(ids)
    assert set(tags["kept"].split(", ")) <= set(ids)
    assert tags["soup"] == "greedy"
    assert tags["initial_digest"] == result["initial_digest"]
    assert (home / "soup" / "model" / "model.json").is_file()


def test_help_and_bad_input(run: Run) -> None:
    assert "init_from=<first>" in run("pipelines.soup", "--help").stdout
    with pytest.raises(ConfigError, match=r"runs=\[none\]; a soup needs two or more"):
        soup(config.compose("soup", ["tracking=none"]))
    with pytest.raises(ConfigError, match="neither a folder nor a run"):
        soup(config.compose("soup", ["runs=[nothing,nowhere]", "console=none"]))
