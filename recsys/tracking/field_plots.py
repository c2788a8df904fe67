"""Figures about fields: bars of one number per name, attention, crosses, interest in past events.

Letters   F slots or names, H heads, L layers, K crosses, T longest history.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from recsys.tracking.figures import (
    BLUE,
    COUNT,
    GREY,
    ORANGE,
    SHORT,
    SKY,
    Columns,
    Subject,
    legend_above,
    new_figure,
)

Values: TypeAlias = Sequence[float] | np.ndarray
"""One number per name."""
MAX_BARS = 40
MAX_CROSSES = 20


@dataclass(frozen=True)
class Panel:
    """One set of bars of `bar_panels`."""

    label: str
    """What a bar's length means, with its unit."""
    values: Values
    spread: Values | None = None
    """Standard deviation (over seeds, rows, repeats), drawn as an interval."""
    columns: tuple[str, str] = ("importance", "deviation")
    """Names of the values and of their spread in the table."""
    base: float = 0.0
    """Value at which bars begin."""


def bars(
    subject: Subject,
    names: Sequence[str],
    values: Values,
    spread: Values | None = None,
    *,
    title: str = "Field importance",
    label: str = "importance",
    columns: tuple[str, str, str] = ("field", "importance", "deviation"),
    base: float = 0.0,
) -> tuple[Figure, Columns]:
    """Numbers with names as horizontal bars, the highest on top.

    Up to 40 bars are drawn, of more names the highest 40; the table has all of them.

    Args:
        subject: Model, data set and number of rows.
        names: F names, of fields or anything else.
        values: [F], of either sign.
        spread: [F] standard deviation (over seeds, rows, repeats), drawn as an interval.
        title: What is shown; the subject is added.
        label: What a bar's length means, with its unit.
        columns: Columns of the table: names, values, spread.
        base: Value at which bars begin, such as 1 for factors.
    """
    panel = Panel(label, values, spread, columns[1:], base)
    return bar_panels(subject, names, [panel], title=title, column=columns[0])


def bar_panels(
    subject: Subject,
    names: Sequence[str],
    panels: Sequence[Panel],
    *,
    title: str,
    column: str = "field",
) -> tuple[Figure, Columns]:
    """Several numbers per name side by side, as `bars` draws them, in the order of the first.

    Args:
        subject: Model, data set and number of rows.
        names: F names.
        panels: What stands side by side.
        title: What is shown; the subject is added.
        column: Name of the table's column of names.
    """
    arrays = [(_per_name(names, p.values), _per_name(names, p.spread)) for p in panels]
    first = arrays[0][0]
    assert first is not None
    order = np.argsort(-np.nan_to_num(first, nan=-np.inf), kind="stable")
    shown = order[:MAX_BARS][::-1]
    more = f" (first {len(shown)} of {len(order)})" if len(order) > len(shown) else ""
    size = (7.2 if len(panels) == 1 else 9.4, 1.4 + 0.22 * max(len(shown), 3))
    figure, axes = new_figure(
        f"{title}{more}\n{subject}", columns=len(panels), size=size, share_y=True
    )
    table: dict[str, Any] = {column: [names[i] for i in order]}
    for axis, panel, (values, spread) in zip(axes, panels, arrays, strict=True):
        assert values is not None
        _draw_bars(axis, values[shown], None if spread is None else spread[shown], panel)
        table[panel.columns[0]] = values[order]
        if spread is not None:
            table[panel.columns[1]] = spread[order]
    axes[0].set_yticks(range(len(shown)), [_short(names[i]) for i in shown], fontsize=8)
    axes[0].set_ylim(-0.6, max(len(shown), 1) - 0.4)
    return figure, table


def _per_name(names: Sequence[str], values: Values | None) -> np.ndarray | None:
    if values is None:
        return None
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (len(names),):
        raise ValueError(
            f"{list(array.shape)} numbers for {len(names)} names; bars need one number per name."
        )
    return array


def _draw_bars(axis: Axes, values: np.ndarray, spread: np.ndarray | None, panel: Panel) -> None:
    """Bars with the number written beyond the end of each one, on the side it grows to."""
    base = panel.base
    ends = np.nan_to_num(values, nan=base)
    reach = np.zeros_like(ends) if spread is None else np.nan_to_num(spread)
    places = np.arange(len(ends))
    axis.barh(places, ends - base, left=base, color=BLUE, height=0.72)
    if spread is not None:
        axis.errorbar(
            ends, places, xerr=reach, fmt="none", ecolor="#303030", elinewidth=1.0, capsize=2.0
        )
    low = min(float((ends - reach).min(initial=base)), base)
    high = max(float((ends + reach).max(initial=base)), base)
    span = (high - low) or 1.0
    largest = float(np.abs(ends - base).max(initial=0.0)) or 1.0
    for place, value, end, far in zip(places, values, ends, reach, strict=True):
        forward = end >= base
        axis.annotate(
            _number(value, largest),
            (end + far if forward else end - far, place),
            xytext=(4 if forward else -4, 0),
            textcoords="offset points",
            va="center_baseline",
            ha="left" if forward else "right",
            fontsize=7,
            color="#303030",
        )
    # Room for the numbers: they are about as wide as a seventh of the axis.
    axis.set_xlim(low - (0.16 * span if low < base else 0.0), high + 0.16 * span)
    axis.tick_params(axis="y", length=0)
    axis.axvline(base, color="black", linewidth=0.8)
    axis.spines["left"].set_visible(False)
    axis.grid(visible=False, axis="y")
    axis.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axis.xaxis.set_major_formatter(SHORT)
    axis.set_xlabel(panel.label)


