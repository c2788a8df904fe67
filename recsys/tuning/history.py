"""What a study found, as tables and figures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import polars as pl
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter
from optuna import Study
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from recsys.tracking.field_plots import bars
from recsys.tracking.figures import (
    BLUE,
    GREY,
    ORANGE,
    SHORT,
    SKY,
    Columns,
    Subject,
    legend_above,
    new_figure,
)
from recsys.tuning.space import decoded
from recsys.tuning.study import user_attributes

MAX_SLICES = 9
FEW = 6
"""Different values up to which each has its own place on an axis."""
STATES = {
    TrialState.COMPLETE: "done", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed",
    TrialState.RUNNING: "running", TrialState.WAITING: "waiting",
}  # fmt: skip


def trial_table(study: Study) -> pl.DataFrame:
    """A row per trial that was begun: number, state, value, best so far, seconds, parameters.

    `elapsed` is the time during which some trial was at work, up to the end of this one, plus what
    the study spent before its first (`preparation`, a user attribute in seconds).
    """
    trials = [one for one in study.get_trials(deepcopy=False) if one.datetime_start is not None]
    ends = _elapsed(trials, float(study.user_attrs.get("preparation", 0.0)))
    pick = max if study.direction == StudyDirection.MAXIMIZE else min
    keys = sorted({key for one in trials for key in one.params})
    best: float | None = None
    best_at: dict[int, float | None] = {}
    for one in sorted(trials, key=lambda one: (ends[one.number], one.number)):
        if one.state == TrialState.COMPLETE and one.value is not None:
            best = one.value if best is None else pick(best, one.value)
        best_at[one.number] = best
    rows = []
    for one in trials:
        attributes = user_attributes(one)
        rows.append({
            "trial": one.number,
            "state": STATES[one.state],
            "value": None if one.value is None else float(one.value),
            "best": best_at[one.number],
            "elapsed": ends[one.number],
            "seconds": None if one.duration is None else one.duration.total_seconds(),
            "validations": len(one.intermediate_values),
            **{key: _cell(one.params.get(key)) for key in keys},
            "reason": attributes.get("reason"),
        })  # fmt: skip
    return pl.DataFrame(rows, infer_schema_length=None)


def _cell(value: Any) -> Any:
    """A parameter in a table: lists and choices of several types are text."""
    found = decoded(value)
    return str(found) if isinstance(found, list | bool) else found


def _elapsed(trials: Sequence[FrozenTrial], before: float) -> dict[int, float]:
    """Seconds of work up to the end of each trial; time when none was running does not count."""
    spans = sorted(
        (one.datetime_start.timestamp(), one.datetime_complete.timestamp())
        for one in trials
        if one.datetime_start is not None and one.datetime_complete is not None
    )
    merged: list[list[float]] = []
    for start, stop in spans:
        if merged and start <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], stop)
        else:
            merged.append([start, stop])
    found = {}
    for one in trials:
        end = one.datetime_complete or one.datetime_start
        assert end is not None
        until = end.timestamp()
        found[one.number] = before + sum(
            min(stop, until) - start for start, stop in merged if start < until
        )
    return found


def history_plot(subject: Subject, table: pl.DataFrame, metric: str) -> tuple[Figure, Columns]:
    """Every trial and the best so far, by trial and by seconds of work."""
    figure, axes = new_figure(f"Search: {subject}", columns=2, size=(9.4, 4.2), share_y=True)
    shown = table.sort("elapsed", "trial")
    for axis, x, label in (
        (axes[0], shown["trial"].to_numpy(), "trial"),
        (axes[1], shown["elapsed"].to_numpy(), "seconds of work"),
    ):
        order = np.argsort(x, kind="stable")
        for state, color, marker in (("done", SKY, "o"), ("pruned", GREY, "x")):
            at = (shown["state"] == state).to_numpy() & shown["value"].is_not_null().to_numpy()
            axis.plot(
                x[at], shown["value"].to_numpy()[at], linestyle="none", marker=marker,
                markersize=4, color=color, label=state,
            )  # fmt: skip
        best = shown["best"].to_numpy().astype(float)[order]
        axis.step(x[order], best, where="post", color=ORANGE, linewidth=1.8, label="best so far")
        axis.set(xlabel=label)
        axis.xaxis.set_major_formatter(SHORT)
    _zoom(axes[0], shown)
    axes[0].set(ylabel=f"validation {metric}")
    legend_above(axes[0], axes[0].get_lines())
    return figure, {name: table[name].to_list() for name in table.columns}


def _zoom(axis: Any, table: pl.DataFrame) -> None:
    """Show where the good trials are: a diverging one would press the others into a line."""
    values = table.filter(pl.col("state") == "done")["value"].drop_nulls().to_numpy()
    if len(values) < 4:
        return
    low, high = np.quantile(values, (0.0, 1.0))
    first, third = np.quantile(values, (0.25, 0.75))
    reach = 3.0 * max(third - first, 1e-9)
    low, high = max(low, first - reach), min(high, third + reach)
    axis.set_ylim(low - 0.06 * (high - low), high + 0.06 * (high - low))


def importances(study: Study) -> dict[str, float]:
    """Share of each key in what separates good trials from bad (PED-ANOVA), the largest first.

    Empty with fewer than four finished trials, or when they all have one value.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < 4 or len({one.value for one in done}) < 2:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a key with one value so far
        try:
            return dict(optuna.importance.get_param_importances(study))
        except (ValueError, RuntimeError, ZeroDivisionError):
            return {}


