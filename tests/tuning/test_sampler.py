"""Draws depend on the seed and the trials before, not on the process."""

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from recsys.tuning.sampler import RETRY, make_sampler


def objective(trial: optuna.Trial) -> float:
    x = trial.suggest_float("x", -1, 1)
    return (x - 0.3) ** 2 + trial.suggest_int("n", 0, 4)


def params(study: optuna.Study) -> list[dict]:
    return [one.params for one in study.trials if one.state == TrialState.COMPLETE]


def study_of(storage: optuna.storages.BaseStorage, seed: int, name: str) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(
        storage=storage, study_name="one", sampler=make_sampler(name, seed, 4), load_if_exists=True
    )


@pytest.mark.parametrize("name", ["tpe", "random"])
def test_a_stopped_search_goes_on_as_if_it_had_not_been(name: str) -> None:
    whole = study_of(optuna.storages.InMemoryStorage(), 3, name)
    whole.optimize(objective, n_trials=12)
    storage = optuna.storages.InMemoryStorage()
    study_of(storage, 3, name).optimize(objective, n_trials=5)
    broken = study_of(storage, 3, name)
    lost = broken.ask()
    objective(lost)
    broken.tell(lost.number, state=TrialState.FAIL)
    broken.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=broken.trials[-1].params,
            distributions=broken.trials[-1].distributions,
            user_attrs={RETRY: lost.number},
        )
    )
    study_of(storage, 3, name).optimize(objective, n_trials=7)
    assert params(study_of(storage, 3, name)) == params(whole)


def test_seeds_differ_and_no_trial_repeats_another() -> None:
    one = study_of(optuna.storages.InMemoryStorage(), 0, "tpe")
    two = study_of(optuna.storages.InMemoryStorage(), 1, "tpe")
    for study in (one, two):
        study.optimize(objective, n_trials=8)
    assert params(one) != params(two)
    assert len({found["x"] for found in params(one)}) == 8