def _number(value: float, largest: float) -> str:
    """Three or four digits of the longest bar, and as many decimals for the others."""
    if not np.isfinite(value):
        return "none"
    size = int(np.floor(np.log10(largest)))
    digits = int(np.clip(max(2 - size, min(4, 3 - size)), 0, 6))
    return f"{round(value, digits) + 0.0:,.{digits}f}"  # + 0.0: not "-0.000"


def attention_heatmap(
    subject: Subject, fields: Sequence[str], attention: np.ndarray
) -> tuple[Figure, Columns]:
    """Mean attention of each field (row) to each field (column), one panel per layer and head.

    Args:
        subject: Model, data set and number of rows averaged.
        fields: F names.
        attention: [L, H, F, F] weights; rows sum to 1.
    """
    layers, heads, num_fields = attention.shape[:3]
    if attention.shape[2:] != (len(fields), len(fields)):
        raise ValueError(
            f"attention is {list(attention.shape)} but there are {len(fields)} field names; it "
            "must be [layers, heads, fields, fields]."
        )
    side = float(np.clip(0.19 * num_fields, 1.7, 3.6))
    size = (max(heads * side + 2.0, 4.6), layers * side + 1.5)
    title = f"Mean attention, row attends to column\n{subject}"
    figure, axes = new_figure(title, rows=layers, columns=heads, size=size, frame=True)
    top = float(np.quantile(attention, 0.995)) or 1.0  # one peak must not hide the rest
    font = float(np.clip(150 * side / max(num_fields, 1) / 3, 3.5, 8))
    for index, axis in enumerate(axes):
        layer, head = divmod(index, heads)
        image = axis.imshow(
            attention[layer, head], cmap="Blues", vmin=0, vmax=top, interpolation="nearest"
        )
        axis.set_title(f"layer {layer + 1}, head {head + 1}", fontsize=9)
        axis.tick_params(length=0)
        axis.grid(visible=False)
        names = range(num_fields) if font > 3.5 else []
        axis.set_xticks(names, fields if layer == layers - 1 and names else [""] * len(names))
        axis.set_yticks(names, fields if head == 0 and names else [""] * len(names))
        axis.tick_params(axis="x", rotation=90, labelsize=font)
        axis.tick_params(axis="y", labelsize=font)
    bar = figure.colorbar(image, ax=axes, shrink=0.6, pad=0.02, aspect=30, extend="max")
    bar.set_label("attention weight")
    bar.outline.set_visible(False)
    where = np.indices(attention.shape).reshape(4, -1)
    table = {
        "layer": where[0] + 1,
        "head": where[1] + 1,
        "field": [fields[i] for i in where[2]],
        "attends_to": [fields[i] for i in where[3]],
        "weight": attention.reshape(-1),
    }
    return figure, table


def heatmap(
    subject: Subject,
    title: str,
    rows: Sequence[str],
    columns: Sequence[str],
    values: np.ndarray,
    *,
    mask: np.ndarray | None = None,
    label: str,
    names: tuple[str, str, str],
) -> tuple[Figure, Columns]:
    """A number for each pair of names, written in its cell; at most 40 rows are drawn.

    Args:
        subject: Model, data set and number of rows.
        title: What is shown; the subject is added.
        rows: R names.
        columns: G names.
        values: [R, G].
        mask: [R, G] False where there is no number: left white.
        label: What the numbers are.
        names: Columns of the table: rows, columns, values.
    """
    there = np.ones(values.shape, bool) if mask is None else np.asarray(mask)
    there = there & np.isfinite(values)
    shown = np.where(there, values, np.nan)[:MAX_BARS]
    size = (3.4 + 0.46 * len(columns), 2.2 + 0.26 * len(shown))
    figure, (axis,) = new_figure(f"{title}\n{subject}", size=size)
    top = float(np.nanmax(shown)) if np.isfinite(shown).any() else 1.0
    image = axis.imshow(shown, cmap="Blues", vmin=0.0, vmax=max(top, 1e-9), aspect="auto")
    for row, column in np.argwhere(there[:MAX_BARS]):
        value = float(shown[row, column])
        axis.text(
            column, row, f"{value:.2f}" if top >= 0.1 else f"{value:.3f}", ha="center",
            va="center", fontsize=7, color="white" if value > 0.6 * top else "black",
        )  # fmt: skip
    axis.set_xticks(range(len(columns)), [_short(name) for name in columns], rotation=90)
    axis.set_yticks(range(len(shown)), [_short(name) for name in rows[: len(shown)]])
    axis.tick_params(labelsize=8, length=0)
    axis.grid(visible=False)
    figure.colorbar(image, ax=axis, label=label, fraction=0.046, pad=0.02)
    places = np.argwhere(there)
    table = {
        names[0]: [rows[row] for row, _ in places],
        names[1]: [columns[column] for _, column in places],
        names[2]: [float(values[row, column]) for row, column in places],
    }
    return figure, table


