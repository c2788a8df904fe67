"""Exact binary classification metrics from logits: AUC, log-loss, normalised entropy, precision.

Every metric that depends on order is read off one table, the distinct logits with the weight of
positives and negatives at each (`rank`), so one sort serves them all and ties are exact. Scores
arrive as float32 logits, sums are float64. An undefined value (AUC of one class, anything of no
rows) is NaN, never an error and never a flattering constant.

Letters   n rows, m distinct logits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from recsys.errors import NonFiniteError

Values = Tensor | ArrayLike
"""What the metrics accept: a tensor on any device, an array, or a sequence of numbers."""

Floats = NDArray[np.float64]

_BLOCK = 1 << 18  # rows per float64 temporary: 2 MiB, which stays in cache


@dataclass(frozen=True)
class Ranked:
    """Distinct logits in ascending order with the mass that sits on each.

    Shape:
        logits     [m]  float32, strictly ascending
        positives  [m]  float64, summed weight of the rows labelled 1
        negatives  [m]  float64, summed weight of the rows labelled 0
        squares    [m]  float64, summed squared weight (equals the count without weights)
    """

    logits: NDArray[np.float32]
    positives: Floats
    negatives: Floats
    squares: Floats

    def __len__(self) -> int:
        return len(self.logits)

    @property
    def mass(self) -> Floats:
        """Summed weight at each logit, [m]."""
        return self.positives + self.negatives


@dataclass(frozen=True)
class Curve:
    """Points of a curve from the strictest threshold to the loosest.

    Shape:
        x, y        [m + 1]  float64 in [0, 1]
        thresholds  [m + 1]  float32 logits; the first is +inf (nothing is called positive)
    """

    x: Floats
    y: Floats
    thresholds: NDArray[np.float32]


def rank(logits: Values, labels: Values, weights: Values | None = None) -> Ranked:
    """Sort once: the table every order-based metric is computed from.

    Args:
        logits: [n] finite scores, compared as float32.
        labels: [n] zeros and ones.
        weights: [n] finite, not negative; rows of weight 0 do not count.

    Raises:
        NonFiniteError: a logit is NaN or infinite; the message names the row.
        ValueError: shapes differ, a label is not 0 or 1, or a weight is negative or not finite.

    Example:
        >>> table = rank([0.5, -1.0, 0.5], [1, 0, 0])
        >>> table.logits.tolist(), table.positives.tolist(), table.negatives.tolist()
        ([-1.0, 0.5], [0.0, 1.0], [1.0, 1.0])
    """
    z, y, w = to_arrays(logits, labels, weights)
    keys = order_keys(z).astype(np.int64)
    if w is None:
        # The label rides in the lowest bit: one SIMD sort of integers, no permutation to apply.
        packed = (keys << 1) | y
        packed.sort()
        starts = run_starts(packed >> 1)
        counts = np.diff(starts, append=len(packed))
        positives = sum_runs(packed & 1, starts)
        negatives = counts - positives
        sorted_keys, squares = packed[starts] >> 1, counts.astype(np.float64)
    else:
        keep = w > 0
        keys, y, w = keys[keep], y[keep], w[keep]
        order = np.argsort(keys)
        ordered, w = keys[order], w[order]
        starts = run_starts(ordered)
        positives = sum_runs(np.where(y[order], w, 0.0), starts)
        negatives = sum_runs(np.where(y[order], 0.0, w), starts)
        sorted_keys, squares = ordered[starts], sum_runs(w * w, starts)
    return Ranked(_from_order_keys(sorted_keys), positives, negatives.astype(np.float64), squares)


def auc(logits: Values, labels: Values, weights: Values | None = None) -> float:
    """Area under the ROC curve: the chance that a positive outranks a negative, a tie being half.

    NaN when there is no positive or no negative.

    Example:
        >>> auc([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1])
        0.75
    """
    return auc_of(rank(logits, labels, weights))


def auc_of(ranked: Ranked) -> float:
    """`auc` of a table made by `rank`."""
    below = np.cumsum(ranked.negatives) - ranked.negatives
    won = float(np.dot(ranked.positives, below + 0.5 * ranked.negatives))
    pairs = float(ranked.positives.sum()) * float(ranked.negatives.sum())
    return won / pairs if pairs > 0 else float("nan")


def average_precision(logits: Values, labels: Values, weights: Values | None = None) -> float:
    """Area under the precision-recall steps: sum over thresholds of (R_k - R_{k-1}) P_k.

    Rows of equal logit enter together; nothing is interpolated. NaN when there is no positive.

    Example:
        >>> round(average_precision([0.1, 0.4, 0.35, 0.8], [0, 0, 1, 1]), 4)
        0.8333
    """
    return average_precision_of(rank(logits, labels, weights))


def average_precision_of(ranked: Ranked) -> float:
    """`average_precision` of a table made by `rank`."""
    positives = ranked.positives[::-1]
    total = float(positives.sum())
    if total <= 0:
        return float("nan")
    precision = np.cumsum(positives) / np.cumsum(ranked.mass[::-1])
    return float(np.dot(positives, precision)) / total


def log_loss(logits: Values, labels: Values, weights: Values | None = None) -> float:
    """Mean of -y log p - (1 - y) log(1 - p) with p = sigmoid(logit), from the logit itself.

    Nothing is clipped: log p = -softplus(-z) is exact however large the logit is.

    Example:
        >>> round(log_loss([0.0, 0.0], [0, 1]), 6)
        0.693147
        >>> log_loss([1000.0], [0])
        1000.0
    """
    z, y, w = to_arrays(logits, labels, weights)
    mass = np.ones(len(z)) if w is None else w
    positives = np.where(y, mass, 0.0)
    return _log_loss(z, positives, mass - positives)


def log_loss_of(ranked: Ranked) -> float:
    """`log_loss` of a table made by `rank`."""
    return _log_loss(ranked.logits, ranked.positives, ranked.negatives)


def entropy(base_rate: float) -> float:
    """Entropy in nats of a coin with this chance: the log-loss of always predicting it.

    Example:
        >>> entropy(0.0), round(entropy(0.5), 6)
        (0.0, 0.693147)
    """
    if not 0.0 < base_rate < 1.0:
        return 0.0 if base_rate in (0.0, 1.0) else float("nan")
    return float(-base_rate * np.log(base_rate) - (1 - base_rate) * np.log1p(-base_rate))


def normalized_entropy(logits: Values, labels: Values, weights: Values | None = None) -> float:
    """Log-loss over the entropy of the base rate (He et al., ADKDD 2014, Eq. 3).

    1 is what always predicting the base rate reaches; lower is better. NaN with one class only.

    Example:
        >>> normalized_entropy([0.0, 0.0], [0, 1])
        1.0
    """
    ranked = rank(logits, labels, weights)
    return over_entropy(log_loss_of(ranked), base_rate_of(ranked))


def over_entropy(loss: float, base_rate: float) -> float:
    """A log-loss as a multiple of the base rate's entropy; NaN where that is 0."""
    scale = entropy(base_rate)
    return loss / scale if scale > 0 else float("nan")


