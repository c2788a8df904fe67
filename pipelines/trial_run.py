"""A training run that is a trial: no test rows, no figures, no model; it may be stopped early."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf

from pipelines.boosting_run import BoostingRun
from pipelines.tracked_run import OUTPUTS
from pipelines.training_run import TrainingRun
from recsys import config
from recsys.data.column_view import select_columns, view_bytes
from recsys.data.prepare import Prepared, prepare
from recsys.embedding.dynamic_columns import encode_dynamic
from recsys.embedding.lookup import EmbeddingOptions
from recsys.errors import ConfigError
from recsys.metrics.task_report import Report
from recsys.models.recommender import Recommender
from recsys.models.saved import BoostedTrees
from recsys.tracking.console import Console
from recsys.tracking.tracker import Tracker
from recsys.training.checkpoint import Checkpoint
from recsys.training.loop import Trainer
from recsys.training.optimizers import Optimizers
from recsys.training.options import TrainerOptions
from recsys.training.progress import EvaluationRecord, StepRecord
from recsys.training.ranking_loop import RankingOptions
from recsys.training.task_balance import TaskBalance

VIEW_BYTES = 2**30
"""Chosen columns are copied to memory up to this size; beyond, they are prepared on disk."""
KEPT = 2
"""Preparations that are held open."""


class TrialData:
    """Prepared data for the trials of a search: read once, whatever columns a trial takes.

    Test rows are not given out.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._whole: OrderedDict[str, Prepared] = OrderedDict()
        self._views: OrderedDict[str, Prepared] = OrderedDict()

    def of(self, cfg: DictConfig, family: str) -> Prepared:
        """The training and validation rows that a configuration asks for."""
        node = config.plain(cfg.data)
        embedding = config.build_options(EmbeddingOptions, cfg.embedding, "embedding")
        names = node.get("features")
        chosen = isinstance(names, list)
        whole = self._prepared({**node, "features": None} if chosen else node, family, embedding)
        if not chosen:
            return whole
        if view_bytes(whole, names) > VIEW_BYTES:
            return self._prepared(node, family, embedding)
        key = f"{whole.digest} {sorted(names)}"
        if key not in self._views:
            _keep(self._views, key, select_columns(whole, names))
        self._views.move_to_end(key)
        return self._views[key]

    def introduce(self, data: Prepared) -> None:
        """Show what is searched on.

        Raises:
            ConfigError: there is nothing to compare configurations by.
        """
        if data.val is None:
            raise ConfigError(
                f"{data.name} has no validation rows, by which configurations are compared. "
                "Set data.val_fraction=0.1, or data.val_path=<file>."
            )
        self._console.prepared(data)

    def _prepared(self, node: dict[str, Any], family: str, embedding: EmbeddingOptions) -> Prepared:
        dynamic = embedding.dynamic if embedding.is_dynamic else None
        key = json.dumps([node, dynamic], sort_keys=True, default=str)
        if key not in self._whole:
            raw, options = config.build_dataset(OmegaConf.create(node), family)
            options = encode_dynamic(raw.schema, options, embedding)
            found = prepare(raw, options, OUTPUTS / "prepared", self._console.preparing)
            _keep(self._whole, key, without_test(found))
        self._whole.move_to_end(key)
        return self._whole[key]


def _keep(kept: OrderedDict[str, Prepared], key: str, value: Prepared) -> None:
    kept[key] = value
    while len(kept) > KEPT:
        kept.popitem(last=False)


def without_test(data: Prepared) -> Prepared:
    """The same without its test rows: what is chosen by them is no longer a test."""
    return dataclasses.replace(data, test=None, bayes=None)


@dataclass
class Validations:
    """Listens to the validations of a run, remembers the best, and stops a run that is behind.

    Args:
        options: Their metric decides.
        trial: Told of each validation; None: nothing is stopped.
    """

    options: TrainerOptions | RankingOptions
    trial: optuna.Trial | None = None
    count: int = 0
    best: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.plateau = self.options.plateau()

    def step(self, record: StepRecord) -> None:
        """Nothing."""

    def evaluation(self, record: EvaluationRecord) -> None:
        """Take a validation in.

        Raises:
            optuna.TrialPruned: other trials were better by then.
        """
        self.count += 1
        if self.plateau.update(record.metrics):
            self.best = dict(record.metrics)
        if self.trial is None:
            return
        self.trial.report(self.plateau.value(record.metrics), self.count)
        if self.trial.should_prune():
            raise optuna.TrialPruned(f"behind after validation {self.count}")


@dataclass(frozen=True, kw_only=True)
class TrialPlace:
    """Where a trial belongs: the same for its seeds."""

    data: Prepared
    folder: Path
    """For what a method needs on disk while it trains; removed afterwards."""
    name: str
    parent_run_id: str | None
    tags: Mapping[str, object]


