"""How far in the tail of its null a score lies, and what that means among many columns.

Mean, variance and skewness fix a Pearson type III distribution, of which chi-square and the normal
are the two ends.
"""

from __future__ import annotations

import numpy as np
from scipy.special import gammainc, gammaincc, ndtri

TINY_TAIL = 1e-290
"""Below it a tail probability is not told apart from zero, and z comes from the cube root."""


def tail(
    score: np.ndarray, mean: np.ndarray, deviation: np.ndarray, skewness: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Normal quantile z and probability p of a score at least this large under the null.

    Args:
        score: Any shape; as are `mean`, `deviation` and `skewness` of the null. Where the deviation
            is zero nothing can be said: z = 0, p = 1.

    Returns:
        z, p.

    Example:
        >>> z, p = tail(np.array([3.84]), np.array([1.0]), np.sqrt([2.0]), np.sqrt([8.0]))
        >>> [round(float(p[0]), 3), round(float(z[0]), 2)]      # chi-square, one degree of freedom
        [0.05, 1.64]
    """
    score, mean, deviation, skewness = np.broadcast_arrays(
        *(np.asarray(one, np.float64) for one in (score, mean, deviation, skewness))
    )
    possible = deviation > 0
    x = np.where(possible, (score - mean) / np.where(possible, deviation, 1.0), 0.0)
    skew = np.maximum(skewness, 1e-3)  # from here on the gamma is the normal to four digits
    shape = 4 / skew**2
    y = np.maximum(shape + x * np.sqrt(shape), 1e-300)
    upper, lower = gammaincc(shape, y), gammainc(shape, y)
    with np.errstate(divide="ignore"):
        z = np.where(x > 0, -ndtri(upper), ndtri(lower))
    # Wilson and Hilferty's cube root, where the tail is too thin for a float.
    root = np.cbrt(np.maximum(skew * x / 2 + 1, 0)) - 1
    z = np.where(upper > TINY_TAIL, z, 6 / skew * root + skew / 6)
    z = np.where(possible, np.maximum(z, -40.0), 0.0)
    return z, np.where(possible, upper, 1.0)


def q_values(p: np.ndarray) -> np.ndarray:
    """Benjamini and Hochberg's (1995) adjusted probabilities: the share of false finds among all
    columns with a value this low.

    Example:
        >>> q_values(np.array([0.01, 0.5, 0.02])).round(3).tolist()
        [0.03, 0.5, 0.03]
    """
    p = np.asarray(p, np.float64)
    order = np.argsort(p, kind="stable")
    ranked = p[order] * p.size / np.arange(1, p.size + 1)
    out = np.empty_like(p)
    out[order] = np.minimum(np.minimum.accumulate(ranked[::-1])[::-1], 1.0)
    return out
