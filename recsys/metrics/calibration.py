"""Calibration: do predicted probabilities mean what they say?

Letters   n rows, b bins.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from recsys.metrics.classification import Floats, Ranked, Values, blocks, rank

NUM_BINS = 20
"""Bins of equal mass used by default."""


@dataclass(frozen=True)
class CalibrationCurve:
    """Rows in bins of equal mass by predicted probability, empty bins left out.

    Shape:
        predicted  [b]  mean predicted probability, ascending
        observed   [b]  share of positives
        mass       [b]  summed weight (the number of rows without weights)
        low, high  [b]  95 % Wilson interval of `observed`
    """

    predicted: Floats
    observed: Floats
    mass: Floats
    low: Floats
    high: Floats

    def __len__(self) -> int:
        return len(self.mass)

    @property
    def error(self) -> float:
        """Expected calibration error: mass-weighted mean of |predicted - observed|."""
        total = float(self.mass.sum())
        if total <= 0:
            return float("nan")
        return float(np.dot(self.mass, np.abs(self.predicted - self.observed))) / total

    @property
    def ratio(self) -> float:
        """Mean predicted probability over the share of positives; NaN without positives."""
        positives = float(np.dot(self.mass, self.observed))
        if positives <= 0:
            return float("nan")
        return float(np.dot(self.mass, self.predicted)) / positives


def calibration_ratio(logits: Values, labels: Values, weights: Values | None = None) -> float:
    """Mean predicted probability over the share of positives; 1 is calibrated, 2 is double.

    NaN when there is no positive.

    Example:
        >>> calibration_ratio([0.0, 0.0, 0.0, 0.0], [1, 0, 0, 0])
        2.0
    """
    return calibration_curve(logits, labels, weights, num_bins=1).ratio


def calibration_curve(
    logits: Values, labels: Values, weights: Values | None = None, num_bins: int = NUM_BINS
) -> CalibrationCurve:
    """Predicted against observed in `num_bins` bins of equal mass.

    Rows of equal logit stay in one bin (that of their middle), so the curve does not depend on the
    order of rows; heavy ties therefore give fewer, heavier bins.

    Example:
        >>> curve = calibration_curve([-1.0, -1.0, 2.0, 2.0], [0, 1, 1, 1], num_bins=2)
        >>> curve.predicted.round(3).tolist(), curve.observed.tolist(), curve.mass.tolist()
        ([0.269, 0.881], [0.5, 1.0], [2.0, 2.0])
    """
    return calibration_curve_of(rank(logits, labels, weights), num_bins)


def calibration_curve_of(ranked: Ranked, num_bins: int = NUM_BINS) -> CalibrationCurve:
    """`calibration_curve` of a table made by `rank`."""
    if num_bins < 1:
        raise ValueError(f"num_bins={num_bins}; calibration needs at least 1 bin.")
    mass = ranked.mass
    middle = np.cumsum(mass) - 0.5 * mass
    scaled = middle / mass.sum() * num_bins if len(mass) else middle
    bins = np.minimum(scaled.astype(np.int64), num_bins - 1)

    def total(values: Floats) -> Floats:
        return np.bincount(bins, values, minlength=num_bins).astype(np.float64, copy=False)

    binned = total(mass)
    kept = binned > 0
    binned, squares = binned[kept], total(ranked.squares)[kept]
    observed = total(ranked.positives)[kept] / binned
    # Weighted rows carry the information of (sum w)^2 / sum w^2 rows (Kish's effective size).
    low, high = wilson_interval(observed, binned * binned / squares)
    predicted = total(_predicted(ranked))[kept] / binned
    return CalibrationCurve(predicted, observed, binned, low, high)


def expected_calibration_error(
    logits: Values, labels: Values, weights: Values | None = None, num_bins: int = NUM_BINS
) -> float:
    """Mean |predicted - observed| over bins of equal mass (Naeini et al., AAAI 2015).

    Bins of equal mass, rather than of equal width, keep every bin's error comparable when most
    probabilities are small. A calibrated model does not reach 0: chance alone leaves about
    sqrt(2 b p (1 - p) / (pi n)).

    Example:
        >>> expected_calibration_error([0.0, 0.0, 0.0, 0.0], [1, 0, 0, 0])
        0.25
    """
    return calibration_curve(logits, labels, weights, num_bins).error


def wilson_interval(
    rate: Floats, count: Floats, z: float = 1.959963984540054
) -> tuple[Floats, Floats]:
    """Wilson score interval of a proportion (Wilson, JASA 1927); 95 % by default.

    Example:
        >>> low, high = wilson_interval(np.array([0.0]), np.array([10.0]))
        >>> float(low[0]), round(float(high[0]), 3)
        (0.0, 0.278)
    """
    z2 = z * z
    centre = (rate + z2 / (2 * count)) / (1 + z2 / count)
    half = z / (1 + z2 / count) * np.sqrt(rate * (1 - rate) / count + z2 / (4 * count * count))
    return np.clip(centre - half, 0.0, None), np.clip(centre + half, None, 1.0)


def _predicted(ranked: Ranked) -> Floats:
    """Summed predicted probability at each distinct logit, [m]."""
    out, mass = np.empty(len(ranked)), ranked.mass
    for part in blocks(len(ranked)):
        z = ranked.logits[part].astype(np.float64)
        tail = np.exp(-np.abs(z))  # never overflows
        out[part] = mass[part] * np.where(z >= 0, 1.0, tail) / (1.0 + tail)
    return out
