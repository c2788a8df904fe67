"""What a column that tells nothing scores against a numeric label: moments over all permutations.

Letters   V values, n training rows.
"""

from __future__ import annotations

import numpy as np

from recsys.feature_ranking.null import NullMoments


def variance_null(value_counts: np.ndarray, kurtosis: float) -> NullMoments:
    """Null of the share of a number's variance that lies between the values of a column.

    Exact mean and variance over all permutations of the number (the second moment of a quadratic
    form in a finite population); skewness of chi-square.

    Args:
        value_counts: Rows of each value, [V].
        kurtosis: Fourth central moment of the number over its squared variance.
    """
    c = np.asarray(value_counts, np.float64)
    c = c[c > 0]
    n, v = float(c.sum()), float(c.size)
    if v < 2 or v >= n or n < 4:
        return NullMoments(0.0 if v < 2 else 1.0, 0.0, 0.0)
    trace, diagonal = v - 1, float((1 / c).sum()) - 2 * v / n + 1 / n
    m22 = (n - kurtosis) / (n - 1)
    m31 = -kurtosis / (n - 1)
    m211 = -(m31 + m22) / (n - 2)
    m1111 = -3 * m211 / (n - 3)
    second = (
        kurtosis * diagonal
        - 4 * diagonal * m31
        + (trace**2 + 2 * trace - 3 * diagonal) * m22
        + (-2 * trace**2 - 4 * trace + 12 * diagonal) * m211
        + (trace**2 + 2 * trace - 6 * diagonal) * m1111
    )
    mean = trace * n / (n - 1)
    deviation = float(np.sqrt(max(second - mean**2, 0.0)))
    return NullMoments(mean / n, deviation / n, float(np.sqrt(8 / trace)) * (1 - trace / n))
