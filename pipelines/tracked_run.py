"""What every training run does around its training: data in; a folder and a tracked run out."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from omegaconf import DictConfig

import recsys
from recsys import config
from recsys.data.atomic import write_text_whole
from recsys.data.encode import FeaturePipeline
from recsys.data.interactions import Interactions
from recsys.data.options import DataOptions
from recsys.data.prepare import Prepared, prepare
from recsys.data.raw import RawDataset
from recsys.errors import ConfigError
from recsys.models.recommender import Recommender
from recsys.models.saved import BoostedTrees, ModelSpec, SavedModel
from recsys.tracking.console import Console
from recsys.tracking.names import experiment_name, run_name
from recsys.tracking.run import infer_signature, open_tracker
from recsys.tracking.tracker import Tracker
from recsys.training.progress import EvaluationRecord, Observer, StepRecord
from recsys.training.ranks import Ranks

OUTPUTS = Path("outputs")
EXAMPLE_ROWS = 5
EXAMPLES_AMONG = 10_000


def chosen_spec(cfg: DictConfig, family: str) -> ModelSpec:
    """The model that a configuration's node of a family describes."""
    arguments = {k: v for k, v in config.plain(cfg[family]).items() if k != "_target_"}
    return ModelSpec(family, cfg[family]["_target_"], arguments)


class TrackedRun:
    """The parts of a run that do not depend on how its model learns.

    Args:
        cfg: Composed configuration.
        spec: The model.
        seed: Of everything drawn.
    """

    ranks: Ranks
    console: Console
    folder: Path
    """Output folder; known once the data is."""
    listeners: tuple[Observer, ...] = ()
    """Told of progress beside the console and the tracker."""
    parent_run_id: str | None = None
    """The run in MLflow of which this one is a part."""
    name: str | None = None
    """Of the run in MLflow; None: model and time."""
    takes_weights: ClassVar[bool] = False
    """Whether such a run can begin with another one's weights."""

    def __init__(self, cfg: DictConfig, spec: ModelSpec, seed: int) -> None:
        if cfg.get("init_from") is not None and not self.takes_weights:
            raise ConfigError(
                f"init_from={cfg.init_from}: {spec.stem} cannot begin with another run's weights, "
                "only the networks of ctr and mtl can. Leave init_from out."
            )
        self.cfg = cfg
        self.spec = spec
        self.stem = spec.stem
        self.seed = seed
        self.started = datetime.now()
        self.device: Any = "cpu"

    def prepare_data(self) -> Prepared:
        """Read the recipe, fit and encode (or open what an earlier run encoded)."""
        raw, options = config.build_dataset(self.cfg.data, self.spec.family)
        options, given = self.encoding_of(raw, options)
        self.console.banner(
            f"recsys {recsys.__version__} - {self.spec.class_name} on {raw.name} - {self.device} - "
            f"seed {self.seed}"
        )
        if self.ranks.is_first:
            cache = OUTPUTS / "prepared"
            prepared = prepare(raw, options, cache, self.console.preparing, given)
        self.ranks.wait()  # the others open what the first one wrote
        if not self.ranks.is_first:
            prepared = prepare(raw, options, OUTPUTS / "prepared", pipeline=given)
        self.console.prepared(prepared)
        columns = prepared.pipeline.schema.names
        source = next(iter(raw.files.values()))
        self.example = telling_rows(source.head(EXAMPLES_AMONG, columns), EXAMPLE_ROWS).to_pandas()
        return prepared

    def encoding_of(
        self, raw: RawDataset, options: DataOptions
    ) -> tuple[DataOptions, FeaturePipeline | None]:
        """How data is encoded: its options, and an earlier run's pipeline if that is to do it."""
        del raw
        return options, None

    @contextmanager
    def open_tracker(
        self, data: Prepared | Interactions, resume_run_id: str | None = None
    ) -> Iterator[Tracker]:
        """The run in MLflow; only the first rank has one."""
        kind = self.cfg.tracking.kind if self.ranks.is_first else "none"
        tags = {
            "model": self.stem,
            "family": self.spec.family,
            "dataset": data.name,
            "seed": self.seed,
            "device": str(self.device),
            "output_dir": str(self.folder.resolve()),
            **config.plain(self.cfg.tracking.get("tags") or {}),
        }
        with open_tracker(
            kind,
            experiment=experiment_name(data.name),
            run_name=self.name or run_name(self.stem, self.started),
            uri=self.cfg.tracking.get("uri"),
            tags=tags,
            resume_run_id=resume_run_id,
            parent_run_id=self.parent_run_id,
            system_metrics=bool(self.cfg.tracking.get("system_metrics", False)),
            notify=self.console.note,
        ) as tracker:
            tracker.log_params(loggable(self.cfg))
            yield tracker

    def log_data(self, data: Prepared, tracker: Tracker) -> None:
        """Record what each split is, so that runs are compared on the same rows."""
        schema = {f.name: f"{f.kind} ({f.encoding})" for f in data.pipeline.schema}
        for context, store in (
            ("training", data.train),
            ("validation", data.val),
            ("test", data.test),
        ):
            if store is not None:
                tracker.log_dataset(
                    data.name,
                    digest=store.digest,
                    context=context,
                    num_rows=store.num_rows,
                    source=str(
                        self.cfg.data.get("source") or self.cfg.data.get("path") or data.name
                    ),
                    schema=schema,
                )

    def origin(self, data: str, digest: str, tracker: Tracker) -> dict[str, Any]:
        """What every result begins with: which run it is, of what, made from what."""
        return {
            "run_id": tracker.run_id,
            "model": self.stem,
            "data": data,
            "seed": self.seed,
            "config": config.plain(self.cfg),
            "data_digest": digest,
        }

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
        """Write model and numbers: in the output folder, and in MLflow with the plots.

        Args:
            result: What `result.json` will hold; gets `folder` besides.
            model: On a CPU.
            data: What it was trained on.
            plots: Folder of the figures.
            tracker: The run in MLflow.
            step: Of the weights.
            more: Metrics beside those of the test split.
        """
        saved = SavedModel(model, data.pipeline, self.spec, self.facts(result))
        folder = self.folder / "model"
        saved.save(folder)
        log_model(tracker, folder, saved, self.example, step)
        self.publish(result, plots, tracker, step, more)

    def facts(self, result: Mapping[str, Any]) -> dict[str, Any]:
        """What a saved model tells of its run."""
        keys = ("run_id", "data", "data_digest", "seed", "initial_digest")
        return {key: result[key] for key in keys if key in result}

    def publish(
        self,
        result: dict[str, Any],
        plots: Path,
        tracker: Tracker,
        step: int,
        more: Mapping[str, float],
    ) -> None:
        """Write the numbers: in the output folder, in MLflow with the plots, and on screen."""
        found = compared(
            result["metrics"].get("test", {}), ("auc", "gauc", "logloss", "calibration")
        )
        final = {f"test/{name}": value for name, value in found.items()}
        for key in ("fit_seconds", "train_rows_per_second", "peak_memory_mib"):
            final[key] = result[key]
        tracker.log_metrics(final | dict(more), step)
        tracker.log_artifact(self.folder / "config.yaml")
        tracker.log_artifact(plots, "plots")
        text = json.dumps(result, indent=1)
        write_text_whole(self.folder / "result.json", text)
        tracker.log_artifact(self.folder / "result.json")
        if self.cfg.result_file:
            write_text_whole(Path(self.cfg.result_file), text)
        result["folder"] = str(self.folder)  # not in the file, which may move
        self.console.result(result, self.folder)


