"""Masks that cost a given amount, on models whose log-loss along a mask is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.models.masked_rows import MaskedRows, Variant
from recsys.models.near_optimal import REACH, TOLERANCE, NearOptimal, most_passes
from tests.models.test_interactions import drawn, factorised

EPSILON = 0.02


def space(
    linear: dict[str, float], vectors: dict[str, float] | None = None, rows: int = 2000
) -> tuple[NearOptimal, MaskedRows]:
    table, _ = drawn(linear, vectors or {}, rows)
    masked = MaskedRows(factorised(linear, vectors or {}), table, 1)
    return NearOptimal(masked, EPSILON, 9), masked


def test_levels_are_reached_from_below() -> None:
    found, masked = space({"a": 1.0, "b": -0.8})
    (halo,), (members,) = found.search([(0, 1)])
    assert len(halo) == len(members) == 36
    for point in halo:
        for k in range(2):
            level = EPSILON * abs((math.cos, math.sin)[k](point.angle))
            level /= abs(math.cos(point.angle)) + abs(math.sin(point.angle))
            assert level * (1 + 1e-9) - 2 * TOLERANCE * EPSILON <= point.alone[k] <= level + 1e-12
        weaker = math.cos(point.angle) < 0, math.sin(point.angle) < 0
        assert weaker == (point.masks[0] < 1, point.masks[1] < 1)
        masks = dict(enumerate(point.masks))
        loss = float(masked.means([Variant(masks=masks)])[0])
        assert point.rise == pytest.approx(loss - found.logloss, abs=1e-12)
    assert sorted({round(one.angle, 9) for one in halo}) == sorted(
        round(one.angle, 9) for one in halo
    )


def test_a_field_without_effect_goes_all_the_way() -> None:
    found, _ = space({"a": 1.0})
    (halo,), _ = found.search([(0, 3)])
    ends = {one.masks[1] for one in halo}
    assert ends == {1 - REACH[-1], 1 + REACH[1]}
    assert all(one.alone[1] == 0 for one in halo)
    assert all(one.excess == pytest.approx(0, abs=1e-12) for one in halo)


def test_members_are_within_the_allowance_and_on_the_line_to_their_point() -> None:
    found, masked = space({}, {"a": 1.3, "b": 1.3})
    (halo,), (members,) = found.search([(0, 1)])
    far = 0
    for point, (masks, rise) in zip(halo, members, strict=True):
        assert rise <= EPSILON
        loss = float(masked.means([Variant(masks=dict(enumerate(masks)))])[0])
        assert rise == pytest.approx(loss - found.logloss, abs=1e-12)
        if point.rise <= EPSILON:
            assert masks == point.masks
            continue
        far += 1
        assert rise >= EPSILON * (1 - 2 * TOLERANCE)
        share = [(one - 1) / (end - 1) for one, end in zip(masks, point.masks, strict=True)]
        assert share[0] == pytest.approx(share[1])
        assert 0 < share[0] < 1
    assert far >= 12


def test_passes_are_counted_and_bounded() -> None:
    told: list[tuple[int, int]] = []
    table, _ = drawn({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 1.0}, 300)
    rows = MaskedRows(factorised({"a": 1.0, "b": 1.0, "c": 1.0}, {"a": 1.0, "b": 1.0}), table, 1)
    found = NearOptimal(rows, EPSILON, 9, lambda *one: told.append(one))
    found.search([(0, 1), (0, 2)])
    bound = most_passes(3, 2, 9)
    assert found.passes < bound
    assert told == sorted(told)
    assert told[-1] == (bound, bound)


def test_a_loss_that_falls_first_is_followed_to_its_crossing() -> None:
    """A model too sure of itself gets better when its field is weakened a little."""
    table, _ = drawn({"a": 1.0, "b": 1.0}, {}, 4000)
    masked = MaskedRows(factorised({"a": 2.0, "b": 1.0}, {}), table, 1)
    found = NearOptimal(masked, EPSILON, 9)
    (halo,), _ = found.search([(0, 1)])
    weakened = [one for one in halo if one.masks[0] < 1]
    assert all(one.masks[0] < 0.6 for one in weakened)
    assert all(np.isfinite(one.rise) for one in halo)
