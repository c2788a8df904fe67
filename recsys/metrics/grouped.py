"""Grouped AUC: how well each user's own rows are ordered.

Letters   n rows, g groups.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recsys.metrics.classification import (
    Floats,
    Values,
    order_keys,
    run_starts,
    sum_runs,
    to_array,
    to_arrays,
)

_MAX_GROUPS = 1 << 30  # group number, 32-bit score and label must fit in 63 bits


class GroupedAUC(NamedTuple):
    """Grouped AUC and what it rests on."""

    auc: float
    """sum_u n_u AUC_u / sum_u n_u over the groups that have both classes; NaN when none has."""
    num_groups: int
    """Groups that counted."""
    num_skipped: int
    """Groups with one class only, whose AUC is undefined."""


def grouped_auc(
    logits: Values, labels: Values, groups: Values, weights: Values | None = None
) -> GroupedAUC:
    """AUC within each group, averaged by group size (GAUC; Zhou et al., KDD 2018, Eq. 7).

    One sort by (group, logit) and sums over its runs: no loop over groups, so a million users cost
    what one does. `n_u` is the summed weight of the group.

    Args:
        logits: [n] finite scores.
        labels: [n] zeros and ones.
        groups: [n] integer ids, any values.
        weights: [n] finite, not negative.

    Example:
        >>> grouped_auc([0.1, 0.9, 0.8, 0.2, 0.5], [0, 1, 0, 1, 1], [7, 7, 8, 8, 9])
        GroupedAUC(auc=0.5, num_groups=2, num_skipped=1)
    """
    z, y, w = to_arrays(logits, labels, weights)
    group = to_array(groups)
    if group.shape != z.shape or not np.issubdtype(group.dtype, np.integer):
        raise ValueError(
            f"groups must be integers of shape {z.shape}, got {group.dtype} {group.shape}; encode "
            "group ids before computing grouped metrics."
        )
    if w is not None:
        z, y, group, w = z[w > 0], y[w > 0], group[w > 0], w[w > 0]
    if not len(z):
        return GroupedAUC(float("nan"), 0, 0)
    key = (_small_numbers(group) << 33) | ((order_keys(z).astype(np.int64) + (1 << 31)) << 1) | y
    positives: NDArray
    negatives: NDArray
    if w is None:
        key.sort()
        positives = key & 1
        negatives = positives ^ 1
    else:
        order = np.argsort(key)
        key, w = key[order], w[order]
        positives = np.where(key & 1, w, 0.0)
        negatives = w - positives
    return _from_sorted(key, positives, negatives)


def _from_sorted(key: NDArray[np.int64], positives: NDArray, negatives: NDArray) -> GroupedAUC:
    ties = run_starts(key >> 1)
    tie_positives, tie_negatives = sum_runs(positives, ties), sum_runs(negatives, ties)
    first = run_starts(key[ties] >> 33)  # the tie at which each group begins
    num_ties = np.diff(first, append=len(ties))
    group_negatives = sum_runs(tie_negatives, first)
    # Negatives of the same group under each tie: the running sum less the groups before.
    before = np.repeat(np.cumsum(group_negatives) - group_negatives, num_ties)
    below = np.cumsum(tie_negatives) - tie_negatives - before
    won: Floats = sum_runs(tie_positives * (below + 0.5 * tie_negatives), first)
    group_positives = sum_runs(tie_positives, first)
    both = (group_positives > 0) & (group_negatives > 0)
    num_groups = int(both.sum())
    if not num_groups:
        return GroupedAUC(float("nan"), 0, len(both))
    positives, negatives = group_positives[both], group_negatives[both]
    size = positives + negatives
    value = float(np.dot(size, won[both] / (positives * negatives)) / size.sum())
    return GroupedAUC(value, num_groups, len(both) - num_groups)


def _small_numbers(group: NDArray) -> NDArray[np.int64]:
    """Group ids as numbers in [0, 2^30): shifted when they are dense enough, else renumbered."""
    low, high = int(group.min()), int(group.max())
    if high - low < _MAX_GROUPS:
        if group.dtype == np.uint64:  # hashes above 2^63 must not wrap
            return (group - np.uint64(low)).astype(np.int64)
        return group.astype(np.int64) - low
    unique, numbers = np.unique(group, return_inverse=True)
    if len(unique) > _MAX_GROUPS:
        raise ValueError(f"{len(unique)} groups; grouped metrics hold at most {_MAX_GROUPS}.")
    return numbers.astype(np.int64)