def base_rate_of(ranked: Ranked) -> float:
    """Share of positives by weight; NaN without rows."""
    positives, negatives = float(ranked.positives.sum()), float(ranked.negatives.sum())
    total = positives + negatives
    return positives / total if total > 0 else float("nan")


def roc_curve_of(ranked: Ranked) -> Curve:
    """False positive rate (x) against true positive rate (y) at every distinct logit."""
    return Curve(
        x=_cumulative_share(ranked.negatives[::-1]),
        y=_cumulative_share(ranked.positives[::-1]),
        thresholds=_thresholds(ranked),
    )


def precision_recall_curve_of(ranked: Ranked) -> Curve:
    """Recall (x) against precision (y) at every distinct logit; precision starts at 1."""
    positives, mass = np.cumsum(ranked.positives[::-1]), np.cumsum(ranked.mass[::-1])
    return Curve(
        x=_cumulative_share(ranked.positives[::-1]),
        y=np.concatenate([[1.0], positives / mass]),
        thresholds=_thresholds(ranked),
    )


# -- arrays ----------------------------------------------------------------------------------------


def to_array(values: Values) -> NDArray:
    """A tensor on any device, or anything NumPy reads, as an array that holds no gradient."""
    if isinstance(values, Tensor):
        values = values.detach()
        values = (values.float() if values.is_floating_point() else values).cpu().numpy()
    return np.asarray(values)


