"""Differences between two models: over common seeds, and over the rows of the test set.

Two sources of chance, kept apart: training anew with another seed, and having drawn other test
rows. An interval over one says nothing of the other.

Sources  Student's paired t; S. Holm, "A simple sequentially rejective multiple test procedure",
         Scandinavian Journal of Statistics 6 (1979); B. Efron's percentile bootstrap, whole groups
         drawn together where rows of a group belong together.
Letters  n rows or users, S seeds, R resamples, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Resampled = Callable[[Floats], float]
"""Weights of the blocks [G], how often each was drawn -> the metric."""

LEVEL = 0.95


@dataclass(frozen=True)
class SeedDifference:
    """A run's metric less the baseline's, over the seeds that both have."""

    mean: float
    low: float
    """Of Student's 95 % interval; NaN below 2 common seeds, as is `p`."""
    high: float
    p: float
    """Two-sided; NaN also where every seed has the same difference, which has no spread to test
    against."""
    n: int
    """Common seeds."""


@dataclass(frozen=True, eq=False)
class Resamples:
    """A metric of one run on the test rows, and on rows drawn from them."""

    whole: float
    draws: Floats
    """[R]"""


@dataclass(frozen=True)
class RowDifference:
    """The difference on the test rows, and how far other rows might move it."""

    mean: float
    low: float
    """Of the 95 % percentile interval."""
    high: float
    seeds: int
    """Common seeds that were scored; the difference is their mean."""
    blocks: int
    """What was drawn: rows, users, or groups of rows."""
    kind: str
    """`rows`, `users` or `groups`."""


def seed_difference(
    one: Mapping[int, float], baseline: Mapping[int, float]
) -> SeedDifference | None:
    """Paired difference over common seeds; None when there is none.

    Example:
        >>> found = seed_difference({0: 0.82, 1: 0.84, 2: 0.83}, {0: 0.80, 1: 0.81, 2: 0.81})
        >>> round(found.mean, 4), found.n, round(found.p, 4)
        (0.0233, 3, 0.0198)
    """
    common = sorted(set(one) & set(baseline))
    if not common:
        return None
    change = np.array([one[seed] - baseline[seed] for seed in common])
    mean, n = float(change.mean()), len(common)
    nothing = math.nan
    if n < 2:
        return SeedDifference(mean, nothing, nothing, nothing, n)
    error = float(change.std(ddof=1)) / math.sqrt(n)
    # Equal differences, up to how floats add: there is no spread to hold the mean against.
    if error <= 1e-12 * max(abs(mean), 1e-12):
        return SeedDifference(mean, mean, mean, nothing, n)
    from scipy import stats

    reach = float(stats.t.ppf(0.5 + LEVEL / 2, n - 1)) * error
    p = float(2 * stats.t.sf(abs(mean) / error, n - 1))
    return SeedDifference(mean, mean - reach, mean + reach, p, n)


def holm(values: Sequence[float]) -> list[float]:
    """p values of several tests, adjusted so that the chance of any false alarm keeps its bound.

    NaN stays NaN and counts for no test.

    Example:
        >>> [round(p, 3) for p in holm([0.01, 0.04, float("nan"), 0.03])]
        [0.03, 0.06, nan, 0.06]
    """
    order = sorted((p, i) for i, p in enumerate(values) if not math.isnan(p))
    adjusted, least = [math.nan] * len(values), 0.0
    for rank, (p, i) in enumerate(order):
        least = max(least, min(1.0, p * (len(order) - rank)))
        adjusted[i] = least
    return adjusted


def resample(value: Resampled, blocks: int, resamples: int, seed: int) -> Resamples:
    """A metric on the whole, and on blocks drawn with replacement as often as there are blocks.

    Runs resampled with one seed see the same draws, so that their values can be subtracted.

    Args:
        value: The metric, by how often each block was drawn.
        blocks: G.
        resamples: R.
        seed: Of the draws.
    """
    rng = np.random.default_rng(seed)
    draws = np.empty(resamples)
    for index in range(resamples):
        drawn = np.bincount(rng.integers(0, blocks, blocks), minlength=blocks)
        draws[index] = value(drawn.astype(np.float64))
    return Resamples(value(np.ones(blocks)), draws)


def row_difference(
    pairs: Sequence[tuple[Resamples, Resamples]], blocks: int, kind: str
) -> RowDifference | None:
    """Bootstrap interval of the mean difference over several seeds; None without any pair.

    Every seed sees the same drawn rows, as one test set is drawn for all of them.

    Args:
        pairs: For each common seed what `resample` found for the model and for the baseline.
        blocks: G.
        kind: What a block is.
    """
    if not pairs:
        return None
    change = np.mean([one.draws - baseline.draws for one, baseline in pairs], axis=0)
    change = change[np.isfinite(change)]
    if not len(change):
        return None
    low, high = np.quantile(change, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    mean = float(np.mean([one.whole - baseline.whole for one, baseline in pairs]))
    return RowDifference(mean, float(low), float(high), len(pairs), blocks, kind)


def resampled_auc(
    logits: NDArray, labels: NDArray, block: NDArray[np.int64] | None, weights: NDArray | None
) -> Resampled:
    """AUC of drawn blocks, sorted once: a resample costs a pass.

    Args:
        logits: [n] scores.
        labels: [n] zeros and ones.
        block: [n] block of each row; None: a row is a block.
        weights: [n] of the rows; None: 1.

    Example:
        >>> logits, labels = np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])
        >>> value = resampled_auc(logits, labels, None, None)
        >>> value(np.ones(4)), value(np.array([1.0, 0.0, 1.0, 1.0]))
        (0.75, 1.0)
    """
    order = np.argsort(logits, kind="stable")
    ordered = logits[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    positive = (labels[order] > 0.5).astype(np.float64)
    own = np.ones(len(order)) if weights is None else weights[order].astype(np.float64)
    place = order if block is None else block[order]

    def value(drawn: Floats) -> float:
        mass = drawn[place] * own
        hit = mass * positive
        p = np.add.reduceat(hit, starts)
        q = np.add.reduceat(mass - hit, starts)
        below = np.cumsum(q) - 0.5 * q
        pairs = float(p.sum() * q.sum())
        return float(p @ below) / pairs if pairs > 0 else math.nan

    return value


def resampled_mean(values: NDArray, weights: NDArray | None = None) -> Resampled:
    """Weighted mean of one value per block; a block whose value is NaN does not count.

    Args:
        values: [G].
        weights: [G]; None: 1.

    Example:
        >>> resampled_mean(np.array([1.0, 3.0]))(np.array([3.0, 1.0]))
        1.5
    """
    known = ~np.isnan(values)
    mass = known * (1.0 if weights is None else weights)
    total = np.where(known, values, 0.0) * mass

    def value(drawn: Floats) -> float:
        size = float(drawn @ mass)
        return float(drawn @ total) / size if size > 0 else math.nan

    return value


def row_losses(logits: NDArray, labels: NDArray) -> Floats:
    """Log-loss of each row [n], in nats."""
    z = logits.astype(np.float64)
    loss: Floats = np.logaddexp(0.0, z) - z * (labels > 0.5)
    return loss
