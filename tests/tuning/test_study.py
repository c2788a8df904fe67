"""Studies: what ends a trial, what ends a search, and what is put back."""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from recsys.errors import ConfigError, NonFiniteError, SchemaError
from recsys.tuning.options import SearchOptions
from recsys.tuning.study import (
    OWNER,
    REASON,
    best_first,
    make_pruner,
    num_taken,
    open_study,
    owner,
    put_back,
    reason_of,
    search,
    since_best,
    sqlite_file,
    take_over,
    user_attributes,
)


@pytest.fixture
def storage(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/deep/optuna.db"


def opened(storage: str, options: SearchOptions | None = None, **keys) -> optuna.Study:
    given = {"name": "one", "fingerprint": "abc", "maximize": False, "epochs": 4} | keys
    return open_study(options or SearchOptions(), storage, **given)


def quadratic(trial: optuna.Trial) -> float:
    return trial.suggest_float("x", -1, 1) ** 2


def test_it_is_made_once_and_opened_again(storage: str) -> None:
    options = SearchOptions(trials=3)
    search(opened(storage), quadratic, options)
    again = opened(storage)
    assert num_taken(again) == 3
    search(again, quadratic, options)
    assert num_taken(again) == 3
    search(again, quadratic, SearchOptions(trials=5))
    assert num_taken(again) == 5
    values = [one.value for one in best_first(again)]
    assert values == sorted(values)
    assert sqlite_file(storage).is_file()


def test_another_search_by_the_same_name_is_refused(storage: str) -> None:
    opened(storage)
    with pytest.raises(ConfigError, match="holds another search"):
        opened(storage, fingerprint="other")


@pytest.mark.parametrize("storage", ["nonsense://x", "sqlite:////proc/none/optuna.db"])
def test_a_storage_that_cannot_be_used_is_named(storage: str) -> None:
    with pytest.raises(ConfigError, match=r"search\.storage="):
        opened(storage)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (NonFiniteError("the loss is nan"), "diverged: the loss is nan"),
        (ConfigError("num_heads=3"), "refused: num_heads=3"),
        (SchemaError("no column"), "refused: no column"),
        (MemoryError(), "out of memory"),
        (RuntimeError("CUDA out of memory. Tried"), "out of memory: CUDA out of memory. Tried"),
        (RuntimeError("shapes differ"), "RuntimeError: shapes differ"),
    ],
)
def test_a_failed_trial_keeps_its_reason_and_the_search_goes_on(
    storage: str, error: Exception, reason: str
) -> None:
    def objective(trial: optuna.Trial) -> float:
        if trial.number == 1:
            raise error
        return quadratic(trial)

    study = opened(storage)
    told: list = []
    search(study, objective, SearchOptions(trials=3), told.append)
    assert [one.state for one in told] == [
        TrialState.COMPLETE,
        TrialState.FAIL,
        TrialState.COMPLETE,
    ]
    assert told[1].user_attrs[REASON] == reason == reason_of(error)


