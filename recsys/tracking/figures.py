"""What every figure of the house shares: palette, title, size, files, thinning and smoothing."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

Columns = Mapping[str, Any]
"""Named columns (lists or arrays) of one length: what a figure shows, as it goes to CSV."""

# Okabe and Ito's palette: told apart with every common colour blindness, and in grey.
BLUE, ORANGE, GREEN, SKY, GREY = "#0072B2", "#D55E00", "#009E73", "#56B4E9", "#6B6B6B"
MAX_POINTS = 400
"""Points of a curve that are drawn: more than a screen shows."""
_DPI = 110
COUNT = FuncFormatter(lambda value, _: f"{value:,.0f}")
PROBABILITY = FuncFormatter(lambda value, _: f"{value:.3g}")
SHORT = FuncFormatter(lambda value, _: f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}")


@dataclass(frozen=True)
class Subject:
    """What a figure is about; stands in every title."""

    model: str
    dataset: str
    num_rows: int

    def __str__(self) -> str:
        return f"{self.model} on {self.dataset}, n = {self.num_rows:,}"


def save_figure(figure: Figure, table: Columns, path: Path) -> None:
    """Write `path` with the suffixes `.png` and `.csv`.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_figure(Figure(), {"x": [1, 2]}, Path(folder) / "line")
        ...     sorted(file.name for file in Path(folder).iterdir())
        ['line.csv', 'line.png']
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path.with_suffix(".png"), dpi=_DPI)
    save_table(table, path.with_suffix(".csv"))


def save_table(table: Columns, path: Path) -> None:
    """Write named columns as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


def new_figure(
    title: str,
    rows: int = 1,
    columns: int = 1,
    size: tuple[float, float] = (7.2, 4.6),
    heights: Sequence[float] | None = None,
    frame: bool = False,
    share_y: bool = False,
) -> tuple[Figure, list[Axes]]:
    """An empty figure in the style of the house.

    Args:
        title: States model, data set and number of rows.
        rows: Rows of axes.
        columns: Columns of axes.
        size: Inches.
        heights: Relative heights of the rows.
        frame: Draw all four sides.
        share_y: Axes of a row have one vertical scale, labelled on the left.

    Returns:
        The figure and its axes, row by row.
    """
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        sharey="row" if share_y else False,
        gridspec_kw={"height_ratios": heights or [1.0] * rows},
    )
    axes = list(grid.flat)
    figure.suptitle(title, fontsize=11)
    for axis in axes:
        axis.grid(visible=True, color="#E4E4E4", linewidth=0.7)
        axis.set_axisbelow(True)
        for side in ("top", "right"):
            axis.spines[side].set_visible(frame)
    return figure, axes


def smoothed(values: np.ndarray, window: int = 20) -> np.ndarray:
    """Exponential moving average, debiased, so that it begins at the first value.

    Example:
        >>> smoothed(np.array([2.0, 2.0, 2.0])).round(6).tolist()
        [2.0, 2.0, 2.0]
    """
    keep = 1 - 1 / max(1, min(window, len(values) // 25))
    out, average, weight = np.empty(len(values)), 0.0, 0.0
    for i, value in enumerate(values):
        average = keep * average + (1 - keep) * value
        weight = keep * weight + (1 - keep)
        out[i] = average / weight
    return out


def thinned(x: np.ndarray, y: np.ndarray, num_points: int = MAX_POINTS) -> np.ndarray:
    """Positions of at most about `num_points` points spread evenly along a curve, ends included."""
    if len(x) <= num_points:
        return np.arange(len(x))
    length = np.cumsum(np.hypot(np.diff(x, prepend=x[0]), np.diff(y, prepend=y[0])))
    wanted = np.linspace(0.0, length[-1], num_points)
    return np.unique(np.concatenate([[0], np.searchsorted(length, wanted), [len(x) - 1]])).clip(
        max=len(x) - 1
    )


def legend_above(axis: Axes, handles: Sequence[Any]) -> None:
    """Put a legend of at most three columns above the axes, where it hides nothing."""
    axis.legend(
        handles=list(handles),
        loc="lower left",
        bbox_to_anchor=(0.0, 1.0),
        ncols=3,
        frameon=False,
        fontsize=8,
        borderaxespad=0.2,
    )
