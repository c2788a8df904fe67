"""A study that outlives the processes that work on it: opened again, taken over, counted once.

One Optuna study in one storage, SQLite or any that Optuna knows. Any number of processes may work
on it, one after the other or at once. A trial whose process was interrupted, killed or lost is put
back into the queue; one that failed by itself is not.
"""

from __future__ import annotations

import fcntl
import gc
import logging
import math
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
import psutil
from optuna import Study, Trial
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial
from sqlalchemy.exc import SQLAlchemyError

from recsys.errors import ConfigError, NonFiniteError, SchemaError
from recsys.tuning.options import SearchOptions
from recsys.tuning.sampler import RETRY, make_sampler

OWNER = "owner"
REASON = "reason"
ATTEMPT = "attempt"
ATTEMPTS = 2
"""Processes that may die on a configuration before it counts as failed: it may be what kills."""
FAILURES = 10
"""Failed trials in a row after which a process gives up."""
FINGERPRINT = "fingerprint"
SQLITE_SECONDS = 120
"""How long a process waits for another one's write."""

Objective = Callable[[Trial], float]


class FailedTrialError(Exception):
    """A trial ended without a value, for a reason that does not end the search."""


def open_study(
    options: SearchOptions, storage: str, name: str, fingerprint: str, maximize: bool, epochs: int
) -> Study:
    """Make a study, or open it again.

    Args:
        options: Sampler, pruner, sign of life.
        storage: Optuna storage; the folder of a SQLite file is made.
        name: Of the study.
        fingerprint: Of all that decides the value of a configuration.
        maximize: Higher is better.
        epochs: Validations of a trial at most, which `hyperband` needs.

    Raises:
        ConfigError: the storage cannot be used, or holds another search by this name.
    """
    try:
        with _quiet(), _alone(sqlite_file(storage)):
            study = optuna.create_study(
                storage=_storage(storage, options.heartbeat),
                study_name=name,
                direction="maximize" if maximize else "minimize",
                sampler=make_sampler(options.sampler, options.seed, options.startup_trials),
                pruner=make_pruner(options, epochs),
                load_if_exists=True,
            )
            found = study.user_attrs.get(FINGERPRINT)
            if found is None:
                study.set_user_attr(FINGERPRINT, fingerprint)
    except (SQLAlchemyError, OptunaError, OSError, ImportError, RuntimeError) as error:
        raise ConfigError(
            f"search.storage={storage} cannot be used: {error}. Name another, such as "
            "search.storage=sqlite:///outputs/optuna.db."
        ) from error
    if found not in (None, fingerprint):
        raise ConfigError(
            f"search.study={name} holds another search: its space, data or configuration differ "
            "from these. Name another study, or leave search.study out."
        )
    return study


def sqlite_file(storage: str) -> Path | None:
    """The file of a SQLite storage; None for others.

    Example:
        >>> str(sqlite_file("sqlite:///outputs/optuna.db"))
        'outputs/optuna.db'
    """
    return Path(storage.removeprefix("sqlite:///")) if storage.startswith("sqlite:///") else None


