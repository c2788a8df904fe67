"""What a search leaves behind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest
from omegaconf import DictConfig
from optuna.distributions import FloatDistribution

from pipelines.tuning_result import TuningResult, mean_of, short, spread
from recsys import config
from recsys.tracking.figures import Subject
from recsys.tuning import history
from recsys.tuning.space import Dimension


def configuration(params: dict[str, Any], seed: int) -> DictConfig:
    return config.compose(
        "train", ["ctr=lr", f"optimizer.lr={params['optimizer.lr']}", f"seed={seed}"]
    )


@pytest.fixture
def left(tmp_path: Path) -> TuningResult:
    """Trial 0 was best alone, trial 1 is the only finalist that was repeated to the end."""
    study = optuna.create_study(direction="maximize")
    space = FloatDistribution(0.0, 1.0, log=False)
    for at, values in enumerate(([0.9, 0.7], [0.8, 0.7], [0.5, 0.4])):
        trial = study.ask({"optimizer.lr": space})
        trial.set_user_attr("values", {"3": values[0]})
        trial.set_user_attr("metrics", {"auc": values[0]})
        study.tell(trial, values[0])
        if at == 1:
            study.set_user_attr("final-1", {"3": values[0], "4": values[1]})
    return TuningResult(
        study=study, folder=tmp_path, subject=Subject("LR", "clicks", 100), monitor="auc",
        maximize=True, dimensions=(Dimension("optimizer.lr", space),), seeds=(3,),
        final_seeds=(3, 4), configuration=configuration,
    )  # fmt: skip


def test_finalists_come_before_what_one_seed_says(left: TuningResult) -> None:
    assert [(trial.number, values) for trial, values in left.ranking()] == [
        (1, [0.8, 0.7]), (0, [0.9]), (2, [0.5]),
    ]  # fmt: skip
    columns, rows = left.shown()
    assert columns == ["trial", "auc", "optimizer.lr"]
    assert rows[0][:2] == [1, "0.75000 +- 0.07071 (n=2)"]


def test_everything_is_written(left: TuningResult) -> None:
    result = left.write(history.trial_table(left.study), {"run_id": "r"})
    assert json.loads((left.folder / "result.json").read_text()) == result
    assert result["run_id"] == "r"
    assert result["best"]["trial"] == 1
    assert result["best"]["value"] == pytest.approx(0.75)
    names = {str(path.relative_to(left.folder)) for path in left.folder.rglob("*.*")}
    assert {"trials.csv", "best.yaml", "plots/history.png", "plots/slices.csv"} <= names
    assert "validation auc 0.75000 +- 0.07071 (n=2)" in (left.folder / "best.yaml").read_text()


def test_numbers_in_a_line() -> None:
    assert spread([0.5, 0.7]) == "0.60000 +- 0.14142 (n=2)"
    assert short(0.000123456) == "0.000123"
    assert short([1, 2]) == "[1, 2]"
    assert mean_of([1.0, None, 3.0]) == 2.0
