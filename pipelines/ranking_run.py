"""A training run of a model of users and items: pairs in, a ranking of the whole catalogue out.

`selection=validation` holds out a part of every user's training pairs. A model that is trained
chooses its number of epochs by them; every model is then made anew from all training pairs and
tested once. `selection=test` trains on all training pairs and stops where the TEST pairs say, as
the papers do; results and tags say so.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

import recsys
from pipelines import training_report as report
from pipelines.run_folder import Continued, RunFolder
from pipelines.tracked_run import OUTPUTS, TrackedRun, TrackerObserver, chosen_spec
from pipelines.training_run import choose_device, seed_everything
from recsys import config
from recsys.data.interactions import Interactions
from recsys.data.pairs import Pairs
from recsys.data.triple_sampler import TripleSampler
from recsys.embedding.lookup import EmbeddingOptions
from recsys.errors import ConfigError
from recsys.metrics.ranking import FullRanking, Ranking
from recsys.models.collaborative import CFModel, ClosedForm, EmbeddingModel
from recsys.models.saved_cf import SavedCF, check_cf, make_cf, tables_for
from recsys.tracking.console import Console
from recsys.tracking.tracker import Tracker
from recsys.training.checkpoint import Checkpoints
from recsys.training.optimizers import OptimizerOptions
from recsys.training.progress import TrainingCurve
from recsys.training.ranking_loop import RankingOptions, RankingTrainer
from recsys.training.ranks import Ranks
from recsys.training.signals import Interrupted

SELECTIONS = ("validation", "test")
STAGES = ("checkpoints/choose", "checkpoints/refit")
"""Where the two trainings of a run keep theirs."""
COLUMN_KEYS = ("user_columns", "item_columns", "users_path", "items_path")
"""Keys of `data` that name what towers read."""
SPLIT_SEED = 0
"""Of the validation part: the same pairs for every seed of a model."""


@dataclass
class Learnt:
    """A model, and how it came about."""

    model: CFModel
    epochs: int = 0
    steps: int = 0
    best_step: int = 0
    rows_per_second: float = 0.0
    curve: TrainingCurve | None = None
    """Of the phase that chose the epochs."""
    rankings: dict[str, Ranking] = field(default_factory=dict)
    """Of the splits that were judged: val, test."""


class RankingRun(TrackedRun):
    """Everything that one `python -m pipelines.train cf=...` or `towers=...` does.

    Args:
        cfg: Composed configuration.
        family: Chosen model family.

    Raises:
        ConfigError: a value is out of range or makes no sense here; nothing has been read yet.
    """

    def __init__(self, cfg: DictConfig, family: str) -> None:
        super().__init__(cfg, chosen_spec(cfg, family), int(cfg.seed))
        refuse_ranks(family)
        self.reads_columns = family == "towers"
        self.options = config.build_options(RankingOptions, cfg.trainer, "trainer")
        self.optimizer_options = config.build_options(OptimizerOptions, cfg.optimizer, "optimizer")
        refuse_what_has_no_table(self.optimizer_options, cfg, family)
        self.selection = str(cfg.selection)
        if self.selection not in SELECTIONS:
            raise ConfigError(
                f"selection={self.selection}; allowed are {' and '.join(SELECTIONS)}."
            )
        self.val_fraction = float(cfg.val_fraction)
        if not 0 < self.val_fraction < 1:
            raise ConfigError(f"val_fraction={cfg.val_fraction}; it must lie between 0 and 1.")
        self.ks = list_lengths(cfg)
        check_cf(self.spec)
        self.options.plateau()  # raises for a metric that does not exist
        metric, _, k = self.options.monitor.rpartition("_at_")
        if not metric or int(k) not in self.ks:
            raise ConfigError(
                f"trainer.monitor={self.options.monitor} is judged at none of ks={list(self.ks)}. "
                f"Use recall_at_{self.ks[-1]}, or add to ks."
            )
        self.device = choose_device(self.options.device)
        if self.options.threads:
            torch.set_num_threads(self.options.threads)
        self.ranks = Ranks()
        self.data: Interactions
        """Known once it is read."""
        self.continued: Continued | None = None
        """What an earlier, unfinished run of this configuration left."""

    def run(self) -> dict[str, Any]:
        """Read, learn, rank, save, report."""
        with Console(self.cfg.console) as self.console:
            data = self.data = self.read()
            place = RunFolder(
                OUTPUTS / data.name / self.stem,
                config.identity(self.cfg),
                STAGES,
                self.console.note,
            )
            self.folder, self.continued = place.choose(
                self.cfg.output_dir, self.options.resume, self.started
            )
            place.claim(self.folder, self.continued)
            OmegaConf.save(self.cfg, self.folder / "config.yaml")
            resumed = self.continued.checkpoint.state.get("run_id") if self.continued else None
            try:
                with self.open_tracker(data, resumed) as tracker:
                    return self.learn_and_rank(data, tracker)
            except Interrupted as stopped:
                raise Interrupted(
                    f"{stopped}; continue with the same command and trainer.resume=auto "
                    f"(output_dir={self.folder})"
                ) from stopped

    def read(self) -> Interactions:
        """The pairs, with what is to be known about them."""
        data = config.build_interactions(self.cfg.data)
        self.console.banner(
            f"recsys {recsys.__version__} - {self.spec.class_name} on {data.name} - "
            f"{self.device} - seed {self.seed}"
        )
        self.console.note(data.counts())
        for note in data.notes:
            self.console.note(f"note: {note}")
        if data.test is not None and not len(data.test):
            raise ConfigError(
                f"{data.name} has no test pair that can be found. Raise data.test_fraction, or "
                "give other test rows."
            )
        if self.selection == "test" and data.test is None:
            raise ConfigError(
                f"selection=test, but {data.name} has no test pairs. Use selection=validation."
            )
        return data

    # -- learning ----------------------------------------------------------------------------

    def learn_and_rank(self, data: Interactions, tracker: Tracker) -> dict[str, Any]:
        """Choose, refit, test, and write everything down."""
        begin = time.perf_counter()
        self.console.note(f"output {self.folder}   {tracker.url}")
        digest = data.digest(columns=self.reads_columns)
        self.log_pairs(data, digest, tracker)
        learnt = self.learn(data, tracker)
        fit_seconds = time.perf_counter() - begin
        metrics = {name: found.metrics for name, found in learnt.rankings.items()}
        size = sum(tensor.numel() for tensor in learnt.model.parameters())
        result: dict[str, Any] = {
            **self.origin(data.name, digest, tracker),
            "selection": self.selection,
            "num_parameters": size,
            "model_bytes": sum(t.nbytes for t in learnt.model.state_dict().values()),
            "metrics": metrics,
            "counts": {name: found.counts for name, found in learnt.rankings.items()},
            "epochs": learnt.epochs,
            "steps": learnt.steps,
            "fit_seconds": fit_seconds,
            "train_rows_per_second": learnt.rows_per_second,
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "notes": list(data.notes),
        }
        plots = self.write_ranking_figures(learnt, data)
        SavedCF(learnt.model.cpu(), data, self.spec, self.facts(result)).save(self.folder / "model")
        tracker.log_artifact(self.folder / "model", "model")
        val = learnt.rankings.get("val")
        more = {} if val is None else {f"val/{k}": v for k, v in val.metrics.items()}
        self.publish(result, plots, tracker, learnt.steps, more)
        return result

    def learn(self, data: Interactions, tracker: Tracker) -> Learnt:
        """The model to keep, and what every split says of it (or of its like, for validation)."""
        if self.selection == "test":
            assert data.test is not None
            judge = FullRanking(data.test, data.train, ks=self.ks)
            learnt = self.fit(data.train, judge, tracker)
            learnt.rankings = {"test": self.rank(learnt.model, judge)}
            self.console.note(
                "selection=test: epochs were chosen by the test pairs themselves"
                if learnt.epochs
                else "selection=test: no validation part; the settings are as given"
            )
            return learnt
        left, held = data.held_out(self.val_fraction, SPLIT_SEED)
        users = int((held.user_degrees > 0).sum())
        which = "random" if data.order is None else "latest"
        self.console.note(f"validation: {len(held):,} {which} training pairs of {users:,} users")
        # What is only continued in its second stage is judged and chosen again from the first's
        # checkpoints, which takes seconds.
        judge = FullRanking(held, left, ks=self.ks)
        chosen = self.fit(left, judge, tracker)
        rankings = {"val": self.rank(chosen.model, judge)}
        curve, again = chosen.curve, self.as_long_as(chosen, len(data.train) / len(left))
        trained = chosen.best_step
        del chosen  # an item-item matrix may not fit twice
        length = (
            f"{again.epochs:,} epochs" if again.max_steps is None else f"{again.max_steps:,} steps"
        )
        told = f" for {length}" if trained else ""
        self.console.note(f"now from all {len(data.train):,} training pairs{told}")
        learnt = self.fit(data.train, None, tracker, again)
        if data.test is not None:
            judge = FullRanking(data.test, data.train, ks=self.ks)
            rankings["test"] = self.rank(learnt.model, judge)
        learnt.rankings, learnt.curve = rankings, curve
        return learnt

    def as_long_as(self, chosen: Learnt, more: float) -> RankingOptions:
        """Options of a training as long as the best of another was.

        Args:
            chosen: The other.
            more: How many times as many pairs there are now; steps become as many more.
        """
        if not chosen.best_step:  # computed
            return self.options
        if self.options.eval_unit == "epochs":
            return dataclasses.replace(self.options, epochs=chosen.epochs, max_steps=None)
        steps = max(1, round(chosen.best_step * more))
        epochs = min(chosen.epochs + 1, self.options.epochs)
        return dataclasses.replace(self.options, epochs=epochs, max_steps=steps)

    def fit(
        self,
        train: Pairs,
        judge: FullRanking | None,
        tracker: Tracker,
        options: RankingOptions | None = None,
    ) -> Learnt:
        """A model of some pairs: computed, or trained while `judge` sees it get better.

        Args:
            train: The pairs to learn from.
            judge: Stops the training and says which epoch was best; None trains to the end.
            tracker: The run in MLflow.
            options: In place of the configuration's.
        """
        seed_everything(self.seed)
        # Fitted again for each training: what was held out is as new to the tables as it is.
        model = make_cf(self.spec, train, tables_for(self.spec, self.data, train))
        if isinstance(model, ClosedForm):
            name = self.spec.class_name
            model.fit(train, lambda done, total: self.console.preparing(done, total, name, "parts"))
            return Learnt(model)
        assert isinstance(model, EmbeddingModel)
        model.to(self.device)
        options = options or self.options
        checkpoints = self.checkpoints(STAGES[judge is None])
        trainer = RankingTrainer(
            model,
            torch.optim.Adam(
                [parameter for parameter in model.parameters() if parameter.requires_grad],
                lr=self.optimizer_options.lr,
                betas=self.optimizer_options.betas,
                eps=self.optimizer_options.eps,
                fused=True,
            ),
            TripleSampler(train, model.sampling, options.rows_per_step, seed=self.seed),
            None if judge is None else lambda: judge.of_vectors(*model()).metrics,
            options,
            checkpoints,
            (
                self.console,
                *([TrackerObserver(tracker)] if judge is not None else []),
                *self.listeners,
            ),
            {"run_id": tracker.run_id},
        )
        if self.continued is not None and checkpoints is not None and checkpoints.steps():
            trainer.load(checkpoints.load_newest_intact()[0])
            self.console.note(f"continuing after step {trainer.global_step:,}")
        trainer.fit()
        better = [one for one in trainer.curve.evaluations if one["improved"]]
        chosen = int(better[-1]["epoch"]) if better else trainer.epoch
        best_step = int(better[-1]["step"]) if better else trainer.global_step
        speed = trainer.curve.rows_per_second
        return Learnt(model, chosen, trainer.global_step, best_step, speed, trainer.curve)

    def checkpoints(self, stage: str) -> Checkpoints | None:
        """Where a training keeps its own; None: nowhere."""
        return Checkpoints(self.folder / stage, self.options.keep_last)

    @torch.no_grad()
    def rank(self, model: CFModel, judge: FullRanking) -> Ranking:
        """The full ranking of every user that is judged."""
        model.eval()
        if isinstance(model, EmbeddingModel):
            return judge.of_vectors(*model())
        return judge.of_scores(model.scores)

    # -- what is left behind -----------------------------------------------------------------

    def log_pairs(self, data: Interactions, digest: str, tracker: Tracker) -> None:
        """Record which pairs these are, so that runs are compared on the same ones."""
        source = self.cfg.data.get("source") or self.cfg.data.get("path") or data.name
        parts = {"training": data.train, "test": data.test}
        for context, pairs in parts.items():
            if pairs is not None:
                tracker.log_dataset(
                    data.name,
                    digest=digest,
                    context=context,
                    num_rows=len(pairs),
                    source=str(source),
                    schema={"user": str(data.user_ids.type), "item": str(data.item_ids.type)},
                )

    def write_ranking_figures(self, learnt: Learnt, data: Interactions) -> Path:
        """How training went, and which items are found."""
        folder = self.folder / "plots"
        folder.mkdir(exist_ok=True)
        about = (folder, self.spec.class_name, data.name)
        if learnt.curve is not None:
            report.write_plots(*about, len(data.train), learnt.curve, self.options.monitor, {})
        if learnt.rankings:
            report.write_ranking(*about, list(learnt.rankings.values())[-1], self.ks[-1])
        return folder


def list_lengths(cfg: DictConfig) -> tuple[int, ...]:
    """The lengths of lists that `ks` asks for, ascending.

    Raises:
        ConfigError: there is none, or one is below 1.
    """
    ks = tuple(sorted({config.at_least("ks", k, 1) for k in config.plain(cfg.ks)}))
    if not ks:
        raise ConfigError("ks=[]; give at least one length of lists, such as ks=[20].")
    return ks


def refuse_ranks(family: str) -> None:
    """Raise ConfigError under torchrun: each process would train the same model by itself."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count > 1:
        raise ConfigError(
            f"{family} models train on one process, got {count}: vectors are propagated over the "
            "whole graph, or compared with the whole catalogue, and that loop shares nothing out. "
            "Start without torchrun; ctr and mtl models train on many."
        )


