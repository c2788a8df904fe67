"""python -m pipelines.export_model: copies of a run that are smaller, and one for torch alone."""

from __future__ import annotations

import json
import re
from pathlib import Path

import mlflow
import numpy as np
import polars as pl
import pytest
import torch
from omegaconf import OmegaConf

from pipelines import export_model as pipeline
from recsys import config
from recsys.errors import ConfigError
from recsys.models import scorer
from recsys.models.saved import SavedModel
from recsys.tracking.find import find_model
from recsys.tracking.search import Wanted, find_runs
from tests.pipelines.conftest import Run


@pytest.fixture(scope="module")
def copies(trained: Path, run: Run, home: Path) -> Path:
    """int8 with a scorer, compared on the run's own test rows."""
    folder = home / "copies"
    done = run("pipelines.export_model", f"run={trained}", f"output_dir={folder}", "rows=500")
    (folder / "stdout.txt").write_text(done.stdout)
    return folder


def test_a_copy_is_a_run_like_any_other(
    copies: Path, trained: Path, run: Run, clicks: Path, home: Path
) -> None:
    whole, small = SavedModel.load(trained / "model"), SavedModel.load(copies / "int8" / "model")
    rows = pl.read_parquet(clicks).head(300)
    assert small.tables == "int8"
    assert 0 < np.abs(small.predict_logits(rows) - whole.predict_logits(rows)).max() < 0.05
    out = home / "copy_scored"
    run("pipelines.evaluate", f"run={copies / 'int8'}", f"data.path={clicks}", f"output_dir={out}")
    scored = pl.read_parquet(out / "predictions.parquet")["probability"].to_numpy()
    np.testing.assert_allclose(scored[:300], small.predict(rows), rtol=1e-6)


def test_what_is_written_says_what_a_copy_costs(copies: Path, trained: Path) -> None:
    result = json.loads((copies / "result.json").read_text())
    names = [(one["tables"], one["file"]) for one in result["copies"]]
    assert names == [
        ("float32", "weights.safetensors"),
        ("int8", "weights.safetensors"),
        ("int8", "scorer.pt2"),
    ]
    assert result["rows"] == 500
    full, small, program = result["copies"]
    assert small["table_bytes"] == program["table_bytes"] < full["table_bytes"]
    for one in (full, small):
        folder = trained / "model" if one is full else copies / "int8" / "model"
        assert one["file_bytes"] == (folder / one["file"]).stat().st_size
    assert full["largest_logit_difference"] == 0 < small["largest_logit_difference"] < 0.05
    for one in (small, program):
        assert one["metrics"]["auc"] == pytest.approx(full["metrics"]["auc"], abs=0.01)
        assert one["metrics"]["logloss"] == pytest.approx(full["metrics"]["logloss"], abs=0.01)
        assert one["rows_per_second"] > 0
    table = pl.read_csv(copies / "copies.csv")
    assert table["auc"].to_list() == [one["metrics"]["auc"] for one in result["copies"]]
    said = (copies / "stdout.txt").read_text()
    assert "largest logit difference" in said
    assert "scorer.pt2" in said


def test_the_full_models_line_is_what_training_wrote(trained: Path, run: Run, home: Path) -> None:
    """All test rows, no program: the metrics of the run itself."""
    folder = home / "all_rows"
    arguments = ("tables=[float16,int4]", "program=false", f"output_dir={folder}")
    run("pipelines.export_model", f"run={trained}", *arguments, "tracking=none")
    result = json.loads((folder / "result.json").read_text())
    then = json.loads((trained / "result.json").read_text())["metrics"]["test"]
    assert result["copies"][0]["metrics"]["auc"] == pytest.approx(then["auc"], abs=1e-6)
    assert result["copies"][0]["metrics"]["logloss"] == pytest.approx(then["logloss"], abs=1e-6)
    off = [one["largest_logit_difference"] for one in result["copies"]]
    assert off[0] < off[1] < off[2]
    assert sorted(path.name for path in folder.iterdir()) == [
        "copies.csv", "float16", "int4", "result.json",
    ]  # fmt: skip
    assert [path.name for path in (folder / "int4").iterdir()] == ["model"]