def run_trial(
    cfg: DictConfig, family: str, place: TrialPlace, trial: optuna.Trial | None
) -> dict[str, Any]:
    """Train a configuration and look at its validations.

    Args:
        cfg: Composed, with one seed.
        family: `ctr` or `mtl`.
        place: Data, names.
        trial: Told of the validations, and able to stop the run; None: it runs to its end.

    Returns:
        `value` (the best validation of `trainer.monitor`), `metrics` (of that validation), and what
        a result of training has: epochs, steps, fit_seconds, num_parameters ...

    Raises:
        optuna.TrialPruned: the run was stopped.
        ConfigError: a value is out of range or does not fit the data.
        NonFiniteError: the loss or the gradient was not a number.
    """
    from recsys.models.registry import import_target

    boosted = getattr(import_target(cfg[family]["_target_"]), "boosted", False)
    run = (BoostedTrial if boosted else NetworkTrial)(cfg, family)
    run.place, run.name, run.parent_run_id = place, place.name, place.parent_run_id
    gated = cfg.get("gate") is not None
    run.validations = Validations(run.trainer_options, None if gated else trial)
    run.listeners = (run.validations,)
    run.folder = place.folder
    result = run.run()
    if run.stopped is not None:
        raise run.stopped
    metrics = result["metrics"]["val"] if gated else run.validations.best
    found = {k: v for k, v in result.items() if k not in ("config", "notes", "metrics", "gate")}
    value = run.validations.plateau.value(metrics)
    return found | {"value": value, "metrics": metrics, "validations": run.validations.count}


class _Trial:
    """What both kinds of run do differently when they are a trial."""

    cfg: DictConfig
    place: TrialPlace
    validations: Validations
    stopped: optuna.TrialPruned | None = None

    def prepare_data(self) -> Prepared:
        return self.place.data

    def log_best(self, tracker: Tracker, step: int, seconds: float) -> None:
        """The numbers of the best validation, and the time."""
        best = {f"best/{name}": value for name, value in self.validations.best.items()}
        shown = {name: value for name, value in best.items() if name.count("/") == 1}
        tracker.log_metrics(shown | {"fit_seconds": seconds}, step)

    def note_stop(self, tracker: Tracker, error: optuna.TrialPruned) -> None:
        """A trial that was stopped early has not failed."""
        self.stopped = error
        tracker.set_tags({"state": "pruned"})


class NetworkTrial(_Trial, TrainingRun):
    """A trial of a network: weights stay in memory."""

    def open_folder(self, data: Prepared) -> tuple[Path, Checkpoint | None]:
        return self.place.folder, None

    def train_and_test(
        self, data: Prepared, checkpoint: Checkpoint | None, tracker: Tracker
    ) -> dict[str, Any]:
        tracker.set_tags(self.place.tags)
        try:
            return super().train_and_test(data, checkpoint, tracker)
        except optuna.TrialPruned as error:
            self.note_stop(tracker, error)
            return {}
        finally:
            shutil.rmtree(self.place.folder, ignore_errors=True)

    def trainer(
        self,
        recommender: Recommender,
        optimizers: Optimizers,
        data: Prepared,
        tracker: Tracker,
        balance: TaskBalance | None,
    ) -> Trainer:
        trainer = super().trainer(recommender, optimizers, data, tracker, balance)
        if self.gate is None:  # stages of a gate go on from each other's weights
            trainer.checkpoints = None
        return trainer

    def write_results(
        self,
        result: dict[str, Any],
        trainer: Trainer,
        reports: Mapping[str, Report],
        data: Prepared,
        tracker: Tracker,
    ) -> None:
        self.log_best(tracker, trainer.global_step, result["fit_seconds"])


class BoostedTrial(_Trial, BoostingRun):
    """A trial of boosted trees."""

    def run(self) -> dict[str, Any]:
        with Console("none") as self.console, self.open_tracker(self.place.data) as tracker:
            tracker.set_tags(self.place.tags)
            try:
                return self.train_and_test(self.place.data, tracker)
            except optuna.TrialPruned as error:
                self.note_stop(tracker, error)
                return {}

    def write_figures(self, *about: Any) -> Path:
        return self.place.folder

    def finish(
        self,
        result: dict[str, Any],
        model: Recommender | BoostedTrees,
        data: Prepared,
        plots: Path,
        tracker: Tracker,
        step: int,
        more: Mapping[str, float],
    ) -> None:
        self.log_best(tracker, step, result["fit_seconds"])


def refuse_ranks() -> None:
    """Raise ConfigError under torchrun: a search divides trials, not batches."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "a search divides its trials among processes, not the rows of a batch: start it "
            "without torchrun, as often as there are processors, with the same arguments."
        )
