"""Runs beside each other: seeds of one configuration in a row, and what tells rows apart."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from recsys.comparison.paired import RowDifference, SeedDifference, holm, seed_difference
from recsys.comparison.records import RunRecord
from recsys.errors import ConfigError, did_you_mean

LOWER_IS_BETTER = ("logloss", "ne", "ece", "fit_seconds", "peak_memory_mib", "num_parameters",
                   "loss")  # fmt: skip
NEITHER = ("calibration", "base_rate", "num_rows", "novelty", "coverage")
"""Neither higher nor lower is better: never bold, and sorted with the largest first."""
USUAL = ("auc", "gauc", "logloss")
USUAL_RANKING = ("recall", "ndcg")
FAMILIES = ("ctr", "cf", "mtl", "towers")
SHORT_ID = 8
DIGEST = "data digest"
"""Column of tables in which digests are mixed."""


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds of one configuration."""

    mean: float
    sd: float
    """Standard deviation with n - 1; NaN below two."""
    n: int


@dataclass(frozen=True)
class Row:
    """The runs of one configuration, one per seed."""

    model: str
    params: Mapping[str, str]
    runs: tuple[RunRecord, ...]
    """Ascending by seed."""

    def values(self, metric: str) -> dict[int, float]:
        """The metric by seed; runs without it, or without a seed, are left out."""
        return {
            run.seed: run.metrics[metric]
            for run in self.runs
            if run.seed is not None and not math.isnan(run.metrics.get(metric, math.nan))
        }

    def spread(self, metric: str) -> Spread | None:
        """Mean and deviation; None where no run has the metric."""
        values = [run.metrics.get(metric, math.nan) for run in self.runs]
        known = np.array([value for value in values if not math.isnan(value)])
        if not len(known):
            return None
        sd = float(known.std(ddof=1)) if len(known) > 1 else math.nan
        return Spread(float(known.mean()), sd, len(known))


@dataclass(frozen=True)
class Difference:
    """A row against the baseline."""

    seeds: SeedDifference | None
    p_holm: float
    """The paired test's p, adjusted for as many tests as the table makes."""
    rows: RowDifference | None = None


@dataclass(frozen=True)
class Comparison:
    """A table of the runs on one data set."""

    data: str
    digest: str
    """Of the data; several, joined by +, when a person vouched that test rows are the same."""
    rows: tuple[Row, ...]
    varying: tuple[str, ...]
    """Parameters that differ between rows."""
    metric: str
    """By which rows are compared with the baseline."""
    metrics: tuple[str, ...]
    """Columns."""
    baseline: int | None = None
    """Index of a row."""
    differences: Mapping[int, Difference] = field(default_factory=dict)
    """By row; the baseline has none."""
    notes: tuple[str, ...] = ()

    def best(self, metric: str) -> Collection[int]:
        """Rows with the best mean; none for a metric without a better side, or a single row."""
        sign = direction(metric)
        means = {
            index: sign * found.mean
            for index, row in enumerate(self.rows)
            if (found := row.spread(metric)) is not None
        }
        if not sign or len(means) < 2:
            return ()
        top = max(means.values())
        return [index for index, value in means.items() if value == top]

    def label(self, index: int) -> str:
        """A row's name: its model and, where that is not enough, what differs."""
        row = self.rows[index]
        if sum(other.model == row.model for other in self.rows) == 1:
            return row.model
        told = [f"{key.rpartition('.')[2]}={row.params[key]}" for key in self.varying
                if key in row.params]  # fmt: skip
        return " ".join([row.model, *told])


def direction(metric: str) -> int:
    """1 when higher is better, -1 when lower is, 0 when neither.

    Example:
        >>> direction("test/click/auc"), direction("test/logloss"), direction("test/calibration")
        (1, -1, 0)
    """
    name = metric.rpartition("/")[2]
    name = re.sub(r"_at_\d+$", "", name)
    if name in NEITHER:
        return 0
    return -1 if name in LOWER_IS_BETTER else 1


def group(records: Sequence[RunRecord]) -> tuple[list[Row], int]:
    """Rows of runs that differ in nothing but the seed.

    Returns:
        The rows, and how many runs were left out because a newer one has their seed.
    """
    groups: dict[tuple[str, str, tuple[tuple[str, str], ...]], dict[object, RunRecord]] = {}
    left_out = 0
    for run in sorted(records, key=lambda run: run.started):
        key = (run.model, run.digest, tuple(sorted(run.params.items())))
        seeds = groups.setdefault(key, {})
        seed: object = run.run_id if run.seed is None else run.seed
        left_out += seed in seeds
        seeds[seed] = run
    rows = [
        Row(model, dict(params), tuple(sorted(runs.values(), key=_by_seed)))
        for (model, _, params), runs in groups.items()
    ]
    return rows, left_out


def _by_seed(run: RunRecord) -> tuple[bool, int]:
    return run.seed is None, run.seed or 0


