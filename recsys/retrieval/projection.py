"""The two directions in which vectors differ most, drawn.

Letters   N rows, D width.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from matplotlib.figure import Figure

from recsys.retrieval.exported import ExportedVectors
from recsys.retrieval.vectors import COSINE
from recsys.tracking.figures import BLUE, Columns, Subject, new_figure

FITTED_ROWS = 200_000
"""Directions are those of at most so many rows, evenly spaced over the table."""
DRAWN_ROWS = 4_000
"""Points of the figure: more hide each other."""


def principal_components(vectors: np.ndarray, num: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates along the directions of largest variance, and their shares of all variance.

    The sign of a direction is chosen so that its largest part is positive: one figure for one set
    of vectors.

    Args:
        vectors: [N, D].
        num: Directions, at most D.

    Returns:
        [N, num] float64, and [num] shares that sum to at most 1 (0 where all rows are equal).

    Example:
        >>> places, share = principal_components(np.array([[0.0, 1.0], [2.0, 1.0], [4.0, 1.0]]))
        >>> places[:, 0].tolist(), share.tolist()
        ([-2.0, 0.0, 2.0], [1.0, 0.0])
    """
    centred = vectors.astype(np.float64) - vectors.mean(axis=0, dtype=np.float64)
    variances, directions = np.linalg.eigh(centred.T @ centred)  # ascending
    variances = variances[::-1].clip(min=0.0)
    directions = directions[:, ::-1][:, :num]
    largest = np.abs(directions).argmax(axis=0)
    directions = directions * np.where(directions[largest, range(num)] < 0, -1.0, 1.0)
    return centred @ directions, variances[:num] / max(float(variances.sum()), 1e-300)


def projection_plot(subject: Subject, table: ExportedVectors) -> tuple[Figure, Columns] | None:
    """A table of vectors along its two principal components, coloured by popularity.

    Vectors that are compared by cosine are brought to length 1 first.

    Args:
        subject: Model, data set and number of rows.
        table: What to draw; nothing is, below two rows or two columns.

    Returns:
        The figure and its numbers.
    """
    if len(table) < 2 or table.dim < 2:
        return None
    fitted = np.unique(np.linspace(0, len(table) - 1, min(len(table), FITTED_ROWS)).astype(int))
    vectors = table.take(fitted)
    if table.similarity == COSINE:
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
    places, share = principal_components(vectors)
    drawn = np.unique(np.linspace(0, len(fitted) - 1, min(len(fitted), DRAWN_ROWS)).astype(int))
    x, y = places[drawn].T
    figure, (axis,) = new_figure(f"{table.name} of {subject}\nprincipal components", size=(6.8, 5))
    counts = table.popularity
    columns: dict[str, object] = {"id": table.ids.take(pa.array(fitted[drawn])).to_pylist()}
    if counts is None:
        axis.scatter(x, y, s=5, color=BLUE, alpha=0.6, linewidths=0)
    else:
        counts = counts[fitted[drawn]]
        order = np.argsort(counts, kind="stable")  # what is popular is rare, and comes on top
        points = axis.scatter(
            x[order], y[order], c=np.log10(counts[order] + 1.0), s=5, cmap="viridis", linewidths=0
        )
        bar = figure.colorbar(points, ax=axis, fraction=0.046, pad=0.02)
        bar.set_label("rows of training that have it, $\\log_{10}(n + 1)$")
        columns["popularity"] = counts
    axis.set_xlabel(f"first component, {share[0]:.0%} of the variance")
    axis.set_ylabel(f"second component, {share[1]:.0%}")
    return figure, {**columns, "first": x, "second": y}