def test_an_error_of_the_program_ends_the_search(storage: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        search(opened(storage), objective, SearchOptions(trials=3))


def test_ten_failures_in_a_row_end_the_search(storage: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        raise ConfigError("no value fits")

    study = opened(storage)
    with pytest.raises(ConfigError, match=r"10 trials in a row failed.*no value fits"):
        search(study, objective, SearchOptions(trials=50))
    assert num_taken(study) == 10


def test_a_value_that_is_not_a_number_fails(storage: str) -> None:
    study = opened(storage)
    search(study, lambda trial: float("nan"), SearchOptions(trials=1))
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[0].user_attrs[REASON] == "diverged: its value is nan"


def test_ctrl_c_queues_the_trial_again(storage: str) -> None:
    def interrupted(trial: optuna.Trial) -> float:
        value = quadratic(trial)
        if trial.number == 2:
            raise KeyboardInterrupt
        return value

    study = opened(storage)
    with pytest.raises(KeyboardInterrupt):
        search(study, interrupted, SearchOptions(trials=4))
    interrupted_params = study.trials[2].params
    study = opened(storage)
    search(study, quadratic, SearchOptions(trials=4))
    assert num_taken(study) == 4
    assert study.trials[3].params == interrupted_params
    assert study.trials[3].state == TrialState.COMPLETE


CHILD = """
import sys, time
from recsys.tuning.options import SearchOptions
from recsys.tuning.study import open_study, search
def objective(trial):
    x = trial.suggest_float("x", -1, 1)
    print("began", trial.number, flush=True)
    time.sleep(float(sys.argv[2]))
    return x * x
options = SearchOptions(trials=int(sys.argv[3]))
study = open_study(options, sys.argv[1], "one", "abc", False, 4)
search(study, objective, options)
"""


def child(storage: str, seconds: float, trials: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, storage, str(seconds), str(trials)],
        stdout=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip


def test_a_killed_process_leaves_a_trial_that_is_taken_over(storage: str) -> None:
    study = opened(storage)
    process = child(storage, 600, 3)
    assert process.stdout is not None
    assert process.stdout.readline().startswith("began 0")
    assert take_over(study) == 0  # it is alive
    process.kill()
    process.wait()
    lost = study.trials[0]
    assert lost.state == TrialState.RUNNING
    search(study, quadratic, SearchOptions(trials=3))
    assert study.trials[0].state == TrialState.FAIL
    assert study.trials[1].params == lost.params
    assert num_taken(study) == 3
    assert len(study.trials) == 4


def test_two_processes_divide_the_trials(storage: str) -> None:
    processes = [child(storage, 0.2, 8) for _ in range(2)]  # which both would make the tables
    began = [process.communicate(timeout=120)[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    study = opened(storage)
    # Each may have asked for the last one at the same time.
    assert 8 <= num_taken(study) <= 9
    assert all(one.state == TrialState.COMPLETE for one in study.trials)
    assert len({one.params["x"] for one in study.trials}) == len(study.trials)
    numbers = [set(words[1::2]) for words in began]
    assert not numbers[0] & numbers[1]


def test_what_kills_two_processes_stays_failed(storage: str) -> None:
    study = opened(storage)
    for _ in range(2):
        trial = study.ask()
        trial.suggest_float("x", -1, 1)
        trial.set_user_attr(OWNER, f"{socket.gethostname()}:999999999:1.00")
        assert take_over(study) == 1
    assert [one.state for one in study.trials] == [TrialState.FAIL, TrialState.FAIL]


def test_trials_of_another_machine_are_left_alone(storage: str) -> None:
    study = opened(storage)
    study.ask().set_user_attr(OWNER, "elsewhere:999999999:1.00")
    study.ask()  # its process has not signed yet
    assert take_over(study) == 0
    assert owner().startswith(socket.gethostname())


def test_a_trial_without_sign_of_life_is_put_back(storage: str) -> None:
    """As on a machine that lost its power: nobody can ask whether its process lives."""
    options = SearchOptions(heartbeat=1, trials=1)
    study = opened(storage, options)
    lost = study.ask()
    lost.suggest_float("x", -1, 1)
    study._storage.record_heartbeat(lost._trial_id)
    time.sleep(5.1)
    search(study, quadratic, options)
    search(study, quadratic, SearchOptions(heartbeat=1, trials=2))
    assert study.trials[0].state == TrialState.FAIL
    assert any(one.user_attrs.get("retry_of") == 0 for one in study.trials)


def test_bounds_end_the_search(storage: str) -> None:
    study = opened(storage)
    values = iter([3.0, 1.0, 2.0, 2.0, 2.0, 0.0])
    search(study, lambda trial: next(values), SearchOptions(trials=None, patience=3))
    assert num_taken(study) == 5
    assert since_best(study) == 3
    search(study, quadratic, SearchOptions(trials=None, minutes=1.0), spent=61.0)
    assert num_taken(study) == 5


def test_plans_are_followed(storage: str) -> None:
    study = opened(storage)
    search(study, quadratic, SearchOptions(trials=1), plan=lambda s: s.enqueue_trial({"x": 0.25}))
    assert study.trials[0].params == {"x": 0.25}


def test_pruners() -> None:
    assert isinstance(make_pruner(SearchOptions(), 5), optuna.pruners.MedianPruner)
    hyperband = make_pruner(SearchOptions(pruner="hyperband"), 5)
    assert isinstance(hyperband, optuna.pruners.HyperbandPruner)
    assert isinstance(make_pruner(SearchOptions(pruner="none"), 5), optuna.pruners.NopPruner)


def test_put_back_keeps_what_a_plan_said(storage: str) -> None:
    study = opened(storage)
    study.enqueue_trial({"x": 0.5}, user_attrs={"rung": 1})
    trial = study.ask()
    trial.suggest_float("x", -1, 1)
    study.tell(trial.number, state=TrialState.FAIL)
    put_back(study, study.trials[0])
    assert study.trials[1].state == TrialState.WAITING
    assert user_attributes(study.trials[1]) == {"rung": 1}
