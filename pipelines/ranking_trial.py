"""A run of a model of users and items that is a trial: judged on held-out training pairs, no test
pairs, no refit, no figures, no model; it may be stopped early."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig

from pipelines.ranking_run import SPLIT_SEED, RankingRun
from pipelines.trial_run import Validations
from recsys import config
from recsys.data.interactions import Interactions
from recsys.errors import ConfigError
from recsys.metrics.ranking import FullRanking
from recsys.tracking.console import Console
from recsys.tracking.tracker import Tracker
from recsys.training.checkpoint import Checkpoints
from recsys.tuning.space import Dimension


class TrialPairs:
    """Pairs for the trials of a search, read once.

    Test pairs are not given out.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._read: Interactions | None = None

    def of(self, cfg: DictConfig, family: str) -> Interactions:
        """The training pairs; no trial asks for others."""
        del family
        if self._read is None:
            found = config.build_interactions(cfg.data)
            self._read = dataclasses.replace(found, test=None)
        return self._read

    def introduce(self, data: Interactions) -> None:
        """Show what is searched on."""
        self._console.note(data.counts())
        for note in data.notes:
            self._console.note(f"note: {note}")


@dataclass(frozen=True, kw_only=True)
class PairsPlace:
    """Where a trial belongs: the same for its seeds."""

    data: Interactions
    folder: Path
    """Where figures would lie; nothing is written."""
    name: str
    parent_run_id: str | None
    tags: Mapping[str, object]


class RankingTrial(RankingRun):
    """A trial of a model of users and items: weights stay in memory."""

    place: PairsPlace
    validations: Validations
    stopped: optuna.TrialPruned | None = None

    def run(self) -> dict[str, Any]:
        self.data, self.folder = self.place.data, self.place.folder
        with Console("none") as self.console, self.open_tracker(self.data) as tracker:
            tracker.set_tags(self.place.tags)
            try:
                return self.judge(tracker)
            except optuna.TrialPruned as error:
                self.stopped = error
                tracker.set_tags({"state": "pruned"})
                return {}

    def judge(self, tracker: Tracker) -> dict[str, Any]:
        """Learn from a part of the pairs, and rank for the rest."""
        begin = time.perf_counter()
        self.log_pairs(self.data, self.data.digest(columns=self.reads_columns), tracker)
        left, held = self.data.held_out(self.val_fraction, SPLIT_SEED)
        judge = FullRanking(held, left, ks=self.ks)
        learnt = self.fit(left, judge, tracker)
        metrics = self.validations.best if learnt.steps else self.rank(learnt.model, judge).metrics
        seconds = time.perf_counter() - begin
        best = {f"best/{name}": value for name, value in metrics.items()}
        tracker.log_metrics(best | {"fit_seconds": seconds}, learnt.steps)
        return {
            "metrics": metrics,
            "epochs": learnt.epochs,
            "steps": learnt.steps,
            "fit_seconds": seconds,
            "num_parameters": sum(tensor.numel() for tensor in learnt.model.parameters()),
            "train_rows_per_second": learnt.rows_per_second,
        }

    def checkpoints(self, stage: str) -> Checkpoints | None:
        return None


def run_ranking_trial(
    cfg: DictConfig, family: str, place: PairsPlace, trial: optuna.Trial | None
) -> dict[str, Any]:
    """Train a configuration and look at its validations.

    Args:
        cfg: Composed, with one seed.
        family: `cf` or `towers`.
        place: Pairs, names.
        trial: Told of the validations, and able to stop the run; None: it runs to its end. What is
            computed at once has one value and is not stopped.

    Returns:
        `value` (the best validation of `trainer.monitor`), `metrics` (of that validation), epochs,
        steps, fit_seconds, num_parameters, train_rows_per_second, validations.

    Raises:
        optuna.TrialPruned: the run was stopped.
        ConfigError: a value is out of range or does not fit the data.
        NonFiniteError: the loss or the gradient was not a number.
    """
    run = RankingTrial(cfg, family)
    run.place, run.name, run.parent_run_id = place, place.name, place.parent_run_id
    run.validations = Validations(run.options, trial)
    run.listeners = (run.validations,)
    found = run.run()
    if run.stopped is not None:
        raise run.stopped
    value = run.validations.plateau.value(found["metrics"])
    return found | {"value": value, "validations": run.validations.count}


def check_searched(
    space: tuple[Dimension, ...], cfg: DictConfig, family: str, fitted: bool
) -> None:
    """Refuse keys that change nothing of a model of users and items.

    Args:
        space: The keys to search.
        cfg: Composed.
        family: `cf` or `towers`.
        fitted: The model is computed: nothing of a training matters to it.

    Raises:
        ConfigError: naming the key.
    """
    if str(cfg.selection) != "validation":
        raise ConfigError(
            f"selection={cfg.selection}: a search chooses by held-out training pairs alone. Leave "
            "it out, and give it to the training of the best configuration."
        )
    model = config.plain(cfg[family])["_target_"].rpartition(".")[2]
    allowed = (family,) if fitted else (family, "optimizer", "trainer")
    for one in space:
        if one.key.partition(".")[0] not in allowed:
            raise ConfigError(
                f"search.space.{one.key} changes nothing of {model}; search keys of "
                f"{' or '.join(f'{part}.*' for part in allowed)}."
            )
    if not space:
        raise ConfigError(
            f"the space is empty: {model} has nothing to search, or search.space names nothing."
        )
