"""The plots of a ranking's page, as SVG: no image to carry, sharp at any size."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

import polars as pl

BARS = 30
"""Columns in the first plot."""
LONGEST = 28
"""Letters of a name that are shown."""
BLUE, ORANGE, GREY, LINE = "#0072B2", "#D55E00", "#6B6B6B", "#E4E4E4"


def score_bars(features: pl.DataFrame) -> str:
    """Excess information of the best columns, with three deviations of chance to each side."""
    shown = features.head(BARS)
    excess = [max(float(one), 0.0) for one in shown["excess"]]
    spread = [3 * float(one) for one in shown["deviation"]]
    most = max([e + s for e, s in zip(excess, spread, strict=True)] + [1e-12])
    left, width, step = 190, 820, 20
    height = step * len(shown) + 34
    out = [
        f"<svg viewBox='0 0 {left + width + 60} {height + 14}' role=img "
        "aria-label='excess information'>"
    ]
    for tick in _ticks(most):
        x = left + width * tick / most
        out.append(_line(x, 6, x, height - 26, LINE))
        out.append(_text(x, height - 10, "middle", GREY, f"{tick:g}"))
    for index, name in enumerate(str(one) for one in shown["feature"]):
        value, one, y = excess[index], spread[index], 8 + step * index
        label = name if len(name) <= LONGEST else name[: LONGEST - 1] + "\u2026"
        out.append(_text(left - 8, y + 12, "end", "#1b1b1b", label))
        colour = BLUE if value > one else GREY
        out.append(
            f"<rect x={left} y={y + 2} width={width * value / most:.1f} height=12 fill='{colour}'>"
            f"<title>{html.escape(name)}: {value:.6g} nats</title></rect>"
        )
        low, high = (left + width * max(end, 0) / most for end in (value - one, value + one))
        out.append(_line(low, y + 8, high, y + 8, ORANGE))
    out.append(_text(left + width / 2, height + 8, "middle", GREY, "nats"))
    return "".join([*out, "</svg>"])


def label_line(periods: pl.DataFrame) -> str:
    """The third column of a table by period, as a line with a mark per period."""
    value = periods.columns[2]
    names = [str(one) for one in periods["period"]]
    numbers = [float(one) for one in periods[value]]
    low, high = min(0.0, *numbers), max(*numbers, 1e-12)
    left, width, height = 60, 900, 200
    x = [left + width * i / max(len(numbers) - 1, 1) for i in range(len(numbers))]

    def y(number: float) -> float:
        return height - 30 - (height - 50) * (number - low) / (high - low)

    out = [
        f"<svg viewBox='0 0 {left + width + 40} {height}' role=img "
        f"aria-label='{html.escape(value)}'>"
    ]
    for number in (low, (low + high) / 2, high):
        out.append(_line(left, y(number), left + width, y(number), LINE))
        out.append(_text(left - 8, y(number) + 4, "end", GREY, f"{number:.3g}"))
    points = " ".join(f"{a:.1f},{y(b):.1f}" for a, b in zip(x, numbers, strict=True))
    out.append(f"<polyline points='{points}' fill=none stroke='{BLUE}' stroke-width=2 />")
    every = max(len(names) // 8, 1)
    for index, (name, number) in enumerate(zip(names, numbers, strict=True)):
        out.append(
            f"<circle cx={x[index]:.1f} cy={y(number):.1f} r=3 fill='{BLUE}'>"
            f"<title>{html.escape(name)}: {number:.5g}</title></circle>"
        )
        if index % every == 0:
            out.append(_text(x[index], height - 8, "middle", GREY, name[-10:]))
    return "".join([*out, "</svg>"])


def _line(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    return f"<line x1={x1:.1f} y1={y1:.1f} x2={x2:.1f} y2={y2:.1f} stroke='{colour}' />"


def _text(x: float, y: float, anchor: str, colour: str, text: str) -> str:
    return (
        f"<text x={x:.1f} y={y:.1f} text-anchor={anchor} fill='{colour}'>{html.escape(text)}</text>"
    )


def _ticks(most: float) -> Sequence[float]:
    size = 10 ** math.floor(math.log10(most))
    step = next(size * factor for factor in (0.2, 0.5, 1, 2) if most / (size * factor) <= 6)
    return [step * index for index in range(int(most / step) + 1)]