def test_the_file_scores_encoded_rows(copies: Path, clicks: Path) -> None:
    saved = SavedModel.load(copies / "int8" / "model")
    rows = pl.read_parquet(clicks).head(50)
    program = torch.export.load(copies / "int8" / "scorer.pt2").module()
    found = program(scorer.inputs_of(saved.pipeline.transform(rows)))["probability"]
    np.testing.assert_allclose(found.numpy(), saved.predict(rows), atol=2e-6)
    card = json.loads((copies / "int8" / "scorer.json").read_text())
    assert list(card["inputs"]) == ["ids", "dense", "tags.values", "tags.lengths"]


def test_a_copy_is_a_run_in_mlflow(copies: Path, trained: Path, home: Path) -> None:
    uri = f"sqlite:///{home}/outputs/mlflow.db"
    client = mlflow.MlflowClient(uri)
    source = json.loads((trained / "result.json").read_text())["run_id"]
    experiments = [one.experiment_id for one in client.search_experiments()]
    (found,) = client.search_runs(experiments, f"tags.source_run = '{source}'")
    assert found.data.tags["tables"] == "int8"
    result = json.loads((copies / "result.json").read_text())
    assert found.data.metrics["model/test/auc"] == pytest.approx(
        result["copies"][1]["metrics"]["auc"]
    )
    assert found.data.metrics["full/table_bytes"] == result["copies"][0]["table_bytes"]
    files = {one.path for one in client.list_artifacts(found.info.run_id)}
    assert {"scorer.pt2", "scorer.json"} <= files
    assert find_model(found.info.run_id, uri) == copies / "int8" / "model"
    records, _ = find_runs(Wanted(), uri)
    assert found.info.run_id not in [one.run_id for one in records], "it is no training run"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run=null"], "run is missing"),
        (["tables=int9"], 'tables="int9" does not exist'),
        (["tables=[]"], "tables is empty"),
        (["tables=float32", "program=false"], "run's own model again"),
        (["run=<copies>/int8"], "a copy with int8 tables already"),
        (["rows=0"], "rows"),
        (["output_dir=<home>/busy"], "holds other files"),
    ],
)
def test_mistakes_are_answered(
    arguments: list[str],
    said: str,
    copies: Path,
    trained: Path,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(home)
    mine = home / "busy" / "int8" / "mine.txt"
    mine.parent.mkdir(parents=True, exist_ok=True)
    mine.write_text("keep")
    given = [one.replace("<copies>", str(copies)).replace("<home>", str(home)) for one in arguments]
    if not given[0].startswith("run="):
        given.append(f"run={trained}")
    with pytest.raises(ConfigError, match=re.escape(said)):
        pipeline.export_model(config.compose("export_model", [*given, "console=none"]))
    assert mine.read_text() == "keep"


def test_help_shows_examples(run: Run) -> None:
    said = run("pipelines.export_model", "--help").stdout
    assert "tables=[float16,int8,int4]" in said
    assert "batch_rows" in said


def test_a_copy_is_whole_or_not_there(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while the program is written, nothing is left; an earlier copy stays as it was."""
    from recsys.tracking.console import Console

    saved = SavedModel.load(trained / "model").with_tables("int8")
    console = Console("none")

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(scorer, "export_scorer", stop)
        with pytest.raises(KeyboardInterrupt):
            pipeline.write_copy(saved, tmp_path / "int8", True, console)
        assert list(tmp_path.iterdir()) == []
    pipeline.write_copy(saved, tmp_path / "int8", False, console)
    before = (tmp_path / "int8" / "model" / "weights.safetensors").read_bytes()
    monkeypatch.setattr(scorer, "export_scorer", stop)
    with pytest.raises(KeyboardInterrupt):
        pipeline.write_copy(saved, tmp_path / "int8", True, console)
    assert [path.name for path in tmp_path.iterdir()] == ["int8"]
    assert (tmp_path / "int8" / "model" / "weights.safetensors").read_bytes() == before


def test_users_and_items_are_sent_to_their_vectors(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text(json.dumps({"format": "recsys-cf-model", "version": 1}))
    cfg = OmegaConf.create(
        {
            "run": str(tmp_path), "tables": "int8", "program": True, "rows": None,
            "batch_rows": 10, "output_dir": None, "data": {"path": None}, "tracking": {},
        }
    )  # fmt: skip
    with pytest.raises(ConfigError, match="export_embeddings"):
        pipeline.export_model(cfg)
