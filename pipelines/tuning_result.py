"""What a search leaves behind: its table, its figures, its best configuration."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import polars as pl
from omegaconf import DictConfig
from optuna.trial import FrozenTrial

from recsys import config
from recsys.data.atomic import write_text_whole
from recsys.experiment_file import as_experiment, write_experiment
from recsys.tracking.figures import Subject, save_figure
from recsys.tuning import history
from recsys.tuning.space import Dimension, decoded
from recsys.tuning.study import best_first

SHOWN = 5
"""Best configurations in the last table."""


@dataclass(frozen=True, kw_only=True)
class TuningResult:
    """A study, as people and programs want to read it.

    Args:
        study: Its trials.
        folder: Where everything is written.
        subject: What figures are about.
        monitor: The metric that decides.
        maximize: Whether more of it is better.
        dimensions: The space.
        seeds: Of every trial.
        final_seeds: Of the finalists.
        configuration: The training configuration of a trial's parameters and a seed.
    """

    study: optuna.Study
    folder: Path
    subject: Subject
    monitor: str
    maximize: bool
    dimensions: tuple[Dimension, ...]
    seeds: tuple[int, ...]
    final_seeds: tuple[int, ...]
    configuration: Callable[[dict[str, Any], int], DictConfig]

    def write(self, table: pl.DataFrame, about: Mapping[str, Any]) -> dict[str, Any]:
        """Table, figures, and the best configuration.

        Args:
            table: Of `history.trial_table`, not empty.
            about: More for the result.

        Returns:
            What `result.json` holds.
        """
        write_text_whole(self.folder / "trials.csv", table.write_csv())
        plots = self.folder / "plots"
        save_figure(*history.history_plot(self.subject, table, self.monitor), plots / "history")
        found = history.importances(self.study)
        if found:
            save_figure(*history.importance_plot(self.subject, found), plots / "importance")
        keys = list(found) or [one.key for one in self.dimensions]
        log = [one.key for one in self.dimensions if getattr(one.distribution, "log", False)]
        drawn = history.slice_plot(self.subject, table, keys, self.monitor, log)
        save_figure(*drawn, plots / "slices")
        states = {str(k): int(v) for k, v in table["state"].value_counts().iter_rows()}
        result: dict[str, Any] = {
            "study": self.study.study_name, **about, "monitor": self.monitor,
            "seeds": list(self.seeds), "trials": states,
            "elapsed": float(table["elapsed"].to_numpy().max()),
            "importance": found, "output_dir": str(self.folder),
        }  # fmt: skip
        ranking = self.ranking()
        if ranking:
            result |= self.write_best(*ranking[0])
        write_text_whole(self.folder / "result.json", json.dumps(result, indent=1))
        return result

    def ranking(self) -> list[tuple[FrozenTrial, list[float]]]:
        """Trials with their values over seeds, the best mean first; finalists before others."""
        found = []
        for trial in best_first(self.study):
            final = self.study.user_attrs.get(f"final-{trial.number}", {})
            whole = {str(seed) for seed in self.final_seeds} <= final.keys()
            values = list((final if whole else trial.user_attrs["values"]).values())
            sign = -1 if self.maximize else 1
            found.append((not whole, sign * mean_of(values), trial, values))
        found.sort(key=lambda one: (one[0], one[1], one[2].number))
        return [(trial, values) for _, _, trial, values in found]

    def write_best(self, trial: FrozenTrial, values: Sequence[float]) -> dict[str, Any]:
        """The experiment file, and the facts of the best trial."""
        cfg = self.configuration(trial.params, self.seeds[0])
        path = self.folder / "best.yaml"
        write_experiment(
            path, *as_experiment(config.plain(cfg)),
            [
                f"python -m pipelines.train experiment={path}",
                f"Trial {trial.number} of study {self.study.study_name}: validation {self.monitor} "
                f"{spread(values)}.",
            ],
        )  # fmt: skip
        return {
            "best": {
                "trial": trial.number, "value": mean_of(values), "values": list(values),
                "first_seed_value": trial.user_attrs["values"][str(self.seeds[0])],
                "params": {k: decoded(v) for k, v in trial.params.items()},
                "metrics": trial.user_attrs["metrics"],
            },
            "experiment": str(path),
        }  # fmt: skip

    def shown(self) -> tuple[list[str], list[list[object]]]:
        """Columns and rows of the best trials; no rows where none has a value."""
        keys = [one.key for one in self.dimensions]
        rows: list[list[object]] = [
            [trial.number, spread(values), *(short(decoded(trial.params.get(k))) for k in keys)]
            for trial, values in self.ranking()[:SHOWN]
        ]
        return ["trial", self.monitor, *keys], rows


def mean_of(values: Any) -> float:
    """Mean of numbers; None counts as absent."""
    found = [float(one) for one in values if one is not None]
    return float(np.mean(found)) if found else float("nan")


def spread(values: Sequence[float]) -> str:
    """A mean with its standard deviation over seeds.

    Example:
        >>> spread([0.5]), spread([0.4, 0.6])
        ('0.50000', '0.50000 +- 0.14142 (n=2)')
    """
    if len(values) == 1:
        return f"{values[0]:.5f}"
    return f"{np.mean(values):.5f} +- {np.std(values, ddof=1):.5f} (n={len(values)})"


def short(value: Any) -> str:
    """A parameter in a line.

    Example:
        >>> short(0.00123456), short([400, 400])
        ('0.00123', '[400, 400]')
    """
    return f"{value:.3g}" if isinstance(value, float) else str(value)
