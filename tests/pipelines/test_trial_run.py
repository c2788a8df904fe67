"""A trial: the training it is, without what a trial must not do."""

from pathlib import Path
from typing import Any

import optuna
import polars as pl
import pytest

from pipelines.train import train
from pipelines.trial_run import (
    TrialData,
    TrialPlace,
    Validations,
    refuse_ranks,
    run_trial,
    without_test,
)
from recsys import config
from recsys.errors import ConfigError, NonFiniteError
from recsys.tracking.console import Console
from recsys.training.options import TrainerOptions
from recsys.training.progress import EvaluationRecord
from tests.pipelines.conftest import mine

QUIET = ["tracking=none", "console=none", "importance_rows=0"]


@pytest.fixture(scope="module")
def small(clicks: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "clicks.parquet"
    pl.read_parquet(clicks)[:2000].write_parquet(path)
    return path


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def trial_of(small: Path, *keys: str, trial: optuna.Trial | None = None) -> dict[str, Any]:
    cfg = config.compose("train", [*mine(small), *QUIET, *keys])
    data = TrialData(Console("none")).of(cfg, "ctr")
    place = TrialPlace(data=data, folder=Path("trial-000"), name="t", parent_run_id=None, tags={})
    return run_trial(cfg, "ctr", place, trial)


@pytest.mark.parametrize(
    "keys",
    [
        ["trainer.epochs=3"],
        ["trainer.monitor=logloss", "ctr=fm", "~ctr.num_layers"],
        ["ctr=fm", "gate=optfs", "gate.search_epochs=2", "~ctr.num_layers"],
    ],
)
def test_its_value_is_that_of_training(small: Path, keys: list[str]) -> None:
    keys = [*mine(small)[1:-2], "embedding.dim=8", "ctr=autoint", *keys]
    chosen = {key.partition("=")[0]: key for key in keys if not key.startswith("~")}
    overrides = [*chosen.values(), *QUIET]
    cfg = config.compose("train", overrides)
    data = TrialData(Console("none")).of(cfg, "ctr")
    place = TrialPlace(data=data, folder=Path("trial-000"), name="t", parent_run_id=None, tags={})
    found = run_trial(cfg, "ctr", place, None)
    result = train(config.compose("train", overrides))
    assert found["value"] == result["metrics"]["val"][cfg.trainer.monitor]
    assert found["num_parameters"] == result["num_parameters"]
    assert not Path("trial-000").exists()


def test_nothing_is_written_but_the_prepared_data(small: Path, here: Path) -> None:
    trial_of(small, "trainer.epochs=1")
    assert [path.name for path in here.iterdir()] == ["outputs"]
    assert [path.name for path in (here / "outputs").iterdir()] == ["prepared"]


def test_data_is_prepared_once_and_columns_are_views(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import pipelines.trial_run as module

    calls = []
    monkeypatch.setattr(module, "prepare", lambda *a: calls.append(a) or prepare(*a))
    from recsys.data.prepare import prepare

    data = TrialData(Console("none"))
    base = config.compose("train", mine(small))
    whole = data.of(base, "ctr")
    assert whole.test is None
    for names in (["user"], ["price", "item"], ["user"]):
        cfg = config.compose("train", [*mine(small), f"data.features=[{','.join(names)}]"])
        assert set(data.of(cfg, "ctr").pipeline.schema.names) == set(names)
    assert data.of(base, "ctr") is whole
    assert len(calls) == 1
    monkeypatch.setattr(module, "VIEW_BYTES", 0)  # too large for memory: prepared on disk
    cfg = config.compose("train", [*mine(small), "data.features=[item]"])
    assert data.of(cfg, "ctr").pipeline.schema.names == ("item",)
    assert len(calls) == 2


def test_a_validation_that_is_behind_stops_it(small: Path) -> None:
    class Strict(optuna.pruners.BasePruner):
        def prune(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> bool:
            return len(trial.intermediate_values) == 2

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(pruner=Strict(), direction="maximize")
    trial = study.ask()
    with pytest.raises(optuna.TrialPruned, match="after validation 2"):
        trial_of(small, "trainer.epochs=4", trial=trial)
    assert list(study.trials[0].intermediate_values) == [1, 2]


def test_a_loss_that_is_not_a_number_is_told(small: Path) -> None:
    with pytest.raises(NonFiniteError):
        trial_of(small, "optimizer.lr=1e30")


def test_the_best_validation_is_remembered() -> None:
    found = Validations(TrainerOptions(monitor="logloss"))
    for step, loss in enumerate((0.5, 0.4, 0.45)):
        metrics = {"logloss": loss, "auc": 0.6}
        found.evaluation(EvaluationRecord(step, step, metrics, True, 1.0))
    assert (found.best["logloss"], found.count) == (0.4, 3)


def test_test_rows_are_not_given_out(small: Path) -> None:
    cfg = config.compose("train", mine(small))
    data = TrialData(Console("none")).of(cfg, "ctr")
    assert data.test is None
    assert without_test(data).stores.keys() == {"train", "val"}


def test_ranks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_ranks()
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match="without torchrun"):
        refuse_ranks()