@contextmanager
def _alone(file: Path | None) -> Iterator[None]:
    """One process at a time makes the tables of a SQLite file: two would both try."""
    if file is None:
        yield
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_name(f".{file.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _storage(url: str, heartbeat: int) -> RDBStorage:
    waiting = {"timeout": SQLITE_SECONDS} if url.startswith("sqlite") else {}
    return RDBStorage(
        url,
        engine_kwargs={"connect_args": waiting} if waiting else {},
        heartbeat_interval=heartbeat,
        grace_period=4 * heartbeat,
        heartbeat_stale_trial_callback=put_back,
    )


def make_pruner(options: SearchOptions, epochs: int) -> BasePruner:
    """The pruner that `options.pruner` names."""
    if options.pruner == "median":
        return MedianPruner(n_startup_trials=5, n_warmup_steps=options.warmup)
    if options.pruner == "hyperband":
        return HyperbandPruner(min_resource=max(options.warmup, 1), max_resource=max(epochs, 2))
    return NopPruner()


# -- trials that lost their process ------------------------------------------------------------


def put_back(study: Study, trial: FrozenTrial, died: bool = True) -> None:
    """Queue a trial again whose process is gone.

    Args:
        study: Of the trial.
        trial: Marked as failed already.
        died: It may have been the configuration's fault; after `ATTEMPTS` of these it stays failed.
    """
    attempt = int(trial.user_attrs.get(ATTEMPT, 1)) + int(died)
    if attempt > ATTEMPTS:
        return
    kept = {k: v for k, v in trial.user_attrs.items() if k not in (OWNER, REASON, RETRY)}
    study.add_trial(
        create_trial(
            state=TrialState.WAITING,
            params=trial.params,
            distributions=trial.distributions,
            user_attrs={**kept, RETRY: trial.number, ATTEMPT: attempt},
        )
    )


def owner() -> str:
    """This process, told from every other one that ever had its number."""
    process = psutil.Process()
    return f"{socket.gethostname()}:{os.getpid()}:{process.create_time():.2f}"


def take_over(study: Study) -> int:
    """Put back the running trials of processes of this machine that are gone.

    Those of other machines are put back when their sign of life stops.

    Returns:
        How many.
    """
    taken = 0
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _is_gone(str(trial.user_attrs.get(OWNER, ""))):
            continue
        try:
            with _quiet():
                study.tell(trial.number, state=TrialState.FAIL)
        except (OptunaError, ValueError):  # another process was faster
            continue
        put_back(study, trial)
        taken += 1
    return taken


def _is_gone(whose: str) -> bool:
    host, _, rest = whose.rpartition(":")[0].rpartition(":")
    started = whose.rpartition(":")[2]
    if host != socket.gethostname() or not rest.isdigit():
        return False
    try:
        return f"{psutil.Process(int(rest)).create_time():.2f}" != started
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


# -- the search --------------------------------------------------------------------------------


def superseded(trials: list[FrozenTrial]) -> set[int]:
    """Numbers of trials whose place another one has taken."""
    return {int(one.user_attrs[RETRY]) for one in trials if RETRY in one.user_attrs}


def num_taken(study: Study) -> int:
    """Configurations that were begun, each counted once however often it was repeated."""
    trials = study.get_trials(deepcopy=False)
    gone = superseded(trials)
    return sum(one.state != TrialState.WAITING and one.number not in gone for one in trials)


def since_best(study: Study) -> int:
    """Finished trials after the best one."""
    trials = study.get_trials(deepcopy=False)
    gone = superseded(trials)
    done = [one for one in trials if one.state.is_finished() and one.number not in gone]
    values = [one for one in done if one.state == TrialState.COMPLETE and one.value is not None]
    if not values:
        return 0
    pick = max if study.direction == optuna.study.StudyDirection.MAXIMIZE else min
    best = pick(values, key=lambda one: one.value or 0.0)
    return sum(one.number > best.number for one in done)


def search(
    study: Study,
    objective: Objective,
    options: SearchOptions,
    told: Callable[[FrozenTrial], None] = lambda trial: None,
    plan: Callable[[Study], None] = lambda study: None,
    spent: float = 0.0,
) -> None:
    """Try configurations until the options say stop.

    Args:
        study: Opened with `open_study`.
        objective: Value of a trial. It may raise `optuna.TrialPruned`; what is named in
            `FAILURES_OF_A_TRIAL` makes the trial fail with its reason, and the search goes on.
        options: Bounds.
        told: Given each trial that has ended.
        plan: Called before each trial; it may queue one.
        spent: Seconds that this process has used already; they count among `minutes`.

    Raises:
        KeyboardInterrupt: Ctrl-C; the trial at work is queued again.
        ConfigError: ten trials in a row failed.
    """
    begin = time.monotonic() - spent
    failures = 0
    take_over(study)
    while not _is_over(study, options, time.monotonic() - begin):
        plan(study)
        running: list[Trial] = []
        try:
            with _quiet():
                study.optimize(_guarded(objective, running), n_trials=1, catch=(FailedTrialError,))
        except KeyboardInterrupt:
            for trial in running:
                put_back(study, _frozen(study, trial), died=False)
            raise
        ended = _frozen(study, running[0])
        told(ended)
        if ended.state == TrialState.FAIL:
            gc.collect()  # what did not fit must not stay for the next one
            failures += 1
        else:
            failures = 0
        if failures == FAILURES:
            raise ConfigError(
                f"{FAILURES} trials in a row failed, the last one so: "
                f"{ended.user_attrs.get(REASON)} Correct the space or the configuration."
            )


def _frozen(study: Study, trial: Trial) -> FrozenTrial:
    return study.get_trials(deepcopy=False)[trial.number]


def _is_over(study: Study, options: SearchOptions, seconds: float) -> bool:
    if options.minutes is not None and seconds >= 60 * options.minutes:
        return True
    if options.trials is not None and num_taken(study) >= options.trials:
        return True
    return options.patience is not None and since_best(study) >= options.patience


def _guarded(objective: Objective, running: list[Trial]) -> Objective:
    """The objective with its owner written down, and its failures turned into reasons."""

    def guarded(trial: Trial) -> float:
        running.append(trial)
        trial.set_user_attr(OWNER, owner())
        try:
            value = objective(trial)
            if math.isfinite(value):
                return value
            reason = f"diverged: its value is {value}"
        except FAILURES_OF_A_TRIAL as error:
            reason = reason_of(error)
        trial.set_user_attr(REASON, reason)
        raise FailedTrialError(reason)

    return guarded


FAILURES_OF_A_TRIAL = (NonFiniteError, ConfigError, SchemaError, MemoryError, RuntimeError)
"""What a configuration can bring about; anything else ends the search."""


def reason_of(error: BaseException) -> str:
    """Why a trial failed, in one sentence.

    Example:
        >>> reason_of(MemoryError())
        'out of memory'
        >>> reason_of(ConfigError("ctr.num_heads=3 does not divide 64."))
        'refused: ctr.num_heads=3 does not divide 64.'
    """
    text = str(error).strip()
    lowered = text.lower()
    if isinstance(error, MemoryError) or any(
        sign in lowered for sign in ("out of memory", "can't allocate memory", "cannot allocate")
    ):
        first = text.splitlines()[0] if text else ""
        return f"out of memory: {first}" if first else "out of memory"
    if isinstance(error, NonFiniteError):
        return f"diverged: {text}"
    if isinstance(error, ConfigError | SchemaError):
        return f"refused: {text}"
    return f"{type(error).__name__}: {text}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna says in its own words what is told here in ours."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            yield
    finally:
        logger.setLevel(level)


def best_first(study: Study) -> list[FrozenTrial]:
    """Finished trials that have a value, the best first; the earlier of equals."""
    sign = -1.0 if study.direction == optuna.study.StudyDirection.MAXIMIZE else 1.0
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return sorted(done, key=lambda one: (sign * _value(one), one.number))


def _value(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value


def user_attributes(trial: FrozenTrial) -> Mapping[str, Any]:
    """What was written down of a trial, without how it was run."""
    return {k: v for k, v in trial.user_attrs.items() if k not in (OWNER, RETRY, ATTEMPT)}
