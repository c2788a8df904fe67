"""The published OutRank's own score, for comparison (`method=outrank_classic`).

Per batch of 16,384 rows, with c_v rows of value v:

    S = H~(Y|X) - H(Y|X),   H(Y|X) = - sum over v with c_v > 1 of (c_v/n) sum_k p(k|v) ln p(k|v)

where H~ is the same with the label of the row c_v further down in the batch (cyclically): "noise of
the same cardinality". The score is the median over batches.

Source: Skrlj and Mramor, RecSys 2023, arXiv:2309.01552, and the package `outrank` 0.97.5, heuristic
`MI-numba-randomized`.

Differs: the correction is applied always (the package leaves it out where the codes of column and
label add up to the same number); every row is read (the package takes every tenth unless told
otherwise); missing is a value of its own. A last batch of at most 1,024 rows is left out, as there.
"""

from __future__ import annotations

import numpy as np

from recsys.data.columns import Lists
from recsys.feature_ranking.counts import ColumnCounts
from recsys.feature_ranking.information import x_log_x
from recsys.feature_ranking.rows import Rows, chunks, training_rows

BATCH_ROWS = 16_384
LEAST_ROWS = 1_024


def classic_score(rows: Rows, column: ColumnCounts) -> float:
    """Median over batches of the published score, in nats; NaN where it is not defined (lists, or
    a numeric label, or too few rows)."""
    if rows.is_number or isinstance(column.sample, Lists):
        return float("nan")
    scores: list[float] = []
    codes, labels = np.empty(0, np.int64), np.empty(0, np.int64)
    for file, chunk in chunks(rows, [column.field.name]):
        train, classes = training_rows(rows, file, chunk)
        found = column.code(chunk)
        assert isinstance(found, np.ndarray)
        codes = np.concatenate([codes, found[train].astype(np.int64)])
        labels = np.concatenate([labels, classes])
        while len(codes) >= BATCH_ROWS:
            scores.append(batch_score(codes[:BATCH_ROWS], labels[:BATCH_ROWS]))
            codes, labels = codes[BATCH_ROWS:], labels[BATCH_ROWS:]
    if len(codes) > LEAST_ROWS:
        scores.append(batch_score(codes, labels))
    return float(np.median(scores)) if scores else float("nan")


def batch_score(codes: np.ndarray, labels: np.ndarray) -> float:
    """The score of one batch, in nats; every row once, whatever the number of values.

    Args:
        codes: [n].
        labels: Classes, [n].
    """
    _, value, sizes = np.unique(codes, return_inverse=True, return_counts=True)
    n = len(codes)
    further = labels[(np.arange(n) + sizes[value]) % n]
    return _conditional(value, further, sizes) - _conditional(value, labels, sizes)


def _conditional(value: np.ndarray, labels: np.ndarray, sizes: np.ndarray) -> float:
    """H(Y|X) over the values that occur more than once."""
    classes = int(labels.max()) + 1
    key = value.astype(np.int64) * classes + labels
    table = np.bincount(key, minlength=len(sizes) * classes).reshape(-1, classes)
    many = sizes > 1
    return float(x_log_x(sizes[many]).sum() - x_log_x(table[many]).sum()) / len(value)
