"""Models that are nearly as good as a trained one: the same network with masks on two fields.

How far a field's vectors can be weakened or amplified before log-loss has risen by a given amount
is searched along its mask: on a coarse grid for the first crossing, then between two points of it.
What is returned was measured, and lies on the side of the smaller loss.

Letters   Q problems solved side by side.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from recsys.models.masked_rows import MaskedRows, Variant

REACH = {-1: 1.0, 1: 3.0}
"""Farthest a mask goes from 1: weaker to 0, the field without effect; stronger to 4."""
GRID = 8
"""Points along each direction, closer together near 1."""
ROUNDS = 6
"""Refinements of a crossing, at most."""
TOLERANCE = 0.05
"""Share of the allowance by which a loss may stay below the level that was asked for."""
QUADRANTS = ((1, 1), (-1, 1), (-1, -1), (1, -1))
"""Directions of two masks, counterclockwise: stronger (1) or weaker (-1)."""
Masks: TypeAlias = tuple[float, float]


@dataclass(frozen=True)
class Stop:
    """A mask on one field, and what it costs."""

    mask: float
    rise: float
    """Log-loss above that of the whole model."""


@dataclass(frozen=True)
class HaloPoint:
    """What the two masks of one split of the allowance cost together."""

    angle: float
    """Radians: the split, within the quadrant of the two directions."""
    rise: float
    """Log-loss above that of the whole model, of both masks."""
    alone: tuple[float, float]
    """The same, of each mask by itself."""
    masks: Masks

    @property
    def excess(self) -> float:
        """What both masks cost beyond the sum of what each costs; 0 where nothing interacts."""
        return self.rise - sum(self.alone)


class NearOptimal:
    """Searches masks.

    Args:
        rows: Of the whole model.
        epsilon: Allowance: log-loss that a model may lose.
        splits: Ways to split it between two masks, as tenths where there are 9.
        progress: Told of (passes done, passes in all at most).
    """

    def __init__(
        self,
        rows: MaskedRows,
        epsilon: float,
        splits: int,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._rows = rows
        self._epsilon = epsilon
        self._levels = epsilon * np.arange(1, splits + 1) / (splits + 1)
        self._progress = progress
        self._total = 1
        self.passes = 1
        """Times that the rows went through the model."""
        self.logloss = float(rows.means([Variant()])[0])
        """Of the whole model."""

    def search(
        self, pairs: Sequence[tuple[int, int]]
    ) -> tuple[list[list[HaloPoint]], list[list[tuple[Masks, float]]]]:
        """The halo of each pair, and the models of the set that it leads to.

        Args:
            pairs: Positions of fields.

        Returns:
            By pair: points, and as many masks with what they cost, at most epsilon.
        """
        fields = sorted({i for pair in pairs for i in pair})
        splits = len(self._levels)
        self._total = most_passes(len(fields), len(pairs), splits)
        rays = self._rays(fields)
        points: list[HaloPoint] = []
        plan = [(pair, sides, k) for pair in pairs for sides in QUADRANTS for k in range(splits)]
        for pair, sides, k in plan:
            last = splits - 1 - k
            angle = math.atan2(sides[1] * self._levels[last], sides[0] * self._levels[k])
            one, other = rays[pair[0], sides[0]][k], rays[pair[1], sides[1]][last]
            alone, masks = (one.rise, other.rise), (one.mask, other.mask)
            points.append(HaloPoint(angle % (2 * math.pi), math.nan, alone, masks))
        owners = [pair for pair, _, _ in plan]
        rises = self._rises([_on(p, one.masks) for p, one in zip(owners, points, strict=True)])
        points = [replace(one, rise=r) for one, r in zip(points, rises.tolist(), strict=True)]
        members = self._drawn_back(owners, points)
        self._progress(self._total, self._total)
        size = len(QUADRANTS) * splits
        starts = range(0, len(points), size)
        return [points[at : at + size] for at in starts], [members[at : at + size] for at in starts]

    def _rises(self, masks: Sequence[Mapping[int, float]]) -> np.ndarray:
        """What log-loss gains under each mask."""
        before, self.passes = self.passes, self.passes + len(masks)
        found = self._rows.means(
            [Variant(masks=one) for one in masks],
            lambda done: self._progress(min(before + done, self._total - 1), self._total),
        )
        return found - self.logloss

    def _rays(self, fields: Sequence[int]) -> dict[tuple[int, int], list[Stop]]:
        """For each field and direction the first mask at which each level is reached; where none
        reaches it, the farthest mask."""
        steps = (np.arange(1, GRID + 1) / GRID) ** 2
        rays = [(at, side) for at in fields for side in REACH]
        grid = [{at: 1 + side * REACH[side] * step} for at, side in rays for step in steps.tolist()]
        rises = self._rises(grid).reshape(len(rays), GRID)
        rises = np.concatenate([np.zeros((len(rays), 1)), rises], axis=1)
        at_step = np.concatenate([[0.0], steps])
        over = rises[:, :, None] > self._levels  # [rays, GRID + 1, levels]
        first = over.argmax(1)  # 0 where no point is over
        found = first.reshape(-1) > 0
        which, levels = np.nonzero(np.ones_like(first))
        below = np.where(first > 0, first - 1, GRID).reshape(-1)
        above = np.where(first > 0, first, GRID).reshape(-1)

        def masks(problems: np.ndarray, t: np.ndarray) -> list[Mapping[int, float]]:
            chosen = [rays[which[q]] for q in problems]
            return [
                {at: 1 + side * REACH[side] * step}
                for (at, side), step in zip(chosen, t.tolist(), strict=True)
            ]

        low, low_rise = self._crossings(
            masks,
            np.where(found, self._levels[levels], np.inf),
            (at_step[below], rises[which, below]),
            (at_step[above], rises[which, above]),
        )
        stops: dict[tuple[int, int], list[Stop]] = {ray: [] for ray in rays}
        for q, (t, rise) in enumerate(zip(low.tolist(), low_rise.tolist(), strict=True)):
            at, side = rays[which[q]]
            stops[at, side].append(Stop(1 + side * REACH[side] * t, rise))
        return stops

    def _drawn_back(
        self, pairs: Sequence[tuple[int, int]], points: Sequence[HaloPoint]
    ) -> list[tuple[Masks, float]]:
        """The masks of each point, where they cost more than the allowance moved towards 1 until
        they do not; and what they cost then."""
        rises = np.array([one.rise for one in points])
        far = np.flatnonzero(rises > self._epsilon)

        def moved(q: int, t: float) -> Masks:
            first, second = points[far[q]].masks
            return 1 + t * (first - 1), 1 + t * (second - 1)

        zeros = np.zeros(len(far))
        low, low_rise = self._crossings(
            lambda qs, t: [
                _on(pairs[far[q]], moved(q, step)) for q, step in zip(qs, t.tolist(), strict=True)
            ],
            np.full(len(far), self._epsilon),
            (zeros, zeros),
            (zeros + 1, rises[far]),
        )
        members = [(one.masks, one.rise) for one in points]
        for q, (t, rise) in enumerate(zip(low.tolist(), low_rise.tolist(), strict=True)):
            members[far[q]] = (moved(q, t), rise)
        return members

    def _crossings(
        self,
        masks: Callable[[np.ndarray, np.ndarray], list[Mapping[int, float]]],
        level: np.ndarray,
        below: tuple[np.ndarray, np.ndarray],
        above: tuple[np.ndarray, np.ndarray],
    ) -> tuple[np.ndarray, np.ndarray]:
        """Between two points, the last one found that does not exceed the level: by turns where a
        straight line crosses it, and in the middle.

        Args:
            masks: Of some problems, at some places [q] between 0 and 1.
            level: [Q]; infinite where `below` is the answer.
            below: Places and losses [Q] that do not exceed it.
            above: Places and losses [Q] that do.

        Returns:
            Places and losses [Q].
        """
        low, low_rise = (one.astype(np.float64) for one in below)
        high, high_rise = (one.astype(np.float64) for one in above)
        for number in range(ROUNDS):
            near = level - low_rise <= TOLERANCE * self._epsilon
            open_ = np.flatnonzero(~near & np.isfinite(level))
            if not len(open_):
                break
            share = np.full(len(open_), 0.5)
            if number % 2 == 0:
                share = (level - low_rise)[open_] / (high_rise - low_rise)[open_]
            t = low[open_] + share.clip(0.05, 0.95) * (high - low)[open_]
            found = self._rises(masks(open_, t))
            under = found <= level[open_]
            low[open_[under]], low_rise[open_[under]] = t[under], found[under]
            high[open_[~under]], high_rise[open_[~under]] = t[~under], found[~under]
        return low, low_rise


def most_passes(num_fields: int, num_pairs: int, splits: int) -> int:
    """Passes over the rows that a search makes, at most."""
    rays = 2 * num_fields * (GRID + ROUNDS * splits)
    return 1 + rays + num_pairs * len(QUADRANTS) * splits * (1 + ROUNDS)


def _on(pair: tuple[int, int], masks: Masks) -> dict[int, float]:
    """Both masks, by field."""
    return dict(zip(pair, masks, strict=True))
