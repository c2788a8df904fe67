"""What is needed to draw test rows anew: a metric as a function of how often each was drawn.

Rows of a group (a user's impressions) are drawn together where the data has groups, and users where
lists are judged: rows of one user are not independent of each other.

Letters  n rows, G blocks that are drawn.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recsys.comparison.paired import (
    Floats,
    Resampled,
    resampled_auc,
    resampled_mean,
    row_losses,
)
from recsys.errors import ConfigError
from recsys.metrics.ranking import Ranking
from recsys.metrics.task_report import CONDITIONAL
from recsys.metrics.top_items import ItemLists

DRAWN = ("auc", "gauc", "logloss")
"""Metrics of rows that are resampled; of lists every mean over users is."""


class Rows(Protocol):
    """A `ClassificationReport`, as far as its rows go."""

    def tensors(self) -> dict[str, Tensor]: ...


@dataclass(frozen=True, eq=False)
class TestRows:
    """A metric of one run on the test rows."""

    __test__ = False  # not for pytest

    value: Resampled
    blocks: int
    """G."""
    kind: str
    """rows, groups or users."""
    key: str
    """Changes with labels, groups and users: runs of different keys were not tested alike."""


def rows_of_reports(parts: Mapping[str, Rows], metric: str) -> TestRows:
    """A metric of the rows that reports gathered.

    Args:
        parts: A report by label; of a single label by `""`.
        metric: `auc`, or `click/auc` of one label; a mean over labels is the mean of theirs, as in
            `TaskReport.compute`.

    Raises:
        ConfigError: the metric is none that is resampled, or labels that are averaged are known on
            different rows without groups to draw.
    """
    label, _, name = metric.rpartition("/")
    if name not in DRAWN:
        raise ConfigError(
            f"{metric} is not resampled; {', '.join(DRAWN)} and the means over users are"
        )
    if label:
        chosen = {label: parts[label]}
    else:
        chosen = {key: one for key, one in parts.items() if not key.endswith(f"/{CONDITIONAL}")}
    columns = [{k: v.numpy() for k, v in one.tensors().items()} for one in chosen.values()]
    grouped = all("groups" in one for one in columns)
    state = hashlib.sha256()
    for one in columns:
        for key in ("labels", "groups", "weights"):
            state.update(one[key].tobytes() if key in one else b"-")
    blocks = {len(one["labels"]) for one in columns}
    codes: list[NDArray[np.int64] | None] = [None] * len(columns)
    if grouped:
        every, numbers = np.unique(
            np.concatenate([one["groups"] for one in columns]), return_inverse=True
        )
        ends = np.cumsum([len(one["groups"]) for one in columns])[:-1]
        codes, blocks = list(np.split(numbers, ends)), {len(every)}
    if len(blocks) > 1:
        raise ConfigError(f"{metric} is a mean over labels that are known on different rows")
    size = blocks.pop()
    values = [_value(name, one, code, size) for one, code in zip(columns, codes, strict=True)]
    return TestRows(_mean_of(values), size, "groups" if grouped else "rows", state.hexdigest())


def _value(
    name: str, one: Mapping[str, NDArray], code: NDArray[np.int64] | None, blocks: int
) -> Resampled:
    logits, labels, weights = one["logits"], one["labels"], one.get("weights")
    if name == "auc":
        return resampled_auc(logits, labels, code, weights)
    if name == "gauc":
        if code is None:
            raise ConfigError("gauc needs groups in the data")
        return resampled_mean(*group_aucs(logits, labels, code, blocks, weights))
    loss = row_losses(logits, labels)
    if code is None:
        return resampled_mean(loss, weights)
    mass = np.bincount(code, weights, blocks).astype(np.float64)
    total = np.bincount(code, loss if weights is None else loss * weights, blocks)
    means = np.divide(total, mass, out=np.full(blocks, np.nan), where=mass > 0)
    return resampled_mean(means, mass)


def _mean_of(values: list[Resampled]) -> Resampled:
    if len(values) == 1:
        return values[0]

    def value(drawn: Floats) -> float:
        found = [one(drawn) for one in values]
        known = [one for one in found if not math.isnan(one)]
        return sum(known) / len(known) if known else math.nan

    return value


def group_aucs(
    logits: NDArray,
    labels: NDArray,
    codes: NDArray[np.int64],
    blocks: int,
    weights: NDArray | None = None,
) -> tuple[Floats, Floats]:
    """AUC and weight of each group [G]; NaN for a group of one class.

    Args:
        logits: [n] scores.
        labels: [n] zeros and ones.
        codes: [n] group of each row, below G.
        blocks: G.
        weights: [n]; None: 1.

    Example:
        >>> auc, size = group_aucs(
        ...     np.array([0.1, 0.9, 0.5]), np.array([0, 1, 1]), np.array([0, 0, 1]), 2
        ... )
        >>> auc.tolist(), size.tolist()
        ([1.0, nan], [2.0, 1.0])
    """
    order = np.lexsort((logits, codes))
    z, group = logits[order], codes[order]
    mass = np.ones(len(z)) if weights is None else weights[order].astype(np.float64)
    hit = np.where(labels[order] > 0.5, mass, 0.0)
    new = (z[1:] != z[:-1]) | (group[1:] != group[:-1])
    ties = np.flatnonzero(np.concatenate([[True], new]))
    p, q = np.add.reduceat(hit, ties), np.add.reduceat(mass - hit, ties)
    owner = group[ties]
    negatives = np.bincount(owner, q, blocks)
    # Negatives of the group under each tie: the running sum less the groups before.
    below = np.cumsum(q) - 0.5 * q - (np.cumsum(negatives) - negatives)[owner]
    won, positives = np.bincount(owner, p * below, blocks), np.bincount(owner, p, blocks)
    pairs = positives * negatives
    auc = np.divide(won, pairs, out=np.full(blocks, np.nan), where=pairs > 0)
    size: Floats = np.asarray(positives + negatives, np.float64)
    return auc, size


def rows_of_ranking(ranking: Ranking, metric: str, test: ItemLists) -> TestRows:
    """A mean over users, such as `recall_at_20`.

    Args:
        ranking: What was found.
        metric: Without the split.
        test: The pairs that were to be found.

    Raises:
        ConfigError: the metric is no mean over users (coverage, novelty).
    """
    if metric not in ranking.per_user:
        raise ConfigError(f"{metric} is no mean over users, and only those are resampled")
    state = hashlib.sha256()
    for part in (ranking.users, test.offsets, test.items):
        state.update(np.ascontiguousarray(part).tobytes())
    value = resampled_mean(ranking.per_user[metric])
    return TestRows(value, len(ranking.users), "users", state.hexdigest())
