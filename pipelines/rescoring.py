"""Scoring the test rows again with the models of finished runs, to draw rows anew.

Nothing of it is kept with the runs: what a saved model says of prepared data is what it said after
training, which is checked against the metric that the run wrote down.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
from omegaconf import DictConfig, OmegaConf

from pipelines.tracked_run import OUTPUTS
from recsys import config
from recsys.comparison.paired import Resamples, resample, row_difference
from recsys.comparison.records import RunRecord
from recsys.comparison.rows import TestRows, rows_of_ranking, rows_of_reports
from recsys.comparison.table import Comparison
from recsys.data.interactions import Interactions
from recsys.data.prepare import Prepared, prepare
from recsys.errors import CheckpointError, ConfigError, SchemaError
from recsys.metrics.ranking import FullRanking
from recsys.metrics.task_report import report_for
from recsys.models.saved import SavedModel
from recsys.models.saved_cf import SavedCF, is_cf
from recsys.models.tree_features import stored_rows
from recsys.tracking.console import Console

BLOCK_ROWS = 16_384
TOLERANCE = 1e-4
"""How far a metric may lie from what the run wrote down: other devices sum in other orders."""


class Rescoring:
    """Bootstrap intervals of differences over the test rows of one comparison.

    Args:
        resamples: Draws.
        seed: Of the draws.
        console: Told of progress.
    """

    def __init__(self, resamples: int, seed: int, console: Console) -> None:
        self.resamples, self.seed, self.console = resamples, seed, console
        self._data: dict[str, Prepared | Interactions] = {}
        self._found: dict[str, tuple[Resamples, TestRows] | str] = {}

    def add_to(self, table: Comparison) -> Comparison:
        """The comparison with intervals over rows, and notes on those that it cannot have."""
        if table.baseline is None or not table.differences:
            return table
        base = {run.seed: run for run in table.rows[table.baseline].runs}
        differences, reasons = dict(table.differences), dict[str, list[str]]()
        for index, difference in table.differences.items():
            pairs, last = [], None
            for run in table.rows[index].runs:
                if run.seed is None or run.seed not in base:
                    continue
                both = [self.resampled(one, table.metric) for one in (base[run.seed], run)]
                why = [one for one in both if isinstance(one, str)]
                scored = [one for one in both if not isinstance(one, str)]
                if not why and len({rows.key for _, rows in scored}) > 1:
                    why = ["its test rows are not the baseline's"]
                if why:
                    reasons.setdefault(why[0], []).append(f"{table.label(index)} seed {run.seed}")
                    continue
                pairs.append((scored[1][0], scored[0][0]))
                last = scored[0][1]
            if last is not None:
                found = row_difference(pairs, last.blocks, last.kind)
                differences[index] = replace(difference, rows=found)
        notes = [f"no rows drawn for {_few(who)}: {why}" for why, who in reasons.items()]
        drawn = [one.rows for one in differences.values() if one.rows is not None]
        if drawn:
            notes.append(
                f"95 % over {drawn[0].kind}: percentile bootstrap of the difference, "
                f"{self.resamples:,} times {drawn[0].blocks:,} test {drawn[0].kind} drawn for all "
                "runs alike, seeds as they are"
            )
        return replace(table, differences=differences, notes=(*table.notes, *notes))

    def resampled(self, run: RunRecord, metric: str) -> tuple[Resamples, TestRows] | str:
        """The metric on rows drawn anew; or in a sentence why there is none."""
        if run.run_id not in self._found:
            self._found[run.run_id] = self._resampled(run, metric)
        return self._found[run.run_id]

    def _resampled(self, run: RunRecord, metric: str) -> tuple[Resamples, TestRows] | str:
        split, _, name = metric.partition("/")
        if run.folder is None or not (run.folder / "model" / "model.json").is_file():
            return "its saved model is not on this disk"
        try:
            cfg = OmegaConf.load(run.folder / "config.yaml")
            if not isinstance(cfg, DictConfig) or cfg.get("data") is None:
                return "its configuration names no data"
            self.console.note(f"scoring {split} rows with {run.model} seed {run.seed}")
            score = self._lists if is_cf(run.folder / "model") else self._rows
            rows = score(run, run.folder / "model", cfg, split, name)
        except (ConfigError, SchemaError, CheckpointError, OSError) as error:
            return re.sub(r"\.$", "", str(error).splitlines()[0])
        found = resample(rows.value, rows.blocks, self.resamples, self.seed)
        then = run.metrics[metric]
        if not abs(found.whole - then) <= TOLERANCE:
            return f"its saved model has {metric} {found.whole:.5f}, the run wrote {then:.5f}"
        return found, rows

    def _rows(
        self, run: RunRecord, folder: Path, cfg: DictConfig, split: str, metric: str
    ) -> TestRows:
        """A model of rows."""
        if run.digest not in self._data:
            raw, options = config.build_dataset(cfg.data, run.family)
            options = replace(options, rebuild=False)
            self._data[run.digest] = prepare(
                raw, options, OUTPUTS / "prepared", self.console.preparing
            )
        data = self._data[run.digest]
        assert isinstance(data, Prepared)
        if data.digest != run.digest:
            raise ConfigError("its data has changed since")
        store = data.stores.get(split)
        if store is None:
            raise ConfigError(f"its data has no {split} rows")
        saved = SavedModel.load(folder)
        schema = data.pipeline.schema
        report = report_for(schema.labels, schema.parents, store.num_rows)
        for start in range(0, store.num_rows, BLOCK_ROWS):
            stop = min(start + BLOCK_ROWS, store.num_rows)
            report.add(
                saved.logits_of(stored_rows(store, start, stop)),
                np.asarray(store.label[start:stop]),
                None if store.weight is None else np.asarray(store.weight[start:stop]),
                None if store.group is None else np.asarray(store.group[start:stop]),
            )
            self.console.preparing(stop, store.num_rows, "score")
        return rows_of_reports(report.parts, metric)

    def _lists(
        self, run: RunRecord, folder: Path, cfg: DictConfig, split: str, metric: str
    ) -> TestRows:
        """A model of users and items."""
        if split != "test":
            raise ConfigError(f"{split} lists are of a model that was not kept")
        k = metric.rpartition("_at_")[2]
        if not k.isdigit():
            raise ConfigError(f"{metric} is no metric of lists")
        if run.digest not in self._data:
            self._data[run.digest] = config.build_interactions(cfg.data)
        data = self._data[run.digest]
        assert isinstance(data, Interactions)
        if data.digest(columns=run.family == "towers") != run.digest or data.test is None:
            raise ConfigError("its data has changed since")
        saved = SavedCF.load(folder)
        judge = FullRanking(data.test, data.train, ks=(int(k),))
        vectors = saved.vectors()
        if vectors is None:
            return rows_of_ranking(judge.of_scores(saved.model.scores), metric, data.test)
        return rows_of_ranking(judge.of_vectors(*vectors), metric, data.test)


def _few(names: list[str]) -> str:
    """At most three names.

    Example:
        >>> _few(["a", "b"]), _few(list("abcde"))
        ('a, b', 'a, b, c and 2 more')
    """
    more = len(names) - 3
    return ", ".join(names[:3]) + (f" and {more} more" if more > 0 else "")
