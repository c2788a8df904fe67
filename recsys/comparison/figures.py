"""Figures of a comparison: quality against cost, and each configuration with its seeds."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from recsys.comparison.table import Comparison, direction
from recsys.tracking.figures import BLUE, GREY, ORANGE, SHORT, Columns, new_figure

COST = "fit_seconds"
MOST_ROWS = 40
"""Configurations in the second figure, the first ones of the table."""
LABELLED = 14
"""Points with a name in the first; of more only those that nothing beats, and the baseline."""


def quality_and_cost(table: Comparison, cost: str = COST) -> tuple[Figure, Columns] | None:
    """The metric of each configuration against what it costs, with deviations over seeds.

    A line joins those that no other beats in both. None where no run has both numbers.

    Args:
        table: To be drawn.
        cost: Of which less is better.
    """
    points = [
        (index, quality, price)
        for index, row in enumerate(table.rows)
        if (quality := row.spread(table.metric)) and (price := row.spread(cost)) and price.mean > 0
    ]
    if not points:
        return None
    name = table.metric.removeprefix("test/")
    better = direction(table.metric)
    side = {1: ", higher is better", -1: ", lower is better", 0: ""}[better]
    figure, (axis,) = new_figure(f"Quality and cost: {_subject(table)}")
    x = np.array([price.mean for _, _, price in points])
    y = np.array([quality.mean for _, quality, _ in points])
    spans = [[0.0 if math.isnan(s.sd) else s.sd for s in pair] for _, *pair in points]
    front = _front(x, y * (better or 1))
    axis.errorbar(
        x, y, yerr=[of_y for of_y, _ in spans], xerr=np.minimum([s for _, s in spans], 0.99 * x),
        fmt="none", ecolor=GREY, elinewidth=1, capsize=2.5,
    )  # fmt: skip
    if better and len(points) > 1:
        axis.step(x[front], y[front], where="post", color=GREY, linewidth=1, linestyle="--")
    base = [position for position, (index, *_) in enumerate(points) if index == table.baseline]
    colours = [ORANGE if position in base else BLUE for position in range(len(points))]
    axis.scatter(x, y, c=colours, s=36, zorder=3)
    named = range(len(points)) if len(points) <= LABELLED else sorted({*front.tolist(), *base})
    for position in named:
        axis.annotate(
            table.label(points[position][0]), (x[position], y[position]), fontsize=8,
            xytext=(6, 5), textcoords="offset points",
        )  # fmt: skip
    if x.max() > 5 * x.min():
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(SHORT)
        axis.xaxis.set_minor_formatter(ScalarFormatter() if x.max() < 10 * x.min() else "")
    axis.margins(x=0.15, y=0.12)
    unit = "time to train, s" if cost == COST else cost
    axis.set(xlabel=f"{unit} (mean and sd over seeds)", ylabel=f"{name} (mean and sd){side}")
    return figure, {
        "configuration": [table.label(index) for index, *_ in points],
        cost: x,
        f"{cost} sd": [price.sd for *_, price in points],
        table.metric: y,
        f"{table.metric} sd": [quality.sd for _, quality, _ in points],
        "seeds": [quality.n for _, quality, _ in points],
        "unbeaten": np.isin(np.arange(len(points)), front),
    }


def _front(cost: np.ndarray, quality: np.ndarray) -> np.ndarray:
    """Points that no other beats in both, ascending by cost."""
    order = np.lexsort((-quality, cost))
    best = np.maximum.accumulate(np.concatenate([[-np.inf], quality[order][:-1]]))
    return np.asarray(order[quality[order] > best])


def configurations(table: Comparison) -> tuple[Figure, Columns]:
    """Against a baseline, bars of the difference with the 95 % intervals; else the metric itself.

    Bars begin at zero, so they are of differences. Values near each other, such as AUCs, are
    points on a cut axis: every seed, and the mean.

    Args:
        table: To be drawn.
    """
    if table.baseline is not None and table.differences:
        return _differences(table)
    shown = [
        (index, found)
        for index, row in enumerate(table.rows[:MOST_ROWS])
        if (found := row.spread(table.metric)) is not None
    ]
    figure, (axis,) = new_figure(
        f"{table.metric}: {_subject(table)}", size=(7.2, 1.4 + 0.34 * len(shown))
    )
    names, seeds, values = [], [], []
    for place, (index, found) in enumerate(shown):
        row = table.rows[index]
        own = [run.metrics[table.metric] for run in row.runs if table.metric in run.metrics]
        axis.plot(own, [place] * len(own), "o", color=BLUE, alpha=0.45, markersize=5)
        axis.plot([found.mean], [place], "|", color=ORANGE, markersize=15, markeredgewidth=2)
        names += [table.label(index)] * len(own)
        seeds += [run.seed for run in row.runs if table.metric in run.metrics]
        values += own
    _name_rows(axis, [table.label(index) for index, _ in shown])
    axis.set_xlabel(f"{table.metric}: a point per seed, the bar their mean")
    return figure, {"configuration": names, "seed": seeds, table.metric: values}


def _differences(table: Comparison) -> tuple[Figure, Columns]:
    assert table.baseline is not None
    shown = [(i, one) for i, one in table.differences.items() if one.seeds or one.rows]
    shown = shown[:MOST_ROWS]
    base = table.label(table.baseline)
    figure, (axis,) = new_figure(
        f"Difference to {base}: {_subject(table)}", size=(7.2, 1.7 + 0.45 * len(shown))
    )
    nothing = math.nan
    columns: dict[str, list[object]] = {
        key: []
        for key in ("configuration", "difference", "seeds_low", "seeds_high", "rows_low",
                    "rows_high")
    }  # fmt: skip
    for place, (index, found) in enumerate(shown):
        seeds, rows = found.seeds, found.rows
        mean = seeds.mean if seeds is not None else rows.mean if rows is not None else nothing
        over_seeds = (nothing, nothing) if seeds is None else (seeds.low, seeds.high)
        over_rows = (nothing, nothing) if rows is None else (rows.low, rows.high)
        axis.barh(place, mean, height=0.55, color=BLUE, alpha=0.35, label="" if place else "mean")
        label = "" if place else "95 % over seeds"
        axis.plot(over_seeds, [place - 0.12] * 2, color=BLUE, linewidth=2, label=label)
        if any(one.rows is not None for _, one in shown):
            drawn = next(one.rows.kind for _, one in shown if one.rows is not None)
            label = "" if place else f"95 % over test {drawn}"
            axis.plot(over_rows, [place + 0.12] * 2, color=ORANGE, linewidth=2, label=label)
        cells = (table.label(index), mean, *over_seeds, *over_rows)
        for key, value in zip(columns, cells, strict=True):
            columns[key].append(value)
    axis.axvline(0.0, color=GREY, linewidth=1)
    _name_rows(axis, [table.label(index) for index, _ in shown])
    side = {1: "right is better", -1: "left is better", 0: ""}[direction(table.metric)]
    axis.set_xlabel(f"{table.metric} less that of {base}{side and f'; {side}'}")
    axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=8)
    return figure, columns


def _name_rows(axis: Axes, names: list[str]) -> None:
    """Names along the vertical axis, the first on top."""
    axis.set_yticks(range(len(names)), names)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")


def _subject(table: Comparison) -> str:
    runs = sum(len(row.runs) for row in table.rows)
    return f"{table.data}, {len(table.rows)} configurations, {runs} runs"