def to_arrays(
    logits: Values, labels: Values, weights: Values | None
) -> tuple[NDArray[np.float32], NDArray[np.bool_], Floats | None]:
    """Check and convert the three inputs of every metric: float32 [n], bool [n], float64 [n]."""
    z = to_array(logits).astype(np.float32, copy=False)
    y = to_array(labels)
    w = None if weights is None else to_array(weights).astype(np.float64, copy=False)
    if z.ndim != 1 or y.shape != z.shape or (w is not None and w.shape != z.shape):
        shapes = f"logits {z.shape}, labels {y.shape}"
        shapes += "" if w is None else f", weights {w.shape}"
        raise ValueError(f"metrics take vectors of one length, got {shapes}.")
    check_finite(z)
    if not ((y == 0) | (y == 1)).all():
        row = int(np.flatnonzero((y != 0) & (y != 1))[0])
        raise ValueError(
            f"label {y[row]} in row {row} is not 0 or 1; drop rows without a label, and binarise "
            "ratings before computing classification metrics."
        )
    if w is not None:
        check_weights(w)
    return z, y.astype(np.bool_), w


def check_finite(logits: NDArray[np.float32], first_row: int = 0) -> None:
    """Raise NonFiniteError naming the first row whose logit is NaN or infinite."""
    finite = np.isfinite(logits)
    if not finite.all():
        row = int(np.flatnonzero(~finite)[0])
        raise NonFiniteError(
            f"logit {logits[row]} in row {first_row + row} ({int((~finite).sum())} of "
            f"{len(logits)} logits are not finite); metrics need finite logits. Look for a "
            "non-finite feature or a diverged model, and lower optimizer.lr."
        )


def check_weights(weights: NDArray, first_row: int = 0) -> None:
    """Raise ValueError naming the first row whose weight is negative or not finite."""
    wrong = ~(np.isfinite(weights) & (weights >= 0))
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0])
        raise ValueError(
            f"weight {weights[row]} in row {first_row + row} must be finite and at least 0; "
            "correct the weight column."
        )


def order_keys(logits: NDArray[np.float32]) -> NDArray[np.int32]:
    """Integers in the order of the floats: sorting these is faster, and room is left for a label.

    A negative float's bits grow with its magnitude, so they are flipped; -0.0 becomes 0.0.
    """
    bits = (logits + np.float32(0)).view(np.int32)
    return bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))


def _from_order_keys(keys: NDArray[np.int64]) -> NDArray[np.float32]:
    bits = keys.astype(np.int32)
    return (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).view(np.float32)


def run_starts(ordered: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions at which a sorted array takes a new value."""
    if not len(ordered):
        return np.zeros(0, dtype=np.int64)
    return np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))


def sum_runs(values: NDArray, starts: NDArray[np.int64]) -> Floats:
    """Float64 sum of each run `starts[i] : starts[i + 1]`."""
    if not len(starts):
        return np.zeros(0)
    return np.add.reduceat(values, starts, dtype=np.float64)


def blocks(num_rows: int) -> Iterator[slice]:
    """Slices of rows small enough for float64 temporaries to stay in cache."""
    for start in range(0, num_rows, _BLOCK):
        yield slice(start, min(start + _BLOCK, num_rows))


def _log_loss(logits: NDArray[np.float32], positives: Floats, negatives: Floats) -> float:
    loss = mass = 0.0
    for part in blocks(len(logits)):
        z, p, q = logits[part].astype(np.float64), positives[part], negatives[part]
        # softplus(z) = max(z, 0) + log1p(exp(-|z|)), and softplus(-z) = softplus(z) - z
        tail = np.log1p(np.exp(-np.abs(z)))
        loss += float(np.dot(p, np.maximum(-z, 0) + tail) + np.dot(q, np.maximum(z, 0) + tail))
        mass += float(p.sum() + q.sum())
    return loss / mass if mass > 0 else float("nan")


def _cumulative_share(mass: Floats) -> Floats:
    total = float(mass.sum())
    running = np.concatenate([[0.0], np.cumsum(mass)])
    return running / total if total > 0 else np.full(len(mass) + 1, np.nan)


def _thresholds(ranked: Ranked) -> NDArray[np.float32]:
    return np.concatenate([[np.float32(np.inf)], ranked.logits[::-1]])
