"""One soup from configuration to result."""

from __future__ import annotations

import resource
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from pipelines.run_folder import RunFolder
from pipelines.tracked_run import OUTPUTS, TrackedRun
from pipelines.training_report import write_quality
from pipelines.training_run import choose_device
from recsys import config
from recsys.data.loader import Loader
from recsys.data.prepare import Prepared
from recsys.data.store import Store
from recsys.errors import ConfigError, did_you_mean
from recsys.metrics.task_report import Report, report_for
from recsys.models.recommender import Recommender
from recsys.models.saved import SavedModel
from recsys.models.soup import Ingredient, Soup, check_alike, greedy_soup, uniform_soup
from recsys.tracking import plots
from recsys.tracking.console import Console
from recsys.tracking.find import find_model
from recsys.tracking.format import metric
from recsys.tracking.names import run_name
from recsys.tracking.tracker import Tracker
from recsys.training.batch_statistics import renew_batch_statistics
from recsys.training.plateau import HIGHER_IS_BETTER, Plateau
from recsys.training.ranks import Ranks

KEEP = ("greedy", "uniform")
Metrics = dict[str, dict[str, float]]
"""Split -> metric -> value."""


class SoupRun(TrackedRun):
    """Everything that one `python -m pipelines.soup` does.

    Args:
        cfg: Composed configuration.

    Raises:
        ConfigError: a value makes no sense, or the runs must not be averaged.
    """

    def __init__(self, cfg: DictConfig) -> None:
        if cfg.keep not in KEEP:
            raise ConfigError(f"keep={cfg.keep} does not exist.{did_you_mean(str(cfg.keep), KEEP)}")
        uri = cfg.tracking.get("uri")
        names = [str(run) for run in config.plain(cfg.runs)]
        self.ingredients = [Ingredient.open(name, find_model(name, uri)) for name in names]
        check_alike(self.ingredients)
        self.configs = [configuration(one) for one in self.ingredients]
        first = self.configs[0]
        # A soup may be an ingredient; it was chosen by a metric, but not trained.
        self.monitor = str(cfg.monitor or first.get("monitor") or first.trainer.monitor)
        self.plateau = Plateau(self.monitor, patience=0)
        # What the runs were made of is part of what a soup is: comparing and rescoring read it.
        family = self.ingredients[0].spec.family
        whole = {key: first[key] for key in ("data", family, "embedding")} | dict(cfg.items())
        whole["monitor"] = self.monitor
        super().__init__(OmegaConf.create(whole), self.ingredients[0].spec, 0)
        self.ranks = Ranks()
        self.name = run_name(f"{self.stem}-soup", self.started)
        self.device = choose_device(str(cfg.device))
        for key in ("norm_batches", "batch_size", "eval_batch_size"):
            config.at_least(key, cfg[key], 1)

    def run(self) -> dict[str, Any]:
        """Average, choose, test, save, report."""
        with Console(self.cfg.console) as self.console:
            data = self.prepare_data()
            self.check_data(data)
            base = OUTPUTS / data.name / f"{self.stem}-soup"
            place = RunFolder(base, "", (), self.console.note)
            self.folder, _ = place.choose(self.cfg.output_dir, None, self.started)
            self.folder.mkdir(parents=True, exist_ok=True)
            OmegaConf.save(self.cfg, self.folder / "config.yaml")
            with self.open_tracker(data) as tracker:
                return self.cook(data, tracker)

    def check_data(self, data: Prepared) -> None:
        """Raise ConfigError where the rows are not those that the runs were judged by."""
        for one in self.ingredients:
            if one.facts["data_digest"] != data.digest:
                raise ConfigError(
                    f"{one.name} was trained and judged on other rows than there are now (digests "
                    f"{one.facts['data_digest']} and {data.digest}). Train the runs again, or put "
                    "the data back."
                )
        if data.val is None:
            raise ConfigError(
                "the runs have no validation rows, and test rows must choose nothing. Train them "
                "with a validation split (data.split, data.val_path)."
            )

    def cook(self, data: Prepared, tracker: Tracker) -> dict[str, Any]:
        """Judge each run, make both soups, keep one."""
        begin = time.perf_counter()
        self.console.note(f"output {self.folder}   {tracker.url}")
        self.log_data(data, tracker)
        names = ", ".join(one.name for one in self.ingredients)
        self.console.note(f"a soup of {len(self.ingredients)} runs: {names}")
        assert data.val is not None
        val = data.val
        judged = SavedModel.load(self.ingredients[0].folder).recommender.to(self.device)

        def on_validation(weights: Mapping[str, Tensor], renew: bool) -> dict[str, float]:
            self.fill(judged, weights, data if renew else None)
            return self.evaluate(judged, val).compute()

        alone = [on_validation(one.weights(), renew=False) for one in self.ingredients]
        sign = 1.0 if HIGHER_IS_BETTER[self.monitor] else -1.0
        loaders = [one.weights for one in self.ingredients]
        greedy = greedy_soup(
            loaders,
            [sign * self.plateau.value(found) for found in alone],
            lambda weights: sign * self.plateau.value(on_validation(weights, renew=True)),
        )
        every = tuple(range(len(loaders)))
        soups = {"uniform": Soup(every, uniform_soup(loaders), ()), "greedy": greedy}
        # What is chosen is chosen: from here on test rows are read.
        found: dict[str, Metrics] = {}
        reports: dict[str, dict[str, Report]] = {}
        for one in self.ingredients:
            self.fill(judged, one.weights(), None)
            found[one.name] = computed(self.reports(judged, data))
        for name in sorted(soups, key=lambda name: name == self.cfg.keep):  # that one last
            soup = soups[name]
            self.fill(judged, soup.weights, data if len(soup.kept) > 1 else None)
            reports[name] = self.reports(judged, data)
            found[name] = computed(reports[name])
        kept = soups[self.cfg.keep].kept
        self.tell(found, kept, greedy)
        seconds = time.perf_counter() - begin
        # Dropout may differ between runs, and acts in training alone: the first kept one's is kept.
        self.spec = self.ingredients[kept[0]].spec
        return self.write_down(
            judged.cpu(), found, kept, reports[self.cfg.keep], seconds, data, tracker
        )

    def fill(
        self, recommender: Recommender, weights: Mapping[str, Tensor], data: Prepared | None
    ) -> None:
        """Put weights in; of a mean, batch norm's statistics are renewed on training rows."""
        recommender.load_tensors(dict(weights))
        if data is None:
            return
        loader = Loader(data.train, int(self.cfg.batch_size), shuffle=True, seed=0, prefetch=0)
        batches = (
            batch.to(self.device)
            for batch, _ in zip(loader, range(int(self.cfg.norm_batches)), strict=False)
            if len(batch) > 1
        )
        renew_batch_statistics(recommender.train(), batches)

    def evaluate(self, recommender: Recommender, store: Store) -> Report:
        """Logits of every row, with labels."""
        recommender.eval()
        schema = store.schema
        report = report_for(schema.labels, schema.parents, store.num_rows)
        loader = Loader(store, int(self.cfg.eval_batch_size), shuffle=False)
        with torch.no_grad():
            for batch in loader:
                logits = recommender(batch.to(self.device))
                report.add(logits.float(), batch.label, batch.weight, batch.group)
        return report

    def reports(self, recommender: Recommender, data: Prepared) -> dict[str, Report]:
        """Of validation and test rows."""
        return {
            name: self.evaluate(recommender, store)
            for name, store in (("val", data.val), ("test", data.test))
            if store is not None
        }

    def tell(self, found: Mapping[str, Metrics], kept: tuple[int, ...], greedy: Soup) -> None:
        """A row for each run and each soup."""
        columns = [(split, name) for split in ("val", "test") for name in self.shown()]
        there = [(s, n) for s, n in columns if all(n in one.get(s, {}) for one in found.values())]
        marks = {self.ingredients[i].name: "yes" for i in kept}
        self.console.table(
            f"runs and soups; {self.monitor} on val chose, test did not",
            ("model", *(f"{split} {name}" for split, name in there), "kept"),
            [
                (name, *(metric(n, one[s][n]) for s, n in there), marks.get(name, ""))
                for name, one in found.items()
            ],
        )
        if len(greedy.kept) == 1:
            self.console.note(
                "the greedy soup is the best run alone: no mean with another one is better on "
                "validation"
            )

    def shown(self) -> list[str]:
        """Metrics of the table."""
        chosen = [] if self.monitor in ("auc", "logloss", "auc-logloss") else [self.monitor]
        return [*chosen, "auc", "logloss"]

    def write_down(
        self,
        recommender: Recommender,
        found: Mapping[str, Metrics],
        kept: tuple[int, ...],
        reports: Mapping[str, Report],
        seconds: float,
        data: Prepared,
        tracker: Tracker,
    ) -> dict[str, Any]:
        """Model, numbers and figure: in the output folder, in MLflow and on screen."""
        parameters = recommender.num_parameters()
        keep = str(self.cfg.keep)
        result: dict[str, Any] = {
            **self.origin(data.name, data.digest, tracker),
            "initial_digest": self.ingredients[0].facts["initial_digest"],
            "num_parameters": parameters["embedding"] + parameters["dense"],
            "parameters": parameters,
            "model_bytes": sum(one.nbytes for one in recommender.tensors().values()),
            "metrics": found[keep],
            "soup": {
                "keep": keep,
                "monitor": self.monitor,
                "kept": [self.ingredients[i].name for i in kept],
                "runs": {
                    one.name: {"run_id": one.facts.get("run_id"), "metrics": found[one.name]}
                    for one in self.ingredients
                },
                "soups": {name: found[name] for name in KEEP},
            },
            "epochs": 0,
            "steps": 0,
            "fit_seconds": seconds,
            "train_rows_per_second": 0.0,
            "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "notes": list(data.notes),
        }
        tracker.set_tags(
            {
                "soup": keep,
                "initial_digest": result["initial_digest"],
                "ingredients": ", ".join(str(one.facts.get("run_id")) for one in self.ingredients),
                "kept": ", ".join(str(self.ingredients[i].facts.get("run_id")) for i in kept),
            }
        )
        folder = self.folder / "plots"
        folder.mkdir(exist_ok=True)
        write_quality(folder, self.spec.class_name, data.name, reports)
        self.draw(folder, found, kept, data)
        more = {f"val/{name}": value for name, value in found[keep]["val"].items()}
        self.finish(result, recommender, data, folder, tracker, 0, more)
        return {**result, "folder": str(self.folder)}

    def draw(
        self, folder: Path, found: Mapping[str, Metrics], kept: tuple[int, ...], data: Prepared
    ) -> None:
        """How far each run and each soup is from the run that validation calls best."""
        values = {
            split: {name: self.plateau.value(one[split]) for name, one in found.items()}
            for split in ("val", "test")
            if all(split in one for one in found.values())
        }
        sign = 1.0 if HIGHER_IS_BETTER[self.monitor] else -1.0
        runs = [one.name for one in self.ingredients]
        best = max(runs, key=lambda name: sign * values["val"][name])
        chosen = {runs[i] for i in kept}
        figure = plots.bar_panels(
            plots.Subject(self.spec.class_name, data.name, data.val.num_rows if data.val else 0),
            [f"{name} (kept)" if name in chosen else name for name in found],
            [
                plots.Panel(
                    f"{split} {self.monitor} less the best run's",
                    [one - of_split[best] for one in of_split.values()],
                    columns=(f"{split}_difference", ""),
                )
                for split, of_split in values.items()
            ],
            title="Runs and soups",
            column="model",
        )
        plots.save_figure(*figure, folder / "soup")


def computed(reports: Mapping[str, Report]) -> Metrics:
    """The metrics of every split."""
    return {name: report.compute() for name, report in reports.items()}


def configuration(ingredient: Ingredient) -> DictConfig:
    """With what a run was made.

    Raises:
        ConfigError: its output folder is not on this disk.
    """
    path = ingredient.folder.parent / "config.yaml"
    if not path.is_file():
        raise ConfigError(
            f"{ingredient.name}: its output folder is not on this disk (there is no {path}). Make "
            "the soup where the runs were made."
        )
    cfg = OmegaConf.load(path)
    assert isinstance(cfg, DictConfig)
    return cfg