def varying_params(rows: Sequence[Row]) -> tuple[str, ...]:
    """Parameters that differ between rows.

    A model's own (`ctr.num_heads`) count only between rows of that model: that AutoInt has heads
    and DeepFM has none is told by their names.
    """
    keys = sorted({key for row in rows for key in row.params})
    return tuple(key for key in keys if _differs(key, rows))


def _differs(key: str, rows: Sequence[Row]) -> bool:
    if key.partition(".")[0] not in FAMILIES:
        return len({row.params.get(key) for row in rows}) > 1
    seen: dict[str, set[str | None]] = {}
    for row in rows:
        seen.setdefault(row.model, set()).add(row.params.get(key))
    return any(len(values) > 1 for values in seen.values())


def known_metrics(rows: Sequence[Row]) -> list[str]:
    """Every metric that any run has, in the order of the runs."""
    return list(dict.fromkeys(name for row in rows for run in row.runs for name in run.metrics))


def has_metric(metric: str, known: Collection[str]) -> bool:
    """Whether `full_name` finds it."""
    return metric in known or f"test/{metric}" in known


def full_name(metric: str, known: Collection[str], key: str = "metric") -> str:
    """`auc` is `test/auc` where there is such a metric.

    Raises:
        ConfigError: no run has it.
    """
    for name in (metric, f"test/{metric}"):
        if name in known:
            return name
    raise ConfigError(f"{key}={metric}: no run has it.{did_you_mean(f'test/{metric}', known)}")


def usual_metrics(rows: Sequence[Row]) -> list[str]:
    """What a table shows unless told: the first is what rows are compared by.

    Raises:
        ConfigError: no run was tested.
    """
    known = [name for name in known_metrics(rows) if name.startswith("test/")]
    split = "test"
    if not known:  # data without test rows
        known, split = [n for n in known_metrics(rows) if n.startswith("val/")], "val"
    shown = [f"{split}/{name}" for name in USUAL if f"{split}/{name}" in known]
    tasks = [n for n in known if n.count("/") == 2 and n.endswith("/auc")]
    lists = [
        name
        for metric in USUAL_RANKING
        if (name := _longest(metric, split, known)) is not None
    ]  # fmt: skip
    found = [*shown, *tasks, *lists]
    if not found:
        raise ConfigError(
            "no run has a metric of test or validation rows. Name runs that finished, or "
            f"metrics=[...] of {', '.join(known_metrics(rows)) or 'none'}."
        )
    return found


def _longest(metric: str, split: str, known: Sequence[str]) -> str | None:
    """The metric at 20 items, or else at the most that there is."""
    at = {
        int(n.rpartition("_")[2]): n for n in known if re.fullmatch(rf"{split}/{metric}_at_\d+", n)
    }
    return at.get(20) or (at[max(at)] if at else None)


def find_row(rows: Sequence[Row], name: str) -> int | None:
    """The row that a person calls so: a model, or one of its runs by id, name or folder.

    Raises:
        ConfigError: several rows are of this model.
    """
    by_run = [i for i, row in enumerate(rows) if any(run.is_called(name) for run in row.runs)]
    found = by_run or [index for index, row in enumerate(rows) if row.model == name]
    if len(found) > 1:
        ids = ", ".join(rows[index].runs[0].run_id[:SHORT_ID] for index in found)
        raise ConfigError(
            f"baseline={name} means {len(found)} configurations. Say which by a run of it: {ids}."
        )
    return found[0] if found else None


def compare(
    records: Sequence[RunRecord],
    *,
    metric: str | None = None,
    metrics: Sequence[str] | None = None,
    baseline: str | None = None,
    sort: str | None = None,
    top: int | None = None,
    same_rows: bool = False,
) -> list[Comparison]:
    """Tables of runs, one per data set.

    Runs on data of different digests (other files, split or columns) stand in different tables:
    their test rows may differ.

    Args:
        records: Finished runs.
        metric: That rows are compared by; None: the first of `metrics`.
        metrics: Columns; None: the usual ones of what was measured.
        baseline: A model, or a run by id, name or folder.
        sort: Metric, parameter or `model`; None: `metric`. The best comes first.
        top: Rows kept, the baseline always among them; None: all.
        same_rows: A person vouches that test rows are the same whatever the digest.

    Raises:
        ConfigError: there are no runs, or no run has a metric, the baseline or the key to sort by.
    """
    if not records:
        raise ConfigError("there is no finished run to compare. Train one, or filter less.")
    parts: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        key = (record.data, "" if same_rows else record.digest)
        if same_rows:  # without several digests this does not vary, and is not shown
            record = replace(record, params={**record.params, DIGEST: record.digest})
        parts.setdefault(key, []).append(record)
    tables = [_table(part, metric, metrics or (), sort) for part in parts.values()]
    known = [name for part in tables for name in known_metrics(part.rows)]
    if metric is not None:
        full_name(metric, known)
    for name in metrics or ():
        full_name(name, known, "metrics")
    if sort is not None and all(sort not in _sortable(table) for table in tables):
        every = [name for table in tables for name in _sortable(table)]
        raise ConfigError(f"sort={sort}: no run has it.{did_you_mean(sort, every)}")
    found = [None if baseline is None else find_row(table.rows, baseline) for table in tables]
    if baseline is not None and all(index is None for index in found):
        models = {record.model for record in records}
        raise ConfigError(
            f"baseline={baseline} is no model or run among these.{did_you_mean(baseline, models)}"
        )
    done = [
        _against(table, index, baseline, top) for table, index in zip(tables, found, strict=True)
    ]
    return sorted(done, key=lambda table: (table.data, -len(table.rows)))


