"""Searching over columns by their ranking: how many of the best, instead of which of all.

A table of F columns has 2^F subsets; along a ranking it has F, of which a few sizes are enough. The
space is cut down before the first trial:

    constant columns and copies of others are left out; two columns that tell something only
    together count as what they tell together; those that tell nothing above chance come last
    sizes are all of these, the K above chance, K/3, K/9, ...
    the first trials are drawn at the smallest size, where they are cheap; the best third of them is
    tried again at the next size, and so on (successive halving over columns instead of epochs);
    after that, two trials of three have the size of the best one

What is known of the columns is the ranking of `pipelines.rank_features`, made from training rows.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl
from optuna import Study
from optuna.distributions import CategoricalDistribution
from optuna.pruners import BasePruner
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from recsys.data.options import read_ranking
from recsys.errors import ConfigError
from recsys.feature_ranking.worth import column_worth
from recsys.tuning.space import Dimension
from recsys.tuning.study import superseded

KEY = "data.top"
"""The number of columns, among the parameters of a trial."""
RUNG = "rung"
FROM = "from"
"""User attributes of the first trials: their rung, and the trial whose parameters they have."""
SMALLEST = 3
PROMOTED = 3
"""One in so many trials of a size is tried again at the next; sizes are so many times apart."""
FREE = 3
"""After the first trials, one in so many may have any size."""
FIRST = 6
"""Trials at the smallest size."""


@dataclass(frozen=True)
class RankedColumns:
    """Columns in the order in which they are taken.

    Args:
        names: Best first.
        sizes: Numbers of columns that are tried, ascending.
        dropped: Columns that are not tried.
        halving: Begin at the smallest size.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    dropped: tuple[str, ...] = ()
    halving: bool = True

    @property
    def dimension(self) -> Dimension:
        """The number of columns as a part of the space."""
        return Dimension(KEY, CategoricalDistribution(self.sizes))

    def taken(self, size: int) -> list[str]:
        """The best `size` columns."""
        return list(self.names[:size])


def read_columns(path: Path, shrink: bool) -> RankedColumns:
    """Read a ranking.

    Args:
        path: `ranking.csv` of `pipelines.rank_features`, with `pairs.csv` beside it; or any list
            that `data.features` takes, of which nothing is dropped.
        shrink: Leave out constants and copies, put last what is not above chance, and start with
            few columns. Otherwise every column stays and every number of them may be tried.

    Raises:
        ConfigError: the file cannot be read, or nothing in it is above chance.
    """
    names = read_ranking(path)
    if not names:
        raise ConfigError(f"search.features={path} names no column.")
    if not shrink:
        return RankedColumns(tuple(names), tuple(range(1, len(names) + 1)), halving=False)
    partners: dict[str, str] = {}
    kept: list[str] = list(names)
    rest: list[str] = []
    if path.suffix == ".csv":
        table = pl.read_csv(path, infer_schema_length=None, schema_overrides={"feature": pl.String})
        if {"feature", "excess", "q", "score"} <= set(table.columns):
            found = column_worth(table, _pairs(path.with_name("pairs.csv")))
            kept, rest, partners = list(found.worth), list(found.chance), found.partners
    if not kept:
        raise ConfigError(
            f"search.features={path}: no column tells more than chance. Look at the report beside "
            "it, or search over all columns: search.shrink=false."
        )
    taken = (*kept, *rest)
    dropped = tuple(name for name in names if name not in taken)
    sizes = sorted({*_sizes(kept, partners), len(taken)})
    return RankedColumns(taken, tuple(sizes), dropped)


def _pairs(path: Path) -> pl.DataFrame:
    """The pairs of a ranking; none where it has no file of them."""
    names = {"first": pl.String, "second": pl.String}
    if not path.is_file():
        return pl.DataFrame(schema=names)
    return pl.read_csv(path, infer_schema_length=None, schema_overrides=names)


def _sizes(names: list[str], partners: dict[str, str]) -> set[int]:
    """K, K/3, K/9, ...; a size that would part a pair takes one column more."""
    sizes = {len(names)}
    size = len(names)
    while (size := -(-size // PROMOTED)) >= SMALLEST:
        cut = size
        while cut < len(names) and partners.get(names[cut - 1]) == names[cut]:
            cut += 1
        sizes.add(cut)
    return sizes


class Halving:
    """Queues the trials of a search over ranked columns.

    Every step is a function of the trials that there are, so that any process can take it.

    Args:
        columns: Their sizes are the rungs.
        trials: Drawn at the smallest size.
    """

    def __init__(self, columns: RankedColumns, trials: int = FIRST) -> None:
        self.columns = columns
        self.counts = [trials]
        for _ in columns.sizes[1:]:
            self.counts.append(max(self.counts[-1] // PROMOTED, 1))

    def __call__(self, study: Study) -> None:
        """Queue the next trial, unless one is waiting or it is free."""
        trials = study.get_trials(deepcopy=False)
        if any(one.state == TrialState.WAITING for one in trials):
            return
        gone = superseded(trials)
        rungs: list[list[FrozenTrial]] = [[] for _ in self.counts]
        for one in trials:
            if RUNG in one.user_attrs and one.number not in gone:
                rungs[int(one.user_attrs[RUNG])].append(one)
        for rung, count in enumerate(self.counts):
            if len(rungs[rung]) < count:
                below = _best_first(study, rungs[rung - 1]) if rung else []
                promoted = {one.user_attrs.get(FROM) for one in rungs[rung]}
                chosen = [one for one in below if one.number not in promoted]
                self._queue(study, rung, chosen[0] if chosen else None)
                return
        best = _best_first(study, trials)
        if best and len(trials) % FREE:
            study.enqueue_trial({KEY: best[0].params[KEY]})

    def _queue(self, study: Study, rung: int, source: FrozenTrial | None) -> None:
        size = {KEY: self.columns.sizes[rung]}
        if source is None:
            study.enqueue_trial(size, user_attrs={RUNG: rung})
        else:
            attributes = {RUNG: rung, FROM: source.number}
            study.enqueue_trial({**source.params, **size}, user_attrs=attributes)


class SameSizePruner(BasePruner):
    """Compares a trial with those of its own size: few columns are learnt sooner, not better.

    A trial that was promoted runs to its end.

    Args:
        inner: Decides, on what it is shown.
    """

    def __init__(self, inner: BasePruner) -> None:
        self.inner = inner

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether to stop the trial here."""
        if FROM in trial.user_attrs:
            return False
        return self.inner.prune(cast(Study, _SameSize(study, trial.params.get(KEY))), trial)


class _SameSize:
    """A study of which only the trials of one size are seen."""

    def __init__(self, study: Study, size: object) -> None:
        self._study = study
        self._size = size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._study, name)

    def get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        found = self._study.get_trials(deepcopy=deepcopy, states=states)
        return [one for one in found if one.params.get(KEY) == self._size]


def _best_first(study: Study, trials: list[FrozenTrial]) -> list[FrozenTrial]:
    """Those that ended with a value; a trial that was stopped early comes after those that ran."""
    sign = -1.0 if study.direction == StudyDirection.MAXIMIZE else 1.0
    ended = [
        (one.state != TrialState.COMPLETE, sign * one.value, one.number, one)
        for one in trials
        if one.value is not None
    ]
    return [one for *_, one in sorted(ended, key=lambda entry: entry[:3])]
