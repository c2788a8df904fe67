"""Rank the columns of a raw data set by what they tell about its label.

One pass over each column counts it exactly (two columns at a time, or as many as there are cores);
what is kept of it is a few numbers and a sample of its codes. Pairs come from the sample, and the
best of them are counted over all rows.

Memory: the counts of as many columns as there are threads (`max_values` x 9 x K x 4 bytes each at
most), the sample (four bytes a row and column of `SAMPLE_ROWS`), and two bytes a row.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from recsys.data.infer import check_fields
from recsys.data.raw import RawDataset, SplitRule
from recsys.data.readers import num_workers
from recsys.data.schema import Field
from recsys.errors import ConfigError, did_you_mean
from recsys.feature_ranking import selection
from recsys.feature_ranking.classic import classic_score
from recsys.feature_ranking.counts import MAX_VALUES, NUM_BUCKETS, count_column
from recsys.feature_ranking.information import entropy
from recsys.feature_ranking.pairs import (
    PairCounter,
    PairSums,
    choose_pairs,
    count_fully,
    exact_statistics,
    label_bins,
    num_paired,
    small_column,
)
from recsys.feature_ranking.periods import label_by_period, read_periods
from recsys.feature_ranking.quality import column_quality, flags
from recsys.feature_ranking.rows import TARGETS, Rows, count_rows
from recsys.feature_ranking.score import Scorer
from recsys.feature_ranking.tables import (
    RankedColumn,
    drift_table,
    feature_table,
    mark_duplicates,
    ordered_by,
    pair_table,
    rare_table,
    value_table,
)

Progress = Callable[[int, int, str], None]
METHODS = ("outrank", "outrank_classic", "information", "gain", *selection.METHODS)


@dataclass(frozen=True, kw_only=True)
class RankingOptions:
    """How columns are ranked.

    Args:
        method: What `score` and the order are: `outrank` (excess information less three deviations
            of chance), `outrank_classic` (the published score), `information` (plain), `gain`
            (log-loss saved on held-out rows), or a greedy order of `3mr`, `mrmr`, `jmi`, `cmim`.
        target: `classes`, `number`, or `auto`.
        halves: Half-samples for the stability of ranks; 0: none.
        pairs: Pairs of columns that are tried on a sample; 0: none.
        full_pairs: Best pairs that are counted over all rows.
        max_values: Values of a column that are counted apart; beyond, hash buckets.
        num_buckets: Quantile buckets of a number.
        select: Best columns among which a greedy order chooses.
        seed: Of the pairs that are drawn at random.
        threads: Columns at a time; None: one per core.
    """

    method: str = "outrank"
    target: str = "auto"
    halves: int = 32
    pairs: int = 5000
    full_pairs: int = 20
    max_values: int = MAX_VALUES
    num_buckets: int = NUM_BUCKETS
    select: int = 50
    seed: int = 0
    threads: int | None = None

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ConfigError(
                f"method={self.method} is not one.{did_you_mean(self.method, METHODS)}"
            )
        if self.target not in TARGETS:
            raise ConfigError(f"target={self.target} must be {' or '.join(TARGETS)}.")
        for key, least in (
            ("halves", 0), ("pairs", 0), ("full_pairs", 0), ("max_values", 16),
            ("num_buckets", 2), ("select", 1), ("seed", 0),
        ):  # fmt: skip
            if getattr(self, key) < least:
                raise ConfigError(f"{key}={getattr(self, key)} must be at least {least}.")
        if self.threads is not None and self.threads < 1:
            raise ConfigError(f"threads={self.threads} must be at least 1.")
        if self.method in selection.METHODS and self.pairs == 0:
            raise ConfigError(f"method={self.method} needs pairs; set pairs=5000.")


@dataclass(frozen=True)
class Ranking:
    """What was found.

    Args:
        features: A row per column, best first.
        pairs: A row per pair that was counted fully, best first.
        selection: Order of the greedy methods, a row per column and method.
        values: The most frequent values of each column.
        rare: Share of rows with a value rarer than a bound, by column and bound.
        drift: PSI by column and period.
        label_periods: Rows and mean label by period.
        facts: Numbers of the whole: rows, label, seconds.
    """

    features: pl.DataFrame
    pairs: pl.DataFrame
    selection: pl.DataFrame
    values: pl.DataFrame
    rare: pl.DataFrame
    drift: pl.DataFrame
    label_periods: pl.DataFrame
    facts: dict[str, Any]


def rank_features(
    raw: RawDataset,
    options: RankingOptions | None = None,
    *,
    label: str | None = None,
    rule: SplitRule | None = None,
    progress: Progress = lambda done, total, stage: None,
) -> Ranking:
    """Rank every column of a data set's schema.

    Args:
        raw: Files and schema. Training rows are counted, validation rows check; test rows are never
            read for it.
        options: See there.
        label: Label column; None: the schema's first.
        rule: How rows are split where the files do not say.
        progress: Told how much of what is done.

    Raises:
        SchemaError: the label is absent, missing, or constant; a column holds what it cannot.
        ConfigError: an option does not fit.
    """
    options = options or RankingOptions()
    begin = time.perf_counter()
    label = label or raw.schema.labels[0]
    rows = count_rows(
        raw, label, rule=rule, target=options.target, progress=_stage(progress, "label")
    )
    fields = [one for one in raw.schema if one.name != label]
    for file in rows.files:
        check_fields(raw.schema, file.source)
    if not fields:
        raise ConfigError(f'there is no column beside the label "{label}"; give at least one.')
    columns = _count_all(rows, fields, options, _stage(progress, "columns"))
    mark_duplicates(columns)
    order = np.argsort([-ordered_by(one, options.method) for one in columns], kind="stable")
    tried, full = _pairs(rows, columns, order, options, progress)
    chosen = _select(columns, order, tried, options)
    features = feature_table(columns, options.method, chosen)
    periods = read_periods(raw, rows, _stage(progress, "time"))
    return Ranking(
        features=features,
        pairs=pair_table(columns, full),
        selection=chosen,
        values=value_table(columns),
        rare=rare_table(columns),
        drift=drift_table(columns, periods),
        label_periods=label_by_period(rows, periods),
        facts=_facts(raw, rows, options, time.perf_counter() - begin),
    )


def _stage(progress: Progress, name: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(done, total, name)


def _count_all(
    rows: Rows, fields: list[Field], options: RankingOptions, progress: Callable[[int, int], None]
) -> list[RankedColumn]:
    """Count and score every column, some at a time; a column's counts go before the next comes."""
    scorer = Scorer(rows, options.halves)
    of_label = 0.0 if rows.is_number else entropy(rows.class_counts)
    done, lock = 0, threading.Lock()

    def work(field: Field) -> RankedColumn:
        nonlocal done
        counted = count_column(
            rows, field, max_values=options.max_values, num_buckets=options.num_buckets
        )
        score, quality = scorer.score(counted), column_quality(counted)
        halves = scorer.half_scores(counted)
        found = RankedColumn(
            field=field,
            score=score,
            quality=quality,
            halves=halves if score.p < 1.0 else np.full_like(halves, -np.inf),
            small=small_column(counted) if options.pairs else None,
            flags=flags(counted, quality, score, of_label),
            digest=counted.digest,
            classic=classic_score(rows, counted)
            if options.method == "outrank_classic"
            else math.nan,
        )
        with lock:
            done += 1
            progress(done, len(fields))
        return found

    with ThreadPoolExecutor(options.threads or num_workers()) as pool:
        futures = [pool.submit(work, field) for field in fields]
        try:
            return [future.result() for future in futures]
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _pairs(
    rows: Rows,
    columns: list[RankedColumn],
    order: np.ndarray,
    options: RankingOptions,
    progress: Progress,
) -> tuple[PairSums | None, PairSums | None]:
    """Pairs that were tried on the sample, and the best of them over all rows; positions are those
    of `columns`."""
    usable = [int(one) for one in order if columns[one].small is not None]
    smalls = [columns[one].small for one in usable]
    if options.pairs == 0 or len(usable) < 2:
        return None, None
    labels = rows.sample_labels
    classes = label_bins(labels, labels) if rows.is_number else labels
    if len(np.unique(classes)) < 2:
        return None, None
    counter = PairCounter(np.stack([one.sample for one in smalls if one is not None]), classes)
    chosen = choose_pairs(range(len(usable)), options.pairs, options.seed)
    tried = counter.count(chosen, options.threads or num_workers(), _stage(progress, "pairs"))
    best = np.argsort(-tried.z, kind="stable")[: options.full_pairs]
    full = None
    if len(best):
        tables = count_fully(
            rows, [one for one in smalls if one is not None], tried.pairs[best],
            _stage(progress, "best pairs"),
        )  # fmt: skip
        full = _renamed(exact_statistics(tried.pairs[best], tables), usable)
    return _renamed(tried, usable), full