def _table(
    records: Sequence[RunRecord],
    metric: str | None,
    metrics: Sequence[str],
    sort: str | None,
) -> Comparison:
    rows, left_out = group(records)
    known = known_metrics(rows)
    shown = [full_name(name, known) for name in metrics if has_metric(name, known)]
    if not shown:
        shown = usual_metrics(rows)
        shown += [name for name in ("fit_seconds",) if name in known]
    main = shown[0]
    if metric is not None and has_metric(metric, known):
        main = full_name(metric, known)
        shown = [main, *(name for name in shown if name != main)]
    notes = []
    if left_out:
        runs = "1 run" if left_out == 1 else f"{left_out} runs"
        notes.append(f"{runs} left out: a newer run has the same configuration and seed")
    if metric is not None and not has_metric(metric, known):
        notes.append(f"no run on this data has {metric}; rows are compared by {main}")
    commits = Counter(run.commit[:SHORT_ID] for row in rows for run in row.runs if run.commit)
    if len(commits) > 1:
        told = ", ".join(f"{commit} ({count})" for commit, count in commits.most_common(4))
        more = "" if len(commits) <= 4 else f" and {len(commits) - 4} more"
        notes.append(f"runs of {len(commits)} commits of the code: {told}{more}")
    digests = sorted({record.digest for record in records})
    if len(digests) > 1:
        notes.append(
            f"data of {len(digests)} digests in one table, because same_rows=true: you vouch "
            "that the test rows are the same"
        )
    table = Comparison(
        data=records[0].data,
        digest="+".join(digests),
        rows=tuple(rows),
        varying=varying_params(rows),
        metric=main,
        metrics=tuple(shown),
        notes=tuple(notes),
    )
    return replace(table, rows=tuple(sorted(rows, key=_sort_key(table, sort))))


def _sortable(table: Comparison) -> dict[str, str]:
    """What `sort` may be, and the metric or parameter that it means."""
    known = known_metrics(table.rows)
    short = {name.removeprefix("test/"): name for name in known}
    params = {key: key for row in table.rows for key in row.params}
    return {"model": "model"} | params | short | {name: name for name in known}


def _sort_key(table: Comparison, sort: str | None) -> Callable[[Row], tuple[bool, float, str]]:
    name = _sortable(table).get(sort or table.metric, table.metric)

    def key(row: Row) -> tuple[bool, float, str]:
        if name == "model":
            return False, 0.0, row.model
        if name in row.params:
            try:
                return False, float(row.params[name]), row.model
            except ValueError:
                return False, math.inf, row.params[name]
        found = row.spread(name)
        if found is None:
            return True, 0.0, row.model
        return False, -(direction(name) or 1) * found.mean, row.model

    return key


def _against(
    table: Comparison, baseline: int | None, name: str | None, top: int | None
) -> Comparison:
    """The table cut to its first rows, with differences to the baseline."""
    notes = list(table.notes)
    if top is not None and len(table.rows) > top:
        kept = [i for i in range(len(table.rows)) if i < top or i == baseline]
        notes.append(
            f"{len(table.rows) - len(kept)} of {len(table.rows)} rows not shown: top={top}"
        )
        rows = tuple(table.rows[index] for index in kept)
        baseline = None if baseline is None else kept.index(baseline)
        table = replace(table, rows=rows, varying=varying_params(rows))
    if baseline is None:
        if name is not None:
            notes.append(f"baseline={name} has no run on this data")
        return replace(table, notes=tuple(notes))
    theirs = table.rows[baseline].values(table.metric)
    others = [index for index in range(len(table.rows)) if index != baseline]
    changes = {i: seed_difference(table.rows[i].values(table.metric), theirs) for i in others}
    adjusted = holm([math.nan if d is None else d.p for d in changes.values()])
    differences = {
        index: Difference(change, p)
        for (index, change), p in zip(changes.items(), adjusted, strict=True)
    }
    notes += _doubts(changes)
    return replace(table, baseline=baseline, differences=differences, notes=tuple(notes))


def _doubts(changes: Mapping[int, SeedDifference | None]) -> list[str]:
    """What the differences over seeds cannot say."""
    notes = []
    few = sum(one is None or one.n < 2 for one in changes.values())
    if few:
        notes.append(
            f"no test over seeds for {few} of {len(changes)} rows: it takes 2 or more seeds that "
            "the baseline has too"
        )
    tests = sum(one is not None and not math.isnan(one.p) for one in changes.values())
    if tests:
        notes.append(
            f"p: paired t-test over common seeds, two-sided, adjusted for {tests} "
            f"{'test' if tests == 1 else 'tests'} (Holm)"
        )
    return notes
