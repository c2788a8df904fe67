"""What a column is like: coverage, cardinality, rarity, drift, and what is suspicious about it.

    unseen   share of held-out rows whose value no training row has
    drift    Jensen-Shannon divergence of training and held-out rows, in nats (at most ln 2); by
             period also the population stability index of banks,
             PSI = sum (a - b) ln(a / b), both over the most frequent values, others together
    rare     share of training rows whose value occurs fewer than so many times: what
             `data.min_count` would turn into UNSEEN

Letters   V values, T periods.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from recsys.data.schema import MISSING, Kind
from recsys.feature_ranking.counts import ColumnCounts
from recsys.feature_ranking.information import add_up, entropy
from recsys.feature_ranking.score import ColumnScore

RARE = (2, 5, 10, 20, 50, 100)
LEAK_SHARE = 0.9
"""Share of the label's entropy beyond which a column is suspected to hold the label."""
ID_SHARE = 0.5
"""Share of rows with a value of their own beyond which a column looks like an id."""
UNSEEN_SHARE = 0.5
SMOOTHING = 0.5
"""Added to every count of a PSI, so that an empty cell does not make it infinite."""
TOP = 5


@dataclass(frozen=True)
class ColumnQuality:
    """See the module; shares are in [0, 1]."""

    values: int
    missing: float
    unique: float
    """Share of training rows whose value occurs once."""
    top: float
    """Share of the most frequent value."""
    top10: float
    entropy: float
    """In nats."""
    unseen: float
    drift: float
    rare: dict[int, float]
    frequent: dict[str, float]
    """The `TOP` most frequent values and their shares."""


def column_quality(column: ColumnCounts) -> ColumnQuality:
    """Describe a column from its counts."""
    train, later = add_up(column.train, 1), add_up(column.held_out, 1)
    n, m = float(train.sum()), float(later.sum())
    present = train > 0
    size = np.sort(train[present].astype(np.float64))[::-1]
    share = size / n
    most = np.argsort(-train, kind="stable")[: min(TOP, int(present.sum()))]
    whole = column.squares is None
    return ColumnQuality(
        values=int(present[:MISSING].sum() + present[MISSING + 1 :].sum()),
        missing=float(train[MISSING] / n) if len(train) > MISSING else 0.0,
        unique=float((size == 1).sum() / n) if whole else 0.0,
        top=float(share[0]),
        top10=float(share[:10].sum()),
        entropy=entropy(size),
        unseen=float(later[~present].sum() / m) if m else 0.0,
        drift=_jensen_shannon(train / n, later / m) if m else 0.0,
        rare={bound: float(size[size < bound].sum() / n) for bound in RARE},
        frequent=dict(
            zip(column.texts(most), (float(train[one] / n) for one in most), strict=True)
        ),
    )


def flags(
    column: ColumnCounts, quality: ColumnQuality, score: ColumnScore, label_entropy: float
) -> list[str]:
    """What to look at before the column is used, in words."""
    found = []
    if quality.values + (quality.missing > 0) <= 1:
        found.append("constant")
    if quality.missing == 1.0:
        found.append("missing in every row")
    if quality.unique > ID_SHARE:
        found.append(f"id-like: {quality.unique:.0%} of rows have a value of their own")
    if label_entropy and score.excess > LEAK_SHARE * label_entropy:
        found.append(f"leak? it tells {score.information / label_entropy:.0%} of the label")
    if quality.unseen > UNSEEN_SHARE:
        found.append(f"{quality.unseen:.0%} of held-out rows have a value never seen")
    if column.hashed:
        found.append("counted in hash buckets: more values than the memory budget")
    if column.field.kind in (Kind.MULTIVALUED, Kind.HISTORY):
        found.append("lists: each value counts 1/length, no pairs")
        if column.sums is not None:
            found.append("z approximate: the null of a number takes lists as whole rows")
    return found


def period_drift(codes: np.ndarray, periods: np.ndarray, num_periods: int) -> np.ndarray:
    """PSI of every period against the first, [T].

    Args:
        codes: Of rows, small numbers.
        periods: Of the same rows, 0 .. T - 1.
        num_periods: T.
    """
    width = int(codes.max()) + 1
    key = periods.astype(np.int64) * width + codes
    table = np.bincount(key, minlength=num_periods * width).reshape(num_periods, width)
    shares = table + SMOOTHING
    shares = shares / shares.sum(axis=1, keepdims=True)
    first = shares[0]
    return ((shares - first) * np.log(shares / first)).sum(axis=1)


def _jensen_shannon(a: np.ndarray, b: np.ndarray) -> float:
    middle = (a + b) / 2
    total = 0.0
    for one in (a, b):
        some = one > 0
        total += 0.5 * float((one[some] * np.log(one[some] / middle[some])).sum())
    return min(max(total, 0.0), math.log(2))