def crosses_plot(
    subject: Subject,
    slots: Sequence[str],
    crosses: Sequence[Sequence[int]],
    weights: Sequence[Sequence[float]],
    sizes: Sequence[Sequence[float]],
    shares: Sequence[float],
) -> tuple[Figure, Columns]:
    """Sets of slots that enter a product together: one line per set, a dot in each slot's column.

    A dot's area is the mean size of the weight, its colour the sign of the mean weight. At most 20
    sets are drawn and only the slots that occur in them; the table has all.

    Args:
        subject: Model, data set and number of rows.
        slots: F names.
        crosses: K sets of positions among the slots, the most frequent first.
        weights: Mean weight of each member, as `crosses`.
        sizes: Mean absolute weight of each member, as `crosses`.
        shares: [K] share of the rows that have the set.
    """
    table = {
        "cross": [k + 1 for k, one in enumerate(crosses) for _ in one],
        "share_of_rows": [shares[k] for k, one in enumerate(crosses) for _ in one],
        "slot": [slots[i] for one in crosses for i in one],
        "mean_weight": [w for one in weights for w in one],
        "mean_size": [size for one in sizes for size in one],
    }
    drawn = crosses[:MAX_CROSSES]
    used = sorted({i for one in drawn for i in one})
    column = {slot: place for place, slot in enumerate(used)}
    size = (max(4.8, 1.9 + 0.3 * len(used)), max(3.0, 2.1 + 0.27 * len(drawn)))
    title = f"Most frequent crosses, share of rows that have each\n{subject}"
    figure, (axis,) = new_figure(title, size=size)
    largest = max((one for line in sizes[:MAX_CROSSES] for one in line), default=1.0) or 1.0
    for line, (members, values, areas) in enumerate(zip(drawn, weights, sizes, strict=False)):
        places = [column[i] for i in members]
        axis.plot(
            [min(places), max(places)], [line, line], color="#B8B8B8", linewidth=1.2, zorder=1
        )
        axis.scatter(
            places,
            [line] * len(places),
            s=[12 + 110 * area / largest for area in areas],
            c=[BLUE if w >= 0 else ORANGE for w in values],
            zorder=2,
        )
    axis.set_yticks(range(len(drawn)), [f"{share:.1%}" for share in shares[: len(drawn)]])
    axis.set_xticks(range(len(used)), [_short(slots[i]) for i in used], rotation=90)
    axis.tick_params(labelsize=8, length=0)
    axis.set(xlim=(-0.6, max(len(used), 1) - 0.4), ylim=(max(len(drawn), 1) - 0.4, -0.6))
    for sign, color in (("positive", BLUE), ("negative", ORANGE)):
        axis.scatter([], [], s=60, c=color, label=f"{sign} weight")
    axis.scatter(
        [], [], s=122, facecolors="none", edgecolors=GREY, label=f"mean size {largest:.3g}"
    )
    legend_above(axis, axis.get_legend_handles_labels()[0])
    return figure, table


def interest_by_recency(
    subject: Subject, history: str, mean: np.ndarray, deviation: np.ndarray, count: np.ndarray
) -> tuple[Figure, Columns]:
    """Mean attention weight of a history's events, the latest first; below, how many rows reach.

    Args:
        subject: Model, data set and number of rows.
        history: Name of the field.
        mean: [T] mean weight, place 0 being the latest event.
        deviation: [T] standard deviation over rows.
        count: [T] rows with an event at that place.
    """
    reached = int((np.asarray(count) > 0).sum())
    recency = np.arange(1, reached + 1)
    mean, deviation, count = mean[:reached], deviation[:reached], count[:reached]
    figure, (axis, below) = new_figure(
        f"Interest in past events of {_short(history)}\n{subject}", rows=2, heights=(4, 1)
    )
    axis.fill_between(
        recency, mean - deviation, mean + deviation, color=SKY, alpha=0.35, linewidth=0,
        label="± one standard deviation over rows",
    )  # fmt: skip
    axis.plot(recency, mean, color=BLUE, marker="o", markersize=4, linewidth=1.6, label="mean")
    axis.axhline(0.0, color="black", linewidth=0.8, zorder=0.9)
    axis.set(ylabel="attention weight")
    legend_above(axis, axis.get_legend_handles_labels()[0][::-1])
    axis.tick_params(labelbottom=False)
    below.bar(recency, count, color=SKY, width=0.8)
    below.set(xlabel="events ago (1 is the latest)", ylabel="rows")
    below.yaxis.set_major_formatter(COUNT)
    for one in (axis, below):
        one.set_xlim(0.4, reached + 0.6)
        one.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure, {"events_ago": recency, "mean": mean, "deviation": deviation, "rows": count}


def _short(name: str, length: int = 28) -> str:
    return name if len(name) <= length else f"{name[: length - 1]}…"
