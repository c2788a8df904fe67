"""Which rows train, which validate, which test.

Given files need no rule. Otherwise one of the rules below assigns every row of one source, in one
streaming pass at most over one or two columns.
"""

from __future__ import annotations

from dataclasses import dataclass

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class RandomSplit:
    """Rows at random, by a fixed 64-bit mix of (seed, row index): the same rows on any machine."""

    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0


@dataclass(frozen=True)
class TimeSplit:
    """Oldest rows train, newest test; rows with equal time stay together.

    Args:
        column: Timestamp column: int, float, date or datetime.
        fractions: Shares of train, val and test rows; the cuts are exact quantiles of the column.
        cuts: Explicit `(first time of val, first time of test)` in the column's own unit, or as
            ISO text; overrides `fractions`.
    """

    column: str
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1)
    cuts: tuple[float | int | str, float | int | str] | None = None


@dataclass(frozen=True)
class LeaveLastOut:
    """Per user: the last row tests, the one before validates, the rest train."""

    user: str
    timestamp: str


SplitRule = RandomSplit | TimeSplit | LeaveLastOut