def _renamed(sums: PairSums, columns: list[int]) -> PairSums:
    return dataclasses.replace(sums, pairs=np.asarray(columns)[sums.pairs])


def _select(
    columns: list[RankedColumn], order: np.ndarray, tried: PairSums | None, options: RankingOptions
) -> pl.DataFrame:
    """The greedy orders among the best columns, by every method."""
    schema = {
        "method": pl.String, "step": pl.Int64, "feature": pl.String, "criterion": pl.Float64,
    }  # fmt: skip
    if tried is None:
        return pl.DataFrame(schema=schema)
    # With a budget only pairs among the best columns are all known.
    most = min(options.select, num_paired(sum(c.small is not None for c in columns), options.pairs))
    among = np.array([one for one in order if columns[one].small is not None][:most])
    relevance = np.array([columns[one].score.excess for one in among])
    found = selection.matrices(tried, among)
    rows = []
    for method in selection.METHODS:
        steps, criteria = selection.select(relevance, found, method)
        rows += [
            {"method": method, "step": step + 1, "feature": columns[among[at]].field.name,
             "criterion": value}
            for step, (at, value) in enumerate(zip(steps, criteria, strict=True))
        ]  # fmt: skip
    return pl.DataFrame(rows, schema=schema)


def _facts(raw: RawDataset, rows: Rows, options: RankingOptions, seconds: float) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "data": raw.name,
        "label": rows.label,
        "target": "number" if rows.is_number else "classes",
        "method": options.method,
        "train_rows": rows.num_train,
        "held_out_rows": rows.num_held_out,
        "rows_without_label": rows.num_dropped,
        "columns": len(raw.schema.fields),
        "seconds": seconds,
        "rows_per_second": rows.num_train / max(seconds, 1e-9),
        "notes": list(raw.notes),
    }
    if not rows.is_number:
        share = rows.class_counts / rows.class_counts.sum()
        facts["classes"] = dict(zip(rows.classes, share.tolist(), strict=True))
        facts["label_entropy"] = entropy(rows.class_counts)
    return facts
