"""Figures of pairs of fields over models that are nearly as good: a swarm of scores, and halos.

Letters   P pairs, M members of the set.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from recsys.tracking.figures import (
    BLUE,
    GREY,
    ORANGE,
    SHORT,
    Columns,
    Subject,
    legend_above,
    new_figure,
)

if TYPE_CHECKING:
    from recsys.models.interactions import PairInteraction

MAX_PAIRS = 20
"""Pairs of a swarm that are drawn; the table has all."""
MAX_HALOS = 12
HALOS_PER_ROW = 4
LANES = 7
"""Heights within a pair's line on which dots may lie, so that none hides another."""


def pair_table(pairs: Sequence[PairInteraction]) -> Columns:
    """A row for each pair: its score with its interval, and what the set says of it."""
    return {
        "field_1": [one.fields[0] for one in pairs],
        "field_2": [one.fields[1] for one in pairs],
        "score": [one.reference.score for one in pairs],
        "low": [one.reference.low for one in pairs],
        "high": [one.reference.high for one in pairs],
        "lowest": [one.range[0] for one in pairs],
        "highest": [one.range[1] for one in pairs],
        "sign_changes": [one.sign_changes for one in pairs],
        "models": [len(one.members) for one in pairs],
        "most_outside": [max(point.excess for point in one.halo) for one in pairs],
        "most_inside": [min(point.excess for point in one.halo) for one in pairs],
    }


def swarm_plot(
    subject: Subject, pairs: Sequence[PairInteraction], epsilon: float
) -> tuple[Figure, Columns]:
    """Each pair's score in every model of the set: a dot each, as dark as what the model loses.

    Args:
        subject: Model, data set and number of rows.
        pairs: P of them, to be drawn from top to bottom; at most 20 are.
        epsilon: Log-loss that a model of the set may lose.
    """
    shown = pairs[:MAX_PAIRS]
    more = f" (first {len(shown)} of {len(pairs)} pairs)" if len(pairs) > len(shown) else ""
    title = f"Interaction over models that lose at most {epsilon:g} of log-loss{more}\n{subject}"
    figure, (axis,) = new_figure(title, size=(8.4, 1.9 + 0.42 * max(len(shown), 3)))
    scores = [member.score for one in shown for member in one.members]
    ends = [end for one in shown for end in (one.reference.low, one.reference.high)]
    span = max(max([*scores, *ends]) - min([*scores, *ends]), 1e-9)
    dots = None
    for line, one in enumerate(shown):
        masked = [member for member in one.members if member.name == "mask"]
        runs = [member for member in one.members[1:] if member.name != "mask"]
        values = np.array([member.score for member in masked])
        dots = axis.scatter(
            values,
            line + lanes(values, span / 90),
            c=[max(member.rise, 0.0) for member in masked],
            cmap="Blues",
            vmin=-0.6 * epsilon,  # the best must still be seen on white
            vmax=epsilon,
            s=16,
            edgecolors="white",
            linewidths=0.3,
            zorder=2,
        )
        axis.scatter(
            [member.score for member in runs], [line] * len(runs), marker="D", s=30, color=GREY,
            zorder=3,
        )  # fmt: skip
        best = one.reference
        axis.plot([best.low, best.high], [line, line], color=ORANGE, linewidth=1.6, zorder=3.5)
        axis.scatter([best.score], [line], marker="*", s=110, color=ORANGE, zorder=4)
    axis.axvline(0.0, color="black", linewidth=0.8, zorder=1)
    axis.set_yticks(range(len(shown)), [_named(one) for one in shown], fontsize=8)
    axis.set_ylim(max(len(shown), 1) - 0.4, -0.6)
    axis.tick_params(axis="y", length=0)
    axis.xaxis.set_major_formatter(SHORT)
    axis.set_xlabel("score in nats: positive, together only; negative, one stands in for the other")
    star = axis.scatter([], [], marker="*", s=110, color=ORANGE, label="reference, 95 % interval")
    handles = [star, axis.scatter([], [], s=16, color=BLUE, label="with masks")]
    if any(member.name not in ("mask", "reference") for one in shown for member in one.members):
        handles.append(axis.scatter([], [], marker="D", s=30, color=GREY, label="other run"))
    legend_above(axis, handles)
    if dots is not None:
        bar = figure.colorbar(dots, ax=axis, shrink=0.7, pad=0.02, aspect=24)
        bar.ax.set_ylim(0, epsilon)
        bar.set_label("log-loss above the reference")
        bar.outline.set_visible(False)
    rows = [(one, member) for one in pairs for member in one.members]
    table = {
        "field_1": [one.fields[0] for one, _ in rows],
        "field_2": [one.fields[1] for one, _ in rows],
        "model": [member.name for _, member in rows],
        "score": [member.score for _, member in rows],
        "low": [member.low for _, member in rows],
        "high": [member.high for _, member in rows],
        "logloss_rise": [member.rise for _, member in rows],
        "mask_1": [member.masks[0] for _, member in rows],
        "mask_2": [member.masks[1] for _, member in rows],
    }
    return figure, table


