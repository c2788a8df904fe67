"""Tables and figures of a study."""

import csv
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from recsys.tracking.figures import Subject, save_figure
from recsys.tuning import history

ABOUT = Subject("FM", "toy", 100)


@pytest.fixture
def study() -> optuna.Study:
    """Six trials by hand: four done, one pruned, one failed; one key matters, two do not."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    lr = optuna.distributions.FloatDistribution(1e-4, 1e-1, log=True)
    dims = optuna.distributions.CategoricalDistribution(("json:[4]", "json:[8, 8]"))
    flag = optuna.distributions.CategoricalDistribution((True, False))
    for i, value in enumerate([0.6, 0.7, 0.65, 0.8]):
        study.add_trial(
            create_trial(
                params={"optimizer.lr": 10.0 ** -(4 - i), "ctr.dims": dims.choices[i % 2],
                        "ctr.flag": i > 1},
                distributions={"optimizer.lr": lr, "ctr.dims": dims, "ctr.flag": flag},
                value=value,
            )
        )  # fmt: skip
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={1: 0.5}, value=0.5))
    study.add_trial(create_trial(state=TrialState.FAIL, user_attrs={"reason": "out of memory"}))
    return study


def test_the_table_has_every_trial_and_the_best_so_far(study: optuna.Study) -> None:
    table = history.trial_table(study)
    assert table["state"].to_list() == ["done"] * 4 + ["pruned", "failed"]
    assert table["best"].to_list() == [0.6, 0.7, 0.7, 0.8, 0.8, 0.8]
    assert table["ctr.dims"].to_list()[:2] == ["[4]", "[8, 8]"]
    assert table["reason"].to_list()[-1] == "out of memory"
    assert "owner" not in table.columns


def test_time_when_nothing_ran_does_not_count(study: optuna.Study) -> None:
    import datetime as dt

    start = dt.datetime(2026, 1, 1)
    trials = study.get_trials()
    spans = [(0, 10), (5, 20), (3600, 3610), (3605, 3606)]
    for one, (first, last) in zip(trials, spans, strict=False):
        one.datetime_start = start + dt.timedelta(seconds=first)
        one.datetime_complete = start + dt.timedelta(seconds=last)
    found = history._elapsed(trials[:4], before=7.0)
    assert [found[i] for i in range(4)] == [17.0, 27.0, 37.0, 33.0]


def test_importances_name_what_matters(study: optuna.Study) -> None:
    assert history.importances(optuna.create_study()) == {}
    rng = np.random.default_rng(0)
    other = optuna.create_study()
    for _ in range(60):
        trial = other.ask()
        x, _ = trial.suggest_float("x", -1, 1), trial.suggest_float("y", -1, 1)
        other.tell(trial, x**2 + 0.001 * rng.normal())
    found = history.importances(other)
    assert list(found) == ["x", "y"]
    assert found["x"] > 0.8


def test_figures_are_saved_with_their_numbers(study: optuna.Study, tmp_path: Path) -> None:
    table = history.trial_table(study)
    save_figure(*history.history_plot(ABOUT, table, "auc"), tmp_path / "history")
    save_figure(*history.importance_plot(ABOUT, {"optimizer.lr": 1.0}), tmp_path / "importance")
    keys = ["optimizer.lr", "ctr.dims", "ctr.flag"]
    figure, numbers = history.slice_plot(ABOUT, table, keys, "auc", ["optimizer.lr"])
    save_figure(figure, numbers, tmp_path / "slices")
    assert figure.axes[0].get_xscale() == "log"
    assert [one.get_text() for one in figure.axes[1].get_xticklabels()] == ["[4]", "[8, 8]"]
    with (tmp_path / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [str(i) for i in range(6)]
    assert numbers["value"] == [0.6, 0.7, 0.65, 0.8]
    assert all(path.stat().st_size < 200_000 for path in tmp_path.glob("*.png"))


def test_a_study_without_values_can_be_drawn() -> None:
    study = optuna.create_study()
    study.add_trial(create_trial(state=TrialState.FAIL))
    table = history.trial_table(study)
    history.history_plot(ABOUT, table, "auc")
    history.slice_plot(ABOUT, table, [], "auc", [])
