"""A training run of boosted trees: rounds instead of steps, the same data, figures and tracking.

One round is one pass over the training rows, so `epochs` and `steps` of `result.json` are rounds
grown; `trees` are those kept. Of `trainer`, only monitor, min_delta, eval_every, log_every,
max_steps (rounds), threads and device (CPU) are read.
"""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from pipelines import training_report as report
from pipelines.tracked_run import OUTPUTS, TrackedRun, TrackerObserver, chosen_spec
from recsys import config
from recsys.data.prepare import Prepared
from recsys.errors import ConfigError
from recsys.metrics.report import ClassificationReport
from recsys.models.ctr.lightgbm import LightGBM
from recsys.models.tree_features import stored_rows
from recsys.models.trees import SCORED_ROWS, Growing, Trees
from recsys.tracking.console import Console
from recsys.tracking.tracker import Tracker
from recsys.training.options import TrainerOptions
from recsys.training.plateau import Plateau
from recsys.training.progress import EvaluationRecord, Observer, StepRecord, TrainingCurve
from recsys.training.ranks import Ranks

ROWS_PER_THREAD = 20_000
"""Fewer rows than this keep a thread waiting for the others more than working."""


class BoostingRun(TrackedRun):
    """Everything that one `python -m pipelines.train` does for trees.

    Args:
        cfg: Composed configuration.
        family: Chosen model family.

    Raises:
        ConfigError: a value is out of range or makes no sense for trees; nothing has been read yet.
    """

    def __init__(self, cfg: DictConfig, family: str) -> None:
        super().__init__(cfg, chosen_spec(cfg, family), int(cfg.seed))
        self.importance_rows = config.at_least("importance_rows", cfg.importance_rows, 0)
        self.trainer_options = config.build_options(TrainerOptions, cfg.trainer, "trainer")
        self.model: LightGBM = self.spec.make_boosted()
        refuse_what_trees_cannot(self.trainer_options, cfg)
        self.trainer_options.plateau()  # raises for a metric that does not exist
        self.ranks = Ranks()

    def run(self) -> dict[str, Any]:
        """Prepare, grow, test, save, report."""
        with Console(self.cfg.console) as self.console:
            data = self.prepare_data()
            given = self.cfg.output_dir
            name = f"{self.started:%Y%m%d-%H%M%S}-{os.getpid()}"
            self.folder = Path(given) if given else OUTPUTS / data.name / self.stem / name
            self.folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.cfg, self.folder / "config.yaml")
            with self.open_tracker(data) as tracker:
                return self.train_and_test(data, tracker)

    def train_and_test(self, data: Prepared, tracker: Tracker) -> dict[str, Any]:
        """Grow, evaluate and write everything down."""
        begin = time.perf_counter()
        threads = self.trainer_options.threads or min(
            torch.get_num_threads(), 1 + data.train.num_rows // ROWS_PER_THREAD
        )
        self.console.note(
            f"{self.spec.class_name} has no embeddings and no optimiser: embedding.*, optimizer.* "
            "and trainer.epochs, batch_size, patience are unused (see ctr.*)"
        )
        self.console.note(f"output {self.folder}   {tracker.url}")
        self.log_data(data, tracker)
        growing = self.model.start(data.train, data.val, self.seed, threads)
        self.console.note(
            f"{len(growing.features.names)} features, {len(growing.features.categorical)} of them "
            f"categories; {threads} thread(s)"
        )
        own: tuple[Observer, ...] = (self.console, RoundObserver(tracker))
        observers = own + self.listeners
        loop = Rounds(growing, self.model, self.trainer_options, data, observers)
        trees = loop.run()
        fit_seconds = time.perf_counter() - begin
        reports = {
            name: evaluate(trees, store)
            for name, store in data.stores.items()
            if name in ("val", "test")
        }
        result = {
            **self.origin(data.name, data.digest, tracker),
            "num_parameters": trees.num_leaves,
            "parameters": {"embedding": 0, "dense": trees.num_leaves},
            "embedding_bytes": {"weights": 0, "optimizer": 0, "serving": 0},
            "metrics": {name: found.compute() for name, found in reports.items()},
            "epochs": loop.round,
            "steps": loop.round,
            "trees": trees.num_trees,
            "fit_seconds": fit_seconds,
            "train_rows_per_second": loop.curve.rows_per_second,
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "notes": list(data.notes),
        }
        if data.bayes is not None:
            result["bayes"] = dict(data.bayes)
        folder = self.write_figures(trees, loop.curve, reports, data)
        self.finish(result, trees, data, folder, tracker, loop.round, {})
        return result

    def write_figures(
        self,
        trees: Trees,
        curve: TrainingCurve,
        reports: dict[str, ClassificationReport],
        data: Prepared,
    ) -> Path:
        """How training went, what the splits gained, what each field is worth."""
        folder = self.folder / "plots"
        about = (folder, self.spec.class_name, data.name)
        report.write_plots(
            *about, data.train.num_rows, curve, self.trainer_options.monitor, reports, "round"
        )
        report.write_gain(*about, data.train.num_rows, trees)
        if self.importance_rows:
            rows = report.importance_rows(data, self.importance_rows, self.seed)
            schema = data.pipeline.schema
            report.write_importance(*about, trees.logits_of, schema, rows, self.console, self.seed)
        return folder