class TrackerObserver:
    """Sends progress to MLflow: one dictionary per record, never per batch."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def step(self, record: StepRecord) -> None:
        self.tracker.log_metrics(
            {
                "train/loss": record.loss,
                "train/grad_norm": record.grad_norm,
                "train/lr": record.lr,
                "train/rows_per_second": record.rows_per_second,
                "train/data_share": record.data_share,
                "train/epoch": float(record.epoch),
            },
            record.step,
        )

    def evaluation(self, record: EvaluationRecord) -> None:
        found = compared(record.metrics, ("auc",))
        values = {f"val/{name}": value for name, value in found.items()}
        self.tracker.log_metrics(values, record.step)


def compared(metrics: Mapping[str, float], of_labels: Collection[str]) -> dict[str, float]:
    """The metrics that runs are compared by: all of one label; of several their means, and these of
    each label. (`result.json` has every number.)

    Example:
        >>> compared({"ece": 0.1, "click/auc": 0.8, "click/ece": 0.2}, ("auc",))
        {'ece': 0.1, 'click/auc': 0.8}
    """
    return {
        key: value
        for key, value in metrics.items()
        if "/" not in key or key.rpartition("/")[2] in of_labels
    }


def telling_rows(table: pa.Table, rows: int) -> pa.Table:
    """The rows that hold the longest lists, in their order: the first rows of a log have empty
    histories, and no type can be told from an empty list."""
    lengths = np.zeros(table.num_rows, np.int64)
    for column in table.columns:
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            lengths += pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    return table.take(np.sort(np.argsort(-lengths, kind="stable")[:rows]))


def log_model(
    tracker: Tracker, folder: Path, saved: SavedModel, example: pd.DataFrame, step: int
) -> None:
    """Log the model as a pyfunc that carries its code, its signature made of raw rows."""
    package = Path(recsys.__file__).parent
    scored = pd.DataFrame(saved.named(saved.predict(example)))
    tracker.log_pyfunc_model(
        "model",
        python_model=str(package / "tracking" / "pyfunc.py"),
        artifacts={"model": str(folder)},
        signature=infer_signature(example, scored),
        code_paths=[str(package)],
        step=step,
    )


def loggable(cfg: DictConfig) -> dict[str, Any]:
    """What a user can set: the configuration without places and switches of presentation."""
    values = config.plain(cfg)
    for key in (*config.NOT_IDENTITY, "experiment"):
        values.pop(key, None)
    config.drop_unread(values)
    return {key: value for key, value in values.items() if value is not None}