def halo_plot(
    subject: Subject, pairs: Sequence[PairInteraction], epsilon: float
) -> tuple[Figure, Columns]:
    """What masks on both fields of a pair cost together, around the circle of what they cost alone.

    The direction is how the allowance is split and whether each field is weakened or amplified, the
    distance what log-loss rises by. The grey line is what both cost alone, added up: the circle,
    except where a field is worth less than its share. Points beyond it: the two masks hurt more
    together; within it: one makes up for the other.

    Args:
        subject: Model, data set and number of rows.
        pairs: P of them; at most 12 are drawn.
        epsilon: Radius of the circle, log-loss.
    """
    shown = pairs[:MAX_HALOS]
    columns = min(max(len(shown), 1), HALOS_PER_ROW)
    lines = max(-(-len(shown) // HALOS_PER_ROW), 1)
    more = f" (first {len(shown)} of {len(pairs)} pairs)" if len(pairs) > len(shown) else ""
    title = f"Log-loss that two masks cost together{more}, circle {epsilon:g}\n{subject}"
    size = (max(2.5 * columns + 0.4, 4.8), 2.8 * lines + 0.8)
    figure, axes = new_figure(title, rows=lines, columns=columns, size=size)
    for axis, one in zip(axes, shown, strict=False):
        _draw_halo(axis, one, epsilon)
    for axis in axes[len(shown) :]:
        axis.set_visible(False)
    rows = [(one, point) for one in pairs for point in one.halo]
    table = {
        "field_1": [one.fields[0] for one, _ in rows],
        "field_2": [one.fields[1] for one, _ in rows],
        "degrees": [float(np.degrees(point.angle)) for _, point in rows],
        "logloss_rise": [point.rise for _, point in rows],
        "rise_1_alone": [point.alone[0] for _, point in rows],
        "rise_2_alone": [point.alone[1] for _, point in rows],
        "mask_1": [point.masks[0] for _, point in rows],
        "mask_2": [point.masks[1] for _, point in rows],
    }
    return figure, table


def _draw_halo(axis: Axes, pair: PairInteraction, epsilon: float) -> None:
    points = sorted(pair.halo, key=lambda one: one.angle)
    angle = np.array([one.angle for one in points])
    rise = np.maximum([one.rise for one in points], 0.0)
    alone = np.maximum([sum(one.alone) for one in points], 0.0)
    closed = np.append(np.arange(len(points)), 0)
    axis.plot(
        (alone * np.cos(angle))[closed], (alone * np.sin(angle))[closed], color="#B8B8B8", zorder=1
    )
    outside = np.array([one.excess > 0 for one in points])
    for chosen, color in ((outside, ORANGE), (~outside, BLUE)):
        axis.scatter(
            (rise * np.cos(angle))[chosen], (rise * np.sin(angle))[chosen], s=12, color=color,
            zorder=2,
        )  # fmt: skip
    reach = 1.12 * max(float(rise.max(initial=0.0)), float(alone.max(initial=0.0)), epsilon)
    axis.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal")
    axis.axhline(0.0, color="#D8D8D8", linewidth=0.7, zorder=0.5)
    axis.axvline(0.0, color="#D8D8D8", linewidth=0.7, zorder=0.5)
    axis.grid(visible=False)
    axis.set_xticks([])
    axis.set_yticks([])
    for side in axis.spines.values():
        side.set_visible(False)
    axis.set_title(_named(pair, 16), fontsize=8)
    axis.set_xlabel(f"{_cut(pair.fields[0], 14)}  weaker ← → stronger", fontsize=7)
    axis.set_ylabel(f"{_cut(pair.fields[1], 14)}  weaker ← → stronger", fontsize=7)


def lanes(values: np.ndarray, width: float) -> np.ndarray:
    """Heights around 0 for dots on one line, so that dots nearer than `width` lie apart as far as
    there is room.

    Example:
        >>> lanes(np.array([0.0, 0.0, 5.0]), 1.0).round(2).tolist()
        [0.0, 0.09, 0.0]
    """
    order = [0, *(side * k for k in range(1, LANES // 2 + 1) for side in (1, -1))]
    last = dict.fromkeys(order, -np.inf)
    heights = np.zeros(len(values))
    for at in np.argsort(values, kind="stable").tolist():
        free = [lane for lane in order if values[at] - last[lane] >= width]
        lane = free[0] if free else min(order, key=last.__getitem__)
        last[lane] = values[at]
        heights[at] = 0.09 * lane
    return heights


def _named(pair: PairInteraction, length: int = 24) -> str:
    return " x ".join(_cut(name, length) for name in pair.fields)


def _cut(name: str, length: int) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
