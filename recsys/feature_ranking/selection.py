"""Which columns to take together: relevance, redundancy and what pairs add.

    3mr    r_i - mean over chosen of redundancy_ij + mean over chosen of interaction_ij, each of the
           three scaled to [0, 1] over its own population   (OutRank, arXiv:2309.01552)
    mrmr   I(x_i; y) - mean over chosen of I(x_i; x_j)      (Peng, Long, Ding, TPAMI 2005, MID)
    jmi    sum over chosen of I(x_i, x_j; y)                (Yang, Moody, NIPS 1999)
    cmim   min over chosen of I(x_i; y | x_j)               (Fleuret, JMLR 2004)

All are greedy and start with the most relevant column. Every information has its chance taken off.

Letters   F columns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from recsys.feature_ranking.pairs import PairSums

Method = Literal["3mr", "mrmr", "jmi", "cmim"]
METHODS: tuple[Method, ...] = ("3mr", "mrmr", "jmi", "cmim")


@dataclass(frozen=True)
class PairMatrices:
    """Statistics of all pairs among F columns, [F, F], symmetric; the diagonal is not used."""

    mutual: np.ndarray
    redundancy: np.ndarray
    joint: np.ndarray
    interaction: np.ndarray


def matrices(sums: PairSums, chosen: np.ndarray) -> PairMatrices:
    """Lay out the pairs among some columns.

    Args:
        sums: Must hold every pair among them.
        chosen: Positions of columns, [F].

    Raises:
        ValueError: a pair was not counted.
    """
    place = {int(column): index for index, column in enumerate(chosen)}
    size = len(chosen)
    out = np.full((4, size, size), np.nan)
    rows = zip(sums.pairs, sums.mutual, sums.redundancy, sums.joint, sums.excess, strict=True)
    for (a, b), *values in rows:
        i, j = place.get(int(a)), place.get(int(b))
        if i is not None and j is not None:
            out[:, i, j] = out[:, j, i] = values
    missing = int(np.isnan(out[0][np.triu_indices(size, 1)]).sum())
    if missing:
        raise ValueError(f"{missing} pairs among the {size} columns were not counted")
    return PairMatrices(*out)


def select(
    relevance: np.ndarray,
    pairs: PairMatrices,
    method: Method,
    *,
    redundancy_weight: float = 1.0,
    interaction_weight: float = 1.0,
) -> tuple[list[int], list[float]]:
    """Order the columns greedily.

    Args:
        relevance: I(x_i; y) above chance, [F].
        pairs: Of the same columns.
        method: See the module.
        redundancy_weight: 3mr: factor of redundancy (alpha).
        interaction_weight: 3mr: factor of interaction (beta).

    Returns:
        Columns by position, best first, and the criterion by which each was taken. Sums over the
        chosen are carried along, so all of it costs O(F^2).
    """
    size = len(relevance)
    off = ~np.eye(size, dtype=bool)
    if method == "3mr":
        own = _scaled(relevance, np.ones(size, bool))
        cost = redundancy_weight * _scaled(pairs.redundancy, off)
        gain = interaction_weight * _scaled(pairs.interaction, off) - cost
    elif method == "mrmr":
        own, gain = relevance, -pairs.mutual
    elif method == "jmi":
        own, gain = np.zeros(size), pairs.joint
    elif method == "cmim":
        own, gain = np.zeros(size), pairs.joint - relevance[None, :]  # [i, j]: I(x_i; y | x_j)
    else:
        raise ValueError(f"method={method} is not one of {', '.join(METHODS)}")
    first = int(np.argmax(relevance))
    order, criteria = [first], [float(relevance[first])]
    left = np.ones(size, bool)
    left[first] = False
    carried = np.where(off[:, first], gain[:, first], 0.0)
    for step in range(1, size):
        share = step if method in ("3mr", "mrmr") else 1
        value = np.where(left, own + carried / share, -np.inf)
        best = int(np.argmax(value))
        order.append(best)
        criteria.append(float(value[best]))
        left[best] = False
        more = np.where(off[:, best], gain[:, best], 0.0)
        carried = np.minimum(carried, more) if method == "cmim" else carried + more
    return order, criteria


def _scaled(values: np.ndarray, among: np.ndarray) -> np.ndarray:
    """To [0, 1] over the values that count; all equal become 0."""
    if not among.any():
        return np.zeros_like(values)
    low, high = values[among].min(), values[among].max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
