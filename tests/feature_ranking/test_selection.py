"""Greedy orders on tables worked by hand, and against a slow form of each."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from recsys.feature_ranking.pairs import PairSums
from recsys.feature_ranking.selection import METHODS, PairMatrices, matrices, select

# Columns: 0 strong; 1 a copy of 0; 2 medium and apart; 3 nothing alone, but with 2.
RELEVANCE = np.array([1.0, 0.9, 0.5, 0.0])
ZERO = np.zeros((4, 4))


def symmetric(**values: float) -> np.ndarray:
    out = np.zeros((4, 4))
    for key, value in values.items():
        i, j = int(key[1]), int(key[2])
        out[i, j] = out[j, i] = value
    return out


PAIRS = PairMatrices(
    mutual=symmetric(p01=1.0),
    redundancy=symmetric(p01=1.0),
    joint=symmetric(p01=1.0, p02=1.5, p03=1.0, p12=1.4, p13=0.9, p23=1.2),
    interaction=symmetric(p01=-0.9, p23=0.7),
)


@pytest.mark.parametrize(
    ("method", "order"),
    [
        # By hand. 3mr: relevance 1 .9 .5 0, redundancy 1 of the copy, interaction scaled from
        # [-.9, .7]: 0 of the copy, .5625 of independent pairs, 1 of 2 and 3.
        ("3mr", [0, 2, 3, 1]),
        ("mrmr", [0, 2, 1, 3]),
        ("jmi", [0, 2, 1, 3]),
        # 2 adds .5; then 3 adds min(0, .7) = 0 and 1 adds min(0, .9) = 0: the first stays first.
        ("cmim", [0, 2, 1, 3]),
    ],
)
def test_orders_by_hand(method: str, order: list[int]) -> None:
    assert select(RELEVANCE, PAIRS, method)[0] == order


@pytest.mark.parametrize("method", METHODS)
def test_against_the_slow_form(method: str) -> None:
    generator = np.random.default_rng(0)
    size = 12
    relevance = generator.random(size)
    parts = []
    for _ in range(4):
        one = generator.random((size, size))
        parts.append((one + one.T) / 2)
    pairs = PairMatrices(*parts)
    off = ~np.eye(size, dtype=bool)

    def scaled(x: np.ndarray, among: np.ndarray) -> np.ndarray:
        return (x - x[among].min()) / (x[among].max() - x[among].min())

    own = scaled(relevance, relevance > -1)
    cost, gain = scaled(pairs.redundancy, off), scaled(pairs.interaction, off)

    def criterion(i: int, chosen: list[int]) -> float:
        if method == "3mr":
            return own[i] + np.mean([gain[i, j] - cost[i, j] for j in chosen])
        if method == "mrmr":
            return relevance[i] - np.mean([pairs.mutual[i, j] for j in chosen])
        if method == "jmi":
            return sum(pairs.joint[i, j] for j in chosen)
        return min(pairs.joint[i, j] - relevance[j] for j in chosen)

    chosen = [int(np.argmax(relevance))]
    while len(chosen) < size:
        left = [i for i in range(size) if i not in chosen]
        chosen.append(max(left, key=lambda i: criterion(i, chosen)))
    found, criteria = select(relevance, pairs, method)
    if method == "cmim":
        # The first minimum runs over one chosen column, not over a zero to begin with.
        assert criteria[1] <= 0 or found[1] == chosen[1]
    assert found == chosen


def test_an_unknown_method_and_missing_pairs() -> None:
    with pytest.raises(ValueError, match="is not one of 3mr"):
        select(RELEVANCE, PAIRS, "best")
    some = np.array(list(itertools.combinations(range(3), 2)))
    values = np.arange(3.0)
    sums = PairSums(some, values, values, values, values, values, values, values, values, 10)
    assert matrices(sums, np.array([2, 0])).mutual[0, 1] == 1.0
    with pytest.raises(ValueError, match="3 pairs among the 4 columns were not counted"):
        matrices(sums, np.arange(4))