def importance_plot(subject: Subject, found: dict[str, float]) -> tuple[Figure, Columns]:
    """Importances as bars."""
    return bars(
        subject,
        list(found),
        list(found.values()),
        title="Importance of what was searched",
        label="share (PED-ANOVA over finished trials)",
        columns=("key", "importance", ""),
    )


def _positions(values: pl.Series, log: bool) -> tuple[np.ndarray, list[str]]:
    """Where values stand on an axis; a few different ones stand side by side, with their names."""
    kinds = values.unique().to_list()
    if values.dtype.is_numeric() and (log or len(kinds) > FEW):
        return values.to_numpy(), []
    order = sorted(kinds) if values.dtype.is_numeric() else sorted(kinds, key=str)
    return np.array([order.index(one) for one in values.to_list()]), [
        f"{one:g}" if isinstance(one, int | float) else str(one) for one in order
    ]


def slice_plot(
    subject: Subject, table: pl.DataFrame, keys: Sequence[str], metric: str, log: Sequence[str]
) -> tuple[Figure, Columns]:
    """Value of every finished trial against each key, at most nine of them.

    Args:
        subject: What was searched on.
        table: Of `trial_table`.
        keys: Of the space, the most important first.
        metric: Name of the value.
        log: Keys on a log scale.
    """
    done = table.filter(pl.col("state") == "done")
    shown = [key for key in keys if key in table.columns][:MAX_SLICES]
    columns = min(3, max(len(shown), 1))
    rows = -(-max(len(shown), 1) // columns)
    figure, axes = new_figure(
        f"Value by key: {subject}", rows=rows, columns=columns,
        size=(3.1 * columns, 0.8 + 2.3 * rows), share_y=True,
    )  # fmt: skip
    points = None
    for axis, key in zip(axes, shown, strict=False):
        x, names = _positions(done[key], key in log)
        if names:
            axis.set_xticks(range(len(names)), [name[:14] for name in names], fontsize=7)
        points = axis.scatter(
            x, done["value"].to_numpy(), c=done["trial"].to_numpy(), cmap="Blues", s=18,
            edgecolors=BLUE, linewidths=0.4,
        )  # fmt: skip
        axis.set_xlabel(key, fontsize=8)
        if key in log:
            axis.set_xscale("log")
            axis.xaxis.set_minor_formatter(NullFormatter())
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    for row in range(rows):
        axes[row * columns].set_ylabel(f"validation {metric}", fontsize=8)
    if len(done):
        _zoom(axes[0], done)
    if points is not None:
        bar = figure.colorbar(points, ax=axes, shrink=0.8, ticks=MaxNLocator(6, integer=True))
        bar.set_label("trial", fontsize=8)
    return figure, {name: done[name].to_list() for name in ("trial", "value", *shown)}