class Rounds:
    """The loop: grow, validate, stop when nothing improves, keep the best number of trees.

    Args:
        growing: Ready for round 1.
        model: Hyperparameters.
        options: Monitor, rhythm.
        data: Validation rows, if any, are those the trees stop on.
        observers: Told of progress.
    """

    def __init__(
        self,
        growing: Growing,
        model: LightGBM,
        options: TrainerOptions,
        data: Prepared,
        observers: tuple[Observer, ...],
    ) -> None:
        self.growing = growing
        self.data = data
        self.observers = observers
        self.log_every = options.log_every
        self.learning_rate = model.learning_rate
        self.total = min(model.num_rounds, options.max_steps or model.num_rounds)
        self.every = options.eval_every or model.eval_rounds
        patience = -(-model.patience // self.every)  # in validations
        self.plateau = Plateau(options.monitor, patience, options.min_delta, decay=1.0)
        self.curve = TrainingCurve()
        self.round = 0

    def run(self) -> Trees:
        """Grow until `num_rounds` or early stopping."""
        best = self.total
        while self.round < self.total and not self.plateau.should_stop:
            begin = time.perf_counter()
            if not self.growing.grow():
                break
            self._took(time.perf_counter() - begin)
            self.round += 1
            due = self.round % self.every == 0 or self.round == self.total
            if due or self.round == 1 or self.round % self.log_every == 0:
                self._report_round()
            if due and self._improved():
                best = self.round
        return self.growing.finish(min(best, self.round))

    def _took(self, seconds: float) -> None:
        self.curve.train_seconds += seconds
        self.curve.timed_seconds += seconds
        self.curve.timed_rows += self.data.train.num_rows

    def _report_round(self) -> None:
        loss = self.growing.train_loss()
        self.curve.steps.append((self.round, loss))
        record = StepRecord(
            step=self.round,
            total_steps=self.total,
            epoch=self.round,
            loss=loss,
            grad_norm=0.0,
            lr=self.learning_rate,
            rows_per_second=self.curve.rows_per_second,
            data_share=0.0,
            eta_seconds=self.curve.train_seconds / self.round * (self.total - self.round),
        )
        for observer in self.observers:
            observer.step(record)

    def _improved(self) -> bool:
        val = self.data.val
        if val is None:
            return True
        found = ClassificationReport(val.num_rows)
        found.add(self.growing.val_logits(), np.asarray(val.label), val.weight, val.group)
        metrics = found.compute()
        improved = self.plateau.update(metrics)
        facts = {"step": self.round, "epoch": self.round, "improved": improved}
        self.curve.evaluations.append(facts | metrics)
        record = EvaluationRecord(self.round, self.round, metrics, improved, 1.0)
        for observer in self.observers:
            observer.evaluation(record)
        return improved


class RoundObserver(TrackerObserver):
    """Sends to MLflow what a round has: no gradient norm, no waiting for data."""

    def step(self, record: StepRecord) -> None:
        self.tracker.log_metrics(
            {"train/loss": record.loss, "train/rows_per_second": record.rows_per_second},
            record.step,
        )


def evaluate(trees: Trees, store: Any) -> ClassificationReport:
    """Score every row of a store, a block at a time."""
    found = ClassificationReport(store.num_rows)
    for start in range(0, store.num_rows, SCORED_ROWS):
        part = slice(start, min(start + SCORED_ROWS, store.num_rows))
        found.add(
            trees.logits_of(stored_rows(store, part.start, part.stop)),
            np.asarray(store.label[part]),
            None if store.weight is None else np.asarray(store.weight[part]),
            None if store.group is None else np.asarray(store.group[part]),
        )
    return found


def refuse_what_trees_cannot(options: TrainerOptions, cfg: DictConfig) -> None:
    """Raise ConfigError for options that a person gave on purpose and trees cannot follow."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "ctr=lightgbm grows on one process, with as many threads as trainer.threads says; "
            "start it without torchrun."
        )
    refused = {
        "trainer.resume": (options.resume, None, "rounds are not checkpointed: start anew"),
        "trainer.precision": (options.precision, "float32", "trees sum in double precision"),
        "trainer.compile": (options.compile, False, "there is no network to compile"),
        "trainer.block_rows": (options.block_rows, None, "trees see all rows at once"),
        "trainer.anomaly": (options.anomaly, False, "there is no network to watch"),
        "gate": (cfg.get("gate"), None, "there are no embedding rows to drop"),
        "embedding.vocabulary": (
            (cfg.get("embedding") or {}).get("vocabulary", "fitted"),
            "fitted",
            "there are no embedding rows to give out",
        ),
    }
    for key, (value, neutral, why) in refused.items():
        if value != neutral:
            raise ConfigError(f"{key}={value} is nothing for ctr=lightgbm: {why}. Leave {key} out.")
    if options.device not in ("auto", "cpu"):
        raise ConfigError(
            f"trainer.device={options.device}, but this build of LightGBM runs on CPUs. Use "
            "trainer.device=cpu."
        )
