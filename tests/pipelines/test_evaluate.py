"""python -m pipelines.evaluate: raw rows in, the scores of the run's own pipeline out."""

import json
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.models.saved import SavedModel
from tests.pipelines.conftest import Run


def test_evaluate_scores_new_raw_rows(
    trained: Path, run: Run, told: Run, clicks: Path, home: Path
) -> None:
    result = json.loads((trained / "result.json").read_text())
    new = home / "new.csv"
    frame = pl.read_parquet(clicks).drop("tags").head(500)
    shuffled = frame.select(reversed(frame.columns))
    shuffled.write_csv(new)
    done = told("pipelines.evaluate", f"run={trained}", f"data.path={new}")
    assert done.returncode == 2
    assert "tags" in done.stderr
    rows = home / "new.parquet"
    pl.read_parquet(clicks).select("tags", "clicked", "city", "price", "item", "user").head(
        500
    ).write_parquet(rows)
    for name in (result["run_id"], str(trained)):
        out = home / "scored"
        run("pipelines.evaluate", f"run={name}", f"data.path={rows}", f"output_dir={out}")
        scored = json.loads((out / "result.json").read_text())
        assert scored["rows"] == 500
        assert scored["metrics"]["data"]["auc"] > 0.5
        assert pl.read_parquet(out / "predictions.parquet").height == 500


def test_an_unknown_run_says_so(told: Run, trained: Path, clicks: Path) -> None:
    done = told("pipelines.evaluate", "run=nowhere", f"data.path={clicks}")
    assert done.returncode == 2
    assert "run=nowhere" in done.stderr
    assert "Traceback" not in done.stderr


def test_scores_are_those_of_the_saved_model_whatever_the_block(
    trained: Path, told: Run, clicks: Path, home: Path
) -> None:
    scores = []
    for block in (100_000, 77):
        out = home / f"block{block}"
        done = told(
            "pipelines.evaluate", f"run={trained}", f"data.path={clicks}", f"block_rows={block}",
            f"output_dir={out}",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        scores.append(pl.read_parquet(out / "predictions.parquet")["probability"].to_numpy())
    expected = SavedModel.load(trained / "model").predict(pl.read_parquet(clicks))
    np.testing.assert_array_equal(scores[0], expected)
    np.testing.assert_allclose(scores[1], expected, atol=1e-7)


def test_rows_without_labels_are_scored_without_metrics(
    trained: Path, told: Run, clicks: Path, home: Path
) -> None:
    rows = home / "unlabelled.parquet"
    pl.read_parquet(clicks).drop("clicked").head(50).write_parquet(rows)
    done = told(
        "pipelines.evaluate", f"run={trained}", f"data.path={rows}", f"output_dir={home}/scores"
    )
    assert "no label column (clicked)" in done.stdout
    assert json.loads((home / "scores/result.json").read_text())["metrics"] == {}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data.path=x.parquet"], "run is missing"),
        (["run=x"], "data.path is missing"),
        (["run=x", "data.pth=y"], "data.path"),
    ],
)
def test_missing_arguments_are_named(told: Run, arguments: list[str], message: str) -> None:
    done = told("pipelines.evaluate", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


def test_a_damaged_model_says_so(trained: Path, told: Run, clicks: Path, home: Path) -> None:
    broken = home / "broken"
    shutil.copytree(trained / "model", broken)
    (broken / "weights.safetensors").write_bytes(b"not weights")
    done = told("pipelines.evaluate", f"run={broken}", f"data.path={clicks}")
    assert done.returncode == 1
    assert "not a saved model" in done.stderr
    assert "Traceback" not in done.stderr
