"""The null of columns whose rows do not count 1 each: lists, and weighted rows.

A value's label rate is then a weighted mean, as uncertain as one of (sum w)^2 / sum w^2 whole rows
(Kish's effective size), and values that share rows move together. The first is put into the exact
null; for the second the label is shuffled over the sampled rows, and mean and deviation of the full
data are those of the shuffles, scaled as the first says.

Letters   V values, K classes, S sampled rows, L values in their lists.
"""

from __future__ import annotations

import numpy as np

from recsys.data.columns import Lists
from recsys.feature_ranking.counts import ColumnCounts
from recsys.feature_ranking.null import InformationNull, NullMoments
from recsys.feature_ranking.rows import Rows

NUM_SHUFFLES = 64
SHUFFLE_SEED = 0


def uneven_null(column: ColumnCounts, rows: Rows, present: np.ndarray) -> NullMoments:
    """Moments of the information of a column of lists or weighted rows, in nats.

    Args:
        column: With `squares`.
        rows: The sample's labels and weights.
        present: Which classes occur, [K] bool.
    """
    assert column.squares is not None
    sizes = column.train[:, present].sum(axis=1)
    weight = np.concatenate(
        [np.ones(len(f.sample)) if f.weight is None else f.weight[f.sample] for f in rows.files]
    ).astype(np.float64)
    labels = np.searchsorted(np.flatnonzero(present), rows.sample_labels)
    lists = column.sample
    if isinstance(lists, Lists):
        lengths, values = lists.lengths, lists.values.astype(np.int64)
    else:
        lengths, values = np.ones(len(lists), np.int64), lists.astype(np.int64)
    row = np.repeat(np.arange(len(lengths)), lengths)
    w = (weight / np.maximum(lengths, 1))[row]
    sample_sizes = np.bincount(values, w, len(sizes))
    sample_squares = np.bincount(values, w**2, len(sizes))
    num_classes = int(present.sum())
    generator = np.random.default_rng(SHUFFLE_SEED)
    found = np.zeros(NUM_SHUFFLES)
    for index in range(NUM_SHUFFLES):
        # Label and weight travel together: it is the column that tells nothing of either.
        order = generator.permutation(len(labels))
        shuffled = (weight[order] / np.maximum(lengths, 1))[row]
        key = values * num_classes + labels[order][row]
        table = np.bincount(key, shuffled, len(sizes) * num_classes).reshape(-1, num_classes)
        found[index] = _information(table)
    shares = rows.class_counts[present] / rows.class_counts[present].sum()
    whole = _effective(sizes, column.squares, shares)
    part = _effective(sample_sizes, sample_squares, shares)
    if part.mean <= 0 or part.deviation <= 0:
        return NullMoments(whole.mean, whole.deviation, whole.skewness)
    deviation = float(found.std(ddof=1))
    return NullMoments(
        mean=float(found.mean()) * whole.mean / part.mean,
        deviation=deviation * whole.deviation / part.deviation,
        skewness=whole.skewness,
    )


def _effective(sizes: np.ndarray, squares: np.ndarray, shares: np.ndarray) -> NullMoments:
    """The exact null of whole rows in the effective numbers."""
    seen = squares > 0
    effective = np.maximum(np.rint(sizes[seen] ** 2 / squares[seen]), 1).astype(np.int64)
    if effective.size < 2:
        return NullMoments(0.0, 0.0, 0.0)
    of_class = np.maximum(np.rint(shares * effective.sum()), 1).astype(np.int64)
    of_class[of_class.argmax()] += effective.sum() - of_class.sum()
    return InformationNull(of_class.tolist()).moments(effective)


def _information(table: np.ndarray) -> float:
    n = table.sum()
    expected = table.sum(axis=1, keepdims=True) * (table.sum(axis=0) / n)
    some = table > 0
    return float((table[some] * np.log(table[some] / expected[some])).sum() / n)
