"""pipelines.rank_features as a process: files, MLflow, training from its list, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from tests.feature_ranking.planted import planted
from tests.pipelines.conftest import Run


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ranking") / "clicks.csv"
    planted(6_000).with_columns(pl.col("strong").cast(pl.String) + " x").write_csv(path)
    return path


def test_everything_is_written_and_training_takes_the_list(
    run: Run, table: Path, home: Path
) -> None:
    folder = home / "ranked"
    data = ["data=parquet", f"data.path={table}", "data.label=click"]
    done = run("pipelines.rank_features", *data, f"output_dir={folder}", "console=plain")
    assert "strong" in done.stdout
    assert "report:" in done.stdout
    names = {path.name for path in folder.iterdir()}
    assert {
        "report.html", "ranking.csv", "ranking.parquet", "ranking.json", "pairs.csv",
        "selection.csv", "rare.csv", "values.csv", "drift.csv", "suggestions.csv", "suggested.yaml",
        "kept.csv",
    } <= names  # fmt: skip
    ranking = pl.read_csv(folder / "ranking.csv")
    assert ranking.columns[:2] == ["feature", "score"]
    assert set(ranking["feature"][:3]) == {"strong", "copy", "weak"}
    assert json.loads((folder / "ranking.json").read_text())["facts"]["train_rows"] > 4_000
    kept = pl.read_csv(folder / "kept.csv")["feature"].to_list()
    assert sorted(kept) == ["left", "right", "strong", "weak"]
    assert f"data.features={folder}/kept.csv (4 of 10 columns" in done.stdout
    done = run(
        "pipelines.train", "ctr=lr", *data, f"data.features={folder}/ranking.csv", "data.top=2",
        "trainer.epochs=1", "tracking=none", "console=plain", "importance_rows=0",
        f"output_dir={home}/from-ranking",
    )  # fmt: skip
    schema = (home / "from-ranking" / "result.json").read_text()
    assert json.loads(schema)["epochs"] == 1
    assert "weak" not in [line.split()[0] for line in done.stdout.splitlines() if line.split()]


def test_the_run_is_in_the_store(run: Run, table: Path, home: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(f"sqlite:///{home}/outputs/mlflow.db")
    folder = home / "tracked"
    run(
        "pipelines.rank_features", "data=parquet", f"data.path={table}", "data.label=click",
        f"output_dir={folder}", "ranking.pairs=0", "ranking.halves=0", "console=none",
    )  # fmt: skip
    experiment = client.get_experiment_by_name("recsys/clicks")
    assert experiment is not None
    found = [
        one for one in client.search_runs([experiment.experiment_id])
        if one.data.tags.get("task") == "rank_features"
    ]  # fmt: skip
    assert found
    assert found[0].data.metrics["above_chance"] == 3
    paths = {one.path for one in client.list_artifacts(found[0].info.run_id, "ranking")}
    assert "ranking/report.html" in paths


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["label=clck"], 'no column "clck"'),
        (["label=constant"], "is 0 in every training row"),
        (["label=id"], "more than 256 classes"),
        (["ranking.method=best"], "ranking.method=best is not one|method=best is not one"),
        (["ranking.halfs=3"], "ranking.halfs is not an option"),
    ],
)
def test_wrong_usage(told: Run, table: Path, home: Path, keys: list[str], message: str) -> None:
    done = told(
        "pipelines.rank_features", "data=parquet", f"data.path={table}", "data.label=click",
        "tracking=none", f"output_dir={home}/wrong", *keys,
    )  # fmt: skip
    assert done.returncode == 2
    assert any(part in done.stderr for part in message.split("|"))
