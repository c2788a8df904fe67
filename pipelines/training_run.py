"""One training run from configuration to result, in the order in which a person reads about it."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from pipelines.run_folder import Continued, RunFolder
from pipelines.tracked_run import OUTPUTS, TrackedRun, TrackerObserver, chosen_spec
from recsys import config
from recsys.data.atomic import write_text_whole
from recsys.data.encode import FeaturePipeline
from recsys.data.loader import Loader
from recsys.data.options import DataOptions
from recsys.data.prepare import Prepared
from recsys.data.raw import RawDataset
from recsys.data.store import Store
from recsys.embedding.dynamic_columns import encode_dynamic
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.row_counts import count_rows
from recsys.embedding.sharded_storage import ShardedStorage
from recsys.embedding.sharding import shards
from recsys.embedding.storage import DenseStorage, Storage
from recsys.errors import ConfigError
from recsys.metrics.task_report import Report
from recsys.models.recommender import Recommender
from recsys.models.saved import SavedModel
from recsys.tracking.console import Console
from recsys.tracking.find import find_model
from recsys.tracking.format import size
from recsys.tracking.tracker import Tracker
from recsys.training.checkpoint import Checkpoint, Checkpoints
from recsys.training.initialization import initial_digest, start_from
from recsys.training.loop import Trainer
from recsys.training.moved_tables import plain_weights
from recsys.training.optfs import GateOptions, OptFSTrainer
from recsys.training.optimizers import STATE_FLOATS, OptimizerOptions, Optimizers
from recsys.training.options import TrainerOptions
from recsys.training.progress import Observer
from recsys.training.ranks import Ranks, restarts
from recsys.training.signals import Interrupted
from recsys.training.task_balance import TaskBalance, TaskOptions

GATE_METRICS = ("kept_share", "kept_rows", "seen_rows", "table_bytes", "full_table_bytes")


class TrainingRun(TrackedRun):
    """Everything that one `python -m pipelines.train` does for a network.

    Args:
        cfg: Composed configuration.
        family: Chosen model family.

    Raises:
        ConfigError: a node has an unknown key or a value out of range; nothing has been read yet.
    """

    takes_weights = True
    initial_digest: str | None = None
    """Of the weights before the first step."""

    def __init__(self, cfg: DictConfig, family: str) -> None:
        super().__init__(cfg, chosen_spec(cfg, family), int(cfg.seed))
        self.importance_rows = config.at_least("importance_rows", cfg.importance_rows, 0)
        self.trainer_options = config.build_options(TrainerOptions, cfg.trainer, "trainer")
        self.embedding = config.build_options(EmbeddingOptions, cfg.embedding, "embedding")
        self.optimizer_options = config.build_options(OptimizerOptions, cfg.optimizer, "optimizer")
        self.gate = None
        if cfg.get("gate") is not None:
            self.gate = config.build_options(GateOptions, cfg.gate, "gate")
            world_size = int(os.environ.get("WORLD_SIZE", "1"))
            self.gate.check(self.embedding.layout, self.optimizer_options.name, world_size)
        self.sharded = shards(self.embedding.sharding)
        if self.sharded:
            self.optimizer_options.check_sharding(self.embedding.sharding)
            if self.gate is not None:
                raise ConfigError(
                    f"gate=optfs with embedding.sharding={self.embedding.sharding}: gates are "
                    "learnt beside whole tables. Use embedding.sharding=none."
                )
        self.task_options = config.build_options(TaskOptions, cfg.tasks, "tasks")
        if family != "mtl" and self.task_options != TaskOptions():
            raise ConfigError(
                f"tasks.* weighs the labels of mtl models against each other; {family} models "
                "learn one. Leave it out."
            )
        if self.gate is not None and cfg.init_from is not None:
            raise ConfigError(
                f"gate=optfs with init_from={cfg.init_from}: gates are learnt from the beginning. "
                "Leave one of them out."
            )
        if family == "mtl" and self.gate is not None:
            raise ConfigError("gate=optfs is for ctr models. Leave gate out for mtl models.")
        if self.embedding.is_dynamic:
            self._check_dynamic()
        self.spec.check(self.embedding.dim)
        self.device = choose_device(self.trainer_options.device)
        if self.trainer_options.threads:
            torch.set_num_threads(self.trainer_options.threads)

    def run(self) -> dict[str, Any]:
        """Prepare, build, train, test, save, report."""
        self.ranks = Ranks.join(self.device, needs_group=self.sharded)
        with Console(self.cfg.console if self.ranks.is_first else "none") as self.console:
            try:
                data = self.prepare_data()
                self.folder, checkpoint = self.open_folder(data)
                resumed = checkpoint.state.get("run_id") if checkpoint else None
                with self.open_tracker(data, resumed or None) as tracker:
                    return self.train_and_test(data, checkpoint, tracker)
            except Interrupted as stopped:
                raise Interrupted(
                    f"{stopped}; continue with the same command and trainer.resume=auto "
                    f"(output_dir={self.folder})"
                ) from stopped
            except RuntimeError as error:
                if not self.ranks.lost_by(error):
                    raise
                print(f"process {self.ranks.rank}: {self.ranks.lost_text(error)}", file=sys.stderr)
                raise SystemExit(1) from error
            finally:
                self.ranks.leave()

    def _check_dynamic(self) -> None:
        """Refuse what reads rows before they are given out, or from several processes."""
        refused = {
            "gate=optfs": self.gate is not None,
            "optimizer.embedding_mba": self.optimizer_options.embedding_mba > 0,
        }
        for what, chosen in refused.items():
            if chosen:
                raise ConfigError(
                    f"{what} with embedding.vocabulary=dynamic: it counts the training rows of "
                    "every id before training, when no id has a row. Leave one of them out."
                )
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count > 1:
            raise ConfigError(
                f"embedding.vocabulary=dynamic trains on one process, got {count}: each would give "
                "the rows to other ids. Start without torchrun."
            )

    # -- data and places ---------------------------------------------------------------------

    def encoding_of(
        self, raw: RawDataset, options: DataOptions
    ) -> tuple[DataOptions, FeaturePipeline | None]:
        """Dynamic columns as such; what begins with another run's weights, by its pipeline: new
        ids find rows, and all else keeps its codes."""
        options = encode_dynamic(raw.schema, options, self.embedding)
        if self.cfg.init_from is None or not self.embedding.is_dynamic:
            return options, None
        earlier = find_model(str(self.cfg.init_from), self.cfg.tracking.get("uri"))
        return options, FeaturePipeline.load(earlier / "pipeline")

    def open_folder(self, data: Prepared) -> tuple[Path, Checkpoint | None]:
        """Choose the output folder, and the checkpoint to continue from if there is one."""
        place = RunFolder(
            OUTPUTS / data.name / self.stem,
            config.identity(self.cfg),
            ("checkpoints",),
            self.console.note,
        )
        resume = self.trainer_options.resume or ("auto" if restarts() else None)
        mine: list[Continued | None] = [None]

        def chosen() -> tuple[str, int | None]:
            folder, mine[0] = place.choose(self.cfg.output_dir, resume, self.started)
            place.claim(folder, mine[0])
            OmegaConf.save(self.cfg, folder / "config.yaml")
            return str(folder), None if mine[0] is None else mine[0].checkpoint.step

        name, step = self.ranks.first(chosen)
        folder = Path(name)
        if step is None:
            return folder, None
        if mine[0] is not None:
            return folder, mine[0].checkpoint
        return folder, Checkpoints(folder / "checkpoints").load(step, verified=True)

    # -- the work ----------------------------------------------------------------------------

    def train_and_test(
        self, data: Prepared, checkpoint: Checkpoint | None, tracker: Tracker
    ) -> dict[str, Any]:
        """Build, fit, evaluate and write everything down."""
        begin = time.perf_counter()
        seed_everything(self.seed)
        storage = self.optimizer_options.storage_factory(
            self.device,
            self.ranks.world_size,
            self.embedding.sharding,
            self.trainer_options.batch_size,
        )
        recommender = self.recommender(data, self.embedding, storage).to(self.device)
        self.begin_weights(recommender, data, checkpoint, tracker)
        labels = data.pipeline.schema.labels
        balance = None
        if len(labels) > 1:
            balance = TaskBalance(labels, self.task_options).to(self.device)
        counts = None
        if self.optimizer_options.embedding_mba:
            counts = count_rows(data.train, recommender.lookup.layout)
        optimizers = Optimizers(
            recommender.lookup,
            recommender.model,
            self.optimizer_options,
            counts,
            () if balance is None else balance.parameters(),
        )
        parameters = recommender.num_parameters()
        memory = recommender.lookup.memory(STATE_FLOATS[self.optimizer_options.name])
        self.console.model(self.spec.class_name, recommender.lookup, parameters, memory)
        plan = self.tell_plan(recommender.lookup.storage, tracker)
        self.console.note(f"output {self.folder}   {tracker.url}")
        self.log_data(data, tracker)

        trainer = self.trainer(recommender, optimizers, data, tracker, balance)
        train, val = self.loader(data.train, shuffle=True), None
        if data.val is not None:
            val = self.loader(data.val, shuffle=False)
        if checkpoint is not None:
            trainer.load(checkpoint, train)
            self.console.note(f"continuing after step {trainer.global_step:,}")
        trainer.fit(train, val)
        fit_seconds = time.perf_counter() - begin
        gate = None
        if isinstance(trainer, OptFSTrainer):
            # What is evaluated from here on is what is saved: the table without the rows.
            gate = trainer.report() | {"full_table_bytes": memory["weights"]}
            recommender.lookup.prune()
            parameters = recommender.num_parameters()
            memory |= {"serving": recommender.lookup.memory()["serving"]}
            gate["table_bytes"] = recommender.lookup.memory()["weights"]
            gate["map_bytes"] = memory["serving"] - gate["table_bytes"]
        reports = {
            name: trainer.evaluate(self.loader(store, shuffle=False))
            for name, store in (("val", data.val), ("test", data.test))
            if store is not None
        }
        if not self.ranks.is_first:
            return {}
        metrics = {name: report.compute() for name, report in reports.items()}
        result = {
            **self.origin(data.name, data.digest, tracker),
            "initial_digest": self.initial_digest,
            "num_parameters": parameters["embedding"] + parameters["dense"],
            "parameters": parameters,
            "embedding_bytes": memory,
            "metrics": metrics,
            "epochs": trainer.epoch,
            "steps": trainer.global_step,
            "fit_seconds": fit_seconds,
            "train_rows_per_second": trainer.curve.rows_per_second,
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "notes": [*data.notes, *self.told_of_length(trainer)],
        }
        if data.bayes is not None:
            result["bayes"] = dict(data.bayes)
        if gate is not None:
            result["gate"] = gate
        if recommender.lookup.vocabularies is not None:
            result["vocabularies"] = recommender.lookup.vocabularies.report()
        if plan:
            result |= {"plan": plan, "processes": self.ranks.world_size}
            trainer.recommender = self.whole_recommender(data, trainer)
        self.write_results(result, trainer, reports, data, tracker)
        return result

    def told_of_length(self, trainer: Trainer) -> list[str]:
        """A sentence where training ended for want of epochs and not of progress."""
        options = self.trainer_options
        wanted = options.patience > 0 and options.max_steps is None and self.gate is None
        if not (wanted and trainer.curve.ends_at_its_best):
            return []
        note = (
            f"{options.monitor} was still getting better in the last of {options.epochs} epochs; "
            f"give more, trainer.epochs={2 * options.epochs}: training stops by itself, "
            f"{options.patience} validations after the best"
        )
        self.console.note(f"note: {note}")
        return [note]

    def begin_weights(
        self,
        recommender: Recommender,
        data: Prepared,
        checkpoint: Checkpoint | None,
        tracker: Tracker,
    ) -> None:
        """Take another run's weights where the configuration says so, and note how they begin: runs
        that begin alike can be averaged."""
        if checkpoint is not None:
            self.initial_digest = checkpoint.state.get("initial_digest")
            return
        if self.cfg.init_from is not None:
            run = str(self.cfg.init_from)
            saved = SavedModel.load(find_model(run, self.cfg.tracking.get("uri")))
            start_from(recommender, saved, data.pipeline, run)
            self.console.note(f"begins with the weights of {run}")
        if self.ranks.is_first:
            self.initial_digest = initial_digest(recommender)
            tracker.set_tags({"initial_digest": self.initial_digest})

    def recommender(
        self,
        data: Prepared,
        embedding: EmbeddingOptions,
        storage: Callable[[int, int], Storage],
    ) -> Recommender:
        """Lookup and model for the columns of some data, untrained."""
        return Recommender.build(
            data.pipeline.schema,
            embedding,
            self.spec.make,
            storage,
            self.spec.pools_histories,
            self.spec.needs_fields,
            separate_tables=self.spec.separate_tables,
        )

    def trainer(
        self,
        recommender: Recommender,
        optimizers: Optimizers,
        data: Prepared,
        tracker: Tracker,
        balance: TaskBalance | None,
    ) -> Trainer:
        """The loop, or the loop with gates around it."""
        checkpoints = Checkpoints(
            self.folder / "checkpoints",
            self.trainer_options.keep_last,
            attach=lambda folder: data.pipeline.save(folder / "pipeline"),
        )
        own: tuple[Observer, ...] = (self.console, TrackerObserver(tracker))
        observers = own + self.listeners
        facts = {"run_id": tracker.run_id, "initial_digest": self.initial_digest}
        if self.gate is None:
            return Trainer(
                recommender,
                optimizers,
                self.trainer_options,
                checkpoints,
                observers=observers,
                ranks=self.ranks,
                facts=facts,
                balance=balance,
            )
        return OptFSTrainer(
            recommender,
            optimizers,
            self.trainer_options,
            self.gate,
            count_rows(data.train, recommender.lookup.layout),
            checkpoints,
            observers=observers,
            facts=facts,
            notify=self.console.note,
        )

    def tell_plan(self, storage: Storage, tracker: Tracker) -> list[dict[str, Any]]:
        """Print and keep where sharded tables lie; nothing where none is."""
        if not isinstance(storage, ShardedStorage):
            return []
        plan = [vars(one) for one in storage.placement]
        self.console.table(
            f"Plan for {self.ranks.world_size} processes, {self.device.type}",
            ("table", "rows", "width", "sharding", "processes", "with optimiser"),
            [
                (one.table, f"{one.rows:,}", one.width, one.sharding, among(one.ranks),
                 size(one.mebibytes * 2**20))
                for one in storage.placement
            ],
        )  # fmt: skip
        if self.ranks.is_first:
            path = self.folder / "plan.json"
            write_text_whole(path, json.dumps(plan, indent=1))
            tracker.log_artifact(path)
        return plan

    def whole_recommender(self, data: Prepared, trainer: Trainer) -> Recommender:
        """The best model in one process, on a CPU: to be explained, saved and served."""
        assert trainer.checkpoints is not None
        checkpoint = trainer.checkpoints.load(trainer.checkpoints.best_step())
        whole = dataclasses.replace(self.embedding, sharding="none")
        recommender = self.recommender(data, whole, DenseStorage)
        recommender.load_tensors(plain_weights(recommender.lookup, checkpoint))
        return recommender

    def loader(self, store: Store, shuffle: bool) -> Loader:
        """Batches of a store for this rank."""
        options = self.trainer_options
        return Loader(
            store,
            options.batch_size if shuffle else options.eval_batch_size,
            shuffle=shuffle,
            seed=self.seed,
            rank=self.ranks.rank,
            world_size=self.ranks.world_size,
            shuffle_rows=options.shuffle_rows,
            prefetch=options.prefetch,
        )

    def write_results(
        self,
        result: dict[str, Any],
        trainer: Trainer,
        reports: Mapping[str, Report],
        data: Prepared,
        tracker: Tracker,
    ) -> None:
        """Model, plots and numbers: in the output folder, and in MLflow."""
        plots = self.write_figures(result, trainer, reports, data)
        more: dict[str, float] = {}
        if "gate" in result:
            more = {f"gate/{key}": result["gate"][key] for key in GATE_METRICS}
            self.console.note(gate_line(result["gate"]))
        for name, facts in result.get("vocabularies", {}).items():
            more |= {f"vocabulary/{name}/{key}": float(value) for key, value in facts.items()}
            self.console.note(vocabulary_line(name, facts))
        more |= {f"experts/{key}": value for key, value in result.get("experts", {}).items()}
        more |= {f"tasks/{key}": value for key, value in result.get("tasks_agree", {}).items()}
        recommender = trainer.recommender.cpu()
        self.finish(result, recommender, data, plots, tracker, trainer.global_step, more)

    def write_figures(
        self,
        result: dict[str, Any],
        trainer: Trainer,
        reports: Mapping[str, Report],
        data: Prepared,
    ) -> Path:
        """How training went, what the model explains, what each field is worth to it."""
        from pipelines import training_report as report

        folder, recommender = self.folder / "plots", trainer.recommender
        about = (folder, self.spec.class_name, data.name)
        report.write_plots(
            *about, data.train.num_rows, trainer.curve, self.trainer_options.monitor, reports
        )
        rows = report.first_batches(data)
        found = report.explained(recommender, rows)
        report.write_explanations(*about, report.slot_names(recommender), found)
        if "gate" in result:
            report.write_gate(*about, data.train.num_rows, result["gate"])
        experts = report.write_experts(*about, recommender, rows)
        if experts:
            result["experts"] = experts
        tasks = report.write_task_gradients(*about, recommender, rows)
        if tasks:
            result["tasks_agree"] = tasks
        if self.importance_rows:
            permuted = report.importance_rows(data, self.importance_rows, self.seed)
            score = report.score_of(recommender)
            schema = data.pipeline.schema
            report.write_importance(
                *about, score, schema, permuted, self.console, self.seed,
                together=recommender.model.joined_histories,
            )  # fmt: skip
        return folder


def gate_line(gate: dict[str, Any]) -> str:
    """How many rows are left, and what that saves."""
    return (
        f"rows kept {gate['kept_rows']:,} of {gate['seen_rows']:,} that training reads "
        f"({gate['kept_share']:.1%}; the table has {gate['rows']:,}); saved table "
        f"{size(gate['table_bytes'])} instead of {size(gate['full_table_bytes'])}"
    )


def vocabulary_line(name: str, facts: Mapping[str, int]) -> str:
    """How many ids of a dynamic column have rows.

    Example:
        >>> vocabulary_line("user_id", {"rows": 1200, "capacity": 1500, "evicted": 3})
        'user_id: 1,200 of 1,500 rows belong to ids, 3 rows changed hands'
    """
    return (
        f"{name}: {facts['rows']:,} of {facts['capacity']:,} rows belong to ids, "
        f"{facts['evicted']:,} rows changed hands"
    )


def among(ranks: Sequence[int]) -> str:
    """Processes, shortly.

    Example:
        >>> among((3,)), among((0, 1, 2, 3)), among((0, 2))
        ('3', '0-3', '0, 2')
    """
    every = sorted(set(ranks))
    if len(every) > 1 and every == list(range(every[0], every[-1] + 1)):
        return f"{every[0]}-{every[-1]}"
    return ", ".join(map(str, every))


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU when there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("cuda"):
        if not torch.cuda.is_available():
            raise ConfigError(
                f"trainer.device={name}, but torch sees no GPU. Use trainer.device=cpu, or see "
                "python -m pipelines.doctor."
            )
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if name != "cpu":
        raise ConfigError(f'trainer.device="{name}" does not exist. Allowed: auto, cpu, cuda.')
    return torch.device("cpu")


def seed_everything(seed: int) -> None:
    """Seed every generator that anything in a run might draw from."""
    random.seed(seed)
    torch.manual_seed(seed)
