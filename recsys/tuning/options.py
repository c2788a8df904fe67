"""What a search can be told: the keys of `configs/search/*.yaml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from recsys.errors import ConfigError, did_you_mean

SAMPLERS = ("tpe", "random")
PRUNERS = ("median", "hyperband", "none")
RANK = "rank"
"""`features=rank`: rank the columns first."""


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How a search goes.

    Args:
        trials: Configurations to try, over all processes; None: no bound.
        minutes: Of this process; no trial begins later. None: no bound.
        patience: Stop after so many trials in a row without a better one; None: never.
        sampler: `tpe`, or `random`.
        seed: Of the sampler.
        startup_trials: Drawn at random before `tpe` learns from them.
        pruner: `median` stops a trial that is worse than the median of the others at the same
            validation, `hyperband` most of them early, `none` none.
        warmup: Validations of a trial before it can be stopped.
        finalists: Best configurations that are repeated at the end; 0: none.
        final_seeds: Seeds of those repeats: `seed`, the next one, and so on.
        study: Name; None: made of data, model and a hash of what is searched.
        storage: Optuna storage that several processes or machines may share; None: SQLite beside
            the MLflow store.
        heartbeat: Seconds between signs of life; a trial without one for four times as long is
            taken over.
        features: A ranking of the columns, or `rank` to make one first; None: columns are as given.
        shrink: With `features`: few columns first, those that tell nothing above chance last.
        space: See `recsys.tuning.space`.
    """

    trials: int | None = 50
    minutes: float | None = None
    patience: int | None = None
    sampler: str = "tpe"
    seed: int = 0
    startup_trials: int = 10
    pruner: str = "median"
    warmup: int = 1
    finalists: int = 0
    final_seeds: int = 3
    study: str | None = None
    storage: str | None = None
    heartbeat: int = 30
    features: str | None = None
    shrink: bool = True
    space: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        least = {"seed": 0, "startup_trials": 1, "warmup": 0, "finalists": 0, "final_seeds": 2,
                 "heartbeat": 1}  # fmt: skip
        for key, bound in least.items():
            if getattr(self, key) < bound:
                raise ConfigError(f"search.{key}={getattr(self, key)}; it must be {bound} or more.")
        for key in ("trials", "patience"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"search.{key}={value}; it must be 1 or more, or null.")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"search.minutes={self.minutes}; it must be above 0, or null.")
        for key, allowed in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            value = getattr(self, key)
            if value not in allowed:
                raise ConfigError(
                    f"search.{key}={value} is not a choice.{did_you_mean(value, allowed)}"
                )
        if self.trials is None and self.minutes is None and self.patience is None:
            raise ConfigError(
                "the search has no end: set search.trials, search.minutes or search.patience."
            )
