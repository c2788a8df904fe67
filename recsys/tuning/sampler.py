"""A sampler that can be stopped: its draws depend on the seed, the trial and the trials before.

Optuna's own draw on from where their generator is: a search that is continued would repeat its
first draws, and two processes with one seed would draw the same. Here each trial has a generator of
its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna import Study
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

RETRY = "retry_of"
"""User attribute of a trial that takes the place of another: that one's number."""


class SeededSampler(BaseSampler):
    """Makes a fresh sampler for every trial.

    Args:
        make: From a seed to a sampler.
        seed: With the place of a trial, it gives the trial's own seed. A trial that is repeated
            after an interruption counts once, so that a stopped search goes on as if it had not
            been stopped.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._inner = make(seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        earlier = study.get_trials(deepcopy=False)
        repeats = sum(RETRY in one.user_attrs for one in earlier if one.number < trial.number)
        place = trial.number - repeats
        state = np.random.SeedSequence((self._seed, place)).generate_state(1)
        self._inner = self._make(int(state[0]))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        self._inner.after_trial(study, trial, state, values)


def make_sampler(name: str, seed: int, startup_trials: int) -> SeededSampler:
    """The sampler `tpe` or `random`."""
    if name == "random":
        return SeededSampler(lambda one: RandomSampler(seed=one), seed)
    return SeededSampler(lambda one: TPESampler(n_startup_trials=startup_trials, seed=one), seed)