def refuse_what_has_no_table(options: OptimizerOptions, cfg: DictConfig, family: str) -> None:
    """Raise ConfigError for settings of the embedding tables of click models, and for columns that
    nothing would read."""
    if options.name != "adam":
        raise ConfigError(
            f"optimizer={options.name} is for the tables of click models; {family} models are "
            "trained by optimizer=adam."
        )
    neutral = OptimizerOptions()
    for key in ("embedding_lr", "embedding_l2", "embedding_mba"):
        if getattr(options, key) != getattr(neutral, key):
            raise ConfigError(
                f"optimizer.{key}={getattr(options, key)} is nothing for {family} models, whose "
                f"penalty is a key of their own (see {family}.*). Leave it out."
            )
    if cfg.get("gate") is not None:
        raise ConfigError(f"gate is nothing for {family} models: every row is a user or an item.")
    embedding = config.build_options(EmbeddingOptions, cfg.embedding, "embedding")
    if family == "towers" and embedding != EmbeddingOptions():
        raise ConfigError(
            "embedding.* is nothing for towers, which have keys of their own: towers.embed_dim, "
            "towers.layout and towers.ratio."
        )
    if embedding.is_dynamic:
        raise ConfigError(
            f"embedding.vocabulary=dynamic is for ctr and mtl models; {family} models know all "
            "users and items before they train. Leave it out."
        )
    for key in COLUMN_KEYS if family == "cf" else ():
        if cfg.data.get(key) is not None:
            raise ConfigError(
                f"data.{key}={cfg.data[key]} is nothing for cf models, which know users and items "
                "by their pairs alone. Leave it out, or choose towers=twotower."
            )
