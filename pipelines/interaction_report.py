"""The part of `pipelines.explain` about pairs of fields: choose, measure, draw, tell."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from recsys.data.encode import EncodedTable
from recsys.errors import ConfigError
from recsys.models.interactions import (
    InteractionOptions,
    Interactions,
    candidate_pairs,
    cost,
    measure,
    strongest_pairs,
)
from recsys.models.masked_rows import MaskedRows
from recsys.models.saved import SavedModel
from recsys.tracking.console import Console
from recsys.tracking.figures import Subject, save_figure, save_table
from recsys.tracking.find import find_model
from recsys.tracking.format import duration
from recsys.tracking.interaction_plots import halo_plot, pair_table, swarm_plot

TOLD = 10
"""Pairs of the table on screen."""


class InteractionReport:
    """Interaction scores of pairs of fields over models that are nearly as good.

    Args:
        saved: The model that was asked about.
        options: What `interactions` of the configuration says.
        uri: Of the store in which other runs are looked up.
        seed: Of the shuffles.
        console: Told of the cost, of progress and of the pairs.

    Raises:
        ConfigError: the model has no vectors, or another run has other labels or fields.
    """

    def __init__(
        self,
        saved: SavedModel,
        options: InteractionOptions,
        uri: str | None,
        seed: int,
        console: Console,
    ) -> None:
        self.saved, self.options, self.seed, self.console = saved, options, seed, console
        require_vectors(saved)
        self.others = [(run, SavedModel.load(find_model(run, uri))) for run in options.runs or []]
        for run, other in self.others:
            require_vectors(other)
            check_comparable(run, other, saved)

    def write(self, folder: Path, data: str, table: pa.Table) -> dict[str, Any]:
        """Measure on raw rows; write interactions.csv, swarm and halo with their numbers.

        Args:
            folder: Where to.
            data: Name of the rows, for the titles.
            table: Raw rows with labels.

        Returns:
            What `result.json` says of it.

        Raises:
            SchemaError: the rows have no labels.
            ConfigError: a field is unknown, or there is only one.
        """
        begin = time.perf_counter()
        table = table.slice(0, self.options.rows)
        encoded = self.saved.pipeline.transform(table)
        rows = self.rows_of(self.saved, encoded)
        pairs = candidate_pairs(rows, self.options)
        judged = np.arange(len(encoded))
        if len(pairs) > self.options.pairs:
            choosing, judged = np.split(judged, [len(encoded) // 3])
            screen = self.rows_of(self.saved, encoded.take(choosing))
            progress = self.console.preparing
            pairs = strongest_pairs(
                screen, pairs, self.options,
                lambda done, total, stage: progress(done, total, stage, "passes"),
            )  # fmt: skip
            rows = self.rows_of(self.saved, encoded.take(judged))
        others = [
            (run, self.rows_of(other, other.pipeline.transform(table).take(judged)))
            for run, other in self.others
        ]
        search, score = cost(pairs, self.options, len(others))
        self.console.note(
            f"interactions: {len(pairs)} pairs in {score // len(pairs):,} passes each over "
            f"{len(rows):,} rows, after at most {search:,} passes that search the set"
        )
        found = measure(
            rows, pairs, self.options, others, self.seed,
            lambda done, total, stage: self.console.preparing(done, total, stage, "passes"),
        )  # fmt: skip
        self._draw(folder, data, found)
        self._tell(found, time.perf_counter() - begin)
        return {
            "logloss": found.logloss,
            "epsilon": found.epsilon,
            "rows": found.num_rows,
            "passes": found.num_passes,
            "outside": found.outside,
            "pairs": [
                {
                    "fields": list(one.fields),
                    "score": one.reference.score,
                    "interval": [one.reference.low, one.reference.high],
                    "range": list(one.range),
                    "sign_changes": one.sign_changes,
                }
                for one in found.pairs
            ],
        }

    def rows_of(self, saved: SavedModel, encoded: EncodedTable) -> MaskedRows:
        """Rows looked up in one model, on a GPU if there is one; all get the same shuffles."""
        recommender = saved.recommender.to("cuda" if torch.cuda.is_available() else "cpu")
        return MaskedRows(recommender, encoded, self.options.num_shuffles, self.seed)

    def _draw(self, folder: Path, data: str, found: Interactions) -> None:
        about = Subject(self.saved.spec.class_name, data, found.num_rows)
        save_table(pair_table(found.pairs), folder / "interactions.csv")
        save_figure(*swarm_plot(about, found.pairs, found.epsilon), folder / "swarm")
        save_figure(*halo_plot(about, found.pairs, found.epsilon), folder / "halo")

    def _tell(self, found: Interactions, seconds: float) -> None:
        models = sorted({len(one.members) for one in found.pairs})
        self.console.table(
            f"interactions over {models[0]} models that lose at most {found.epsilon:g} of log-loss "
            f"{found.logloss:.4f}, in {duration(seconds)}",
            ("pair", "score", "95 %", "over all models", "other sign"),
            [
                (
                    " x ".join(one.fields),
                    f"{one.reference.score:+.4f}",
                    f"{one.reference.low:+.4f} to {one.reference.high:+.4f}",
                    f"{one.range[0]:+.4f} to {one.range[1]:+.4f}",
                    f"{one.sign_changes:.0%}",
                )
                for one in found.pairs[:TOLD]
            ],
        )
        for run, rise in found.outside.items():
            self.console.note(
                f"run {run} is no member: it loses {rise:.4f} of log-loss, more than "
                f"interactions.epsilon={found.epsilon:g}"
            )


def require_vectors(saved: SavedModel) -> None:
    """Raise ConfigError for a model of trees."""
    if saved.spec.boosted:
        raise ConfigError(
            f"interactions need vectors to put masks on; {saved.spec.class_name} is made of trees. "
            "Choose the run of another model, or leave interactions out."
        )


def check_comparable(run: str, other: SavedModel, saved: SavedModel) -> None:
    """Raise ConfigError for a run whose scores would be of something else."""
    mine, its = saved.pipeline.schema, other.pipeline.schema
    if its.labels != mine.labels:
        raise ConfigError(
            f"interactions.runs: {run} learns {', '.join(its.labels)}, this run "
            f"{', '.join(mine.labels)}. Name runs of one label."
        )
    missing = [name for name in mine.names if name not in its.names]
    if missing:
        raise ConfigError(
            f"interactions.runs: {run} does not read {', '.join(missing)}. Name runs with the same "
            "columns."
        )
