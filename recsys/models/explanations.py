"""What `CTRModel.explain` says about many rows, summed up block by block as a figure needs it.

    attention [B, L, H, F, F]  mean over rows
    gates*    [B, F]           mean and standard deviation over rows
    crosses   [B, J, F]        the sets of slots with non-zero weight that most rows have
    interest.<history> [B, T]  mean and deviation by recency, 1 being the latest event

Letters   B rows of a block, L layers, H heads, F slots, J crosses of a row, T longest history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

KEPT_PER_BLOCK = 512
"""Sets of slots of one block that are remembered, the most frequent: bounds memory where nearly
every row has sets of its own."""


@dataclass(frozen=True)
class Cross:
    """A set of slots that enter a product together."""

    slots: tuple[int, ...]
    share: float
    """Share of the rows that have it."""
    weights: tuple[float, ...]
    """Mean weight of each of its slots, where the set occurs."""
    sizes: tuple[float, ...]
    """Mean absolute weight of each of its slots: signs may differ between a row's crosses."""


class MeanAndSpread:
    """Running mean and standard deviation of vectors that may grow; NaN entries do not count."""

    def __init__(self) -> None:
        self._sums = np.zeros((3, 0))

    def add(self, values: np.ndarray) -> None:
        """Take rows [B, X] in."""
        width = values.shape[1]
        if width > self._sums.shape[1]:
            self._sums = np.pad(self._sums, ((0, 0), (0, width - self._sums.shape[1])))
        there = ~np.isnan(values)
        x = np.where(there, values, 0.0).astype(np.float64)
        self._sums[:, :width] += [there.sum(0), x.sum(0), np.square(x).sum(0)]

    @property
    def count(self) -> np.ndarray:
        """Numbers seen at each place."""
        return self._sums[0]

    @property
    def mean(self) -> np.ndarray:
        """NaN where nothing was seen."""
        with np.errstate(invalid="ignore"):
            return self._sums[1] / self._sums[0]

    @property
    def deviation(self) -> np.ndarray:
        """NaN where nothing was seen."""
        with np.errstate(invalid="ignore"):
            square = self._sums[2] / self._sums[0]
        return np.sqrt(np.maximum(square - np.square(self.mean), 0.0))


class Explanations:
    """Sums up what a model explains; `add` takes blocks of rows in."""

    def __init__(self) -> None:
        self.num_rows = 0
        self.gates: dict[str, MeanAndSpread] = {}
        """By name: `gates`, or several where a model has several."""
        self.interest: dict[str, MeanAndSpread] = {}
        """By history; place 0 is the latest event."""
        self._attention: np.ndarray | None = None
        self._crosses: dict[bytes, _CrossSums] = {}

    def add(
        self, explained: Mapping[str, np.ndarray], lengths: Mapping[str, np.ndarray] | None = None
    ) -> None:
        """Take one block in.

        Args:
            explained: What `CTRModel.explain` returned, as arrays with B rows.
            lengths: Events of each row [B], by history, where the model explains interest.
        """
        num_rows = {len(array) for array in explained.values()}
        for name, array in explained.items():
            if name == "attention":
                total = array.sum(0, dtype=np.float64)
                self._attention = total if self._attention is None else self._attention + total
            elif name.startswith("gates") and array.ndim == 2:
                self.gates.setdefault(name, MeanAndSpread()).add(array)
            elif name == "crosses":
                self._add_crosses(array)
            elif name.startswith("interest."):
                history = name.removeprefix("interest.")
                by_recency = latest_first(array, (lengths or {})[history])
                self.interest.setdefault(history, MeanAndSpread()).add(by_recency)
        self.num_rows += max(num_rows, default=0)

    @property
    def attention(self) -> np.ndarray | None:
        """Mean [L, H, F, F], or None."""
        return None if self._attention is None else self._attention / max(self.num_rows, 1)

    def top_crosses(self, count: int = 20) -> list[Cross]:
        """The sets of at least two slots that most rows have, the most frequent first."""
        found = sorted(
            (one for one in self._crosses.values() if len(one.slots) > 1),
            key=lambda one: (-one.rows, one.slots),
        )
        return [
            Cross(
                one.slots,
                one.rows / max(self.num_rows, 1),
                tuple((one.weights / one.uses).tolist()),
                tuple((one.sizes / one.uses).tolist()),
            )
            for one in found[:count]
        ]

    def _add_crosses(self, weights: np.ndarray) -> None:
        num_rows, num_crosses, num_slots = weights.shape
        flat = weights.reshape(-1, num_slots)
        packed = np.packbits(flat != 0, axis=1)
        keys = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1]))).reshape(-1)
        _, first, which = np.unique(keys, return_index=True, return_inverse=True)
        rows = np.repeat(np.arange(num_rows), num_crosses)
        pairs = np.unique(which * num_rows + rows)  # a set counts once per row
        per_set = np.bincount(pairs // num_rows, minlength=len(first))
        kept = np.argsort(-per_set, kind="stable")[:KEPT_PER_BLOCK]
        order = np.argsort(which, kind="stable")
        ends = np.cumsum(np.bincount(which, minlength=len(first)))
        for index in kept.tolist():
            slots = tuple(np.flatnonzero(flat[first[index]]).tolist())
            members = order[ends[index - 1] if index else 0 : ends[index]]
            sums = self._crosses.setdefault(keys[first[index]].tobytes(), _CrossSums(slots))
            sums.rows += int(per_set[index])
            sums.uses += len(members)
            found = flat[members][:, list(slots)]
            sums.weights += found.sum(0, dtype=np.float64)
            sums.sizes += np.abs(found).sum(0, dtype=np.float64)


class _CrossSums:
    """Occurrences of one set of slots."""

    def __init__(self, slots: tuple[int, ...]) -> None:
        self.slots = slots
        self.rows = 0
        self.uses = 0
        self.weights, self.sizes = np.zeros((2, len(slots)))


def latest_first(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Turn rows of events, oldest first and padded behind, round; NaN where there is no event.

    Shape:
        values   [B, T]
        lengths  [B]
        return   [B, T]

    Example:
        >>> latest_first(np.array([[1.0, 2.0, 0.0], [3.0, 4.0, 5.0]]), np.array([2, 3])).tolist()
        [[2.0, 1.0, nan], [5.0, 4.0, 3.0]]
    """
    steps = lengths[:, None] - 1 - np.arange(values.shape[1])
    turned = np.take_along_axis(values, np.maximum(steps, 0), axis=1).astype(np.float64)
    turned[steps < 0] = np.nan
    return turned


def most_of_row(
    explained: Mapping[str, np.ndarray],
    row: int,
    slots: Sequence[str],
    lengths: Mapping[str, int] | None = None,
    count: int = 5,
) -> dict[str, list[dict[str, Any]]]:
    """What stands out in the explanation of one row, as plain values, the strongest first.

    Args:
        explained: What `CTRModel.explain` returned, as arrays.
        row: Which row of them.
        slots: F names.
        lengths: Events of this row by history.
        count: Entries of each kind; of a cross, slots.

    Returns:
        By what is explained: `attention` (pairs of two slots, mean over layers and heads), `gates*`
        (the most open slots), `crosses` (those of the largest weights), `interest.*` (events).
    """
    out: dict[str, list[dict[str, Any]]] = {}
    for name, array in explained.items():
        one = array[row]
        if name == "attention":
            pairs = one.mean((0, 1), dtype=np.float64)
            np.fill_diagonal(pairs, 0.0)
            best = _highest(pairs.reshape(-1), count)
            where = [divmod(i, pairs.shape[1]) for i in best]
            out[name] = [
                {"slots": [slots[i], slots[j]], "weight": float(pairs[i, j])} for i, j in where
            ]
        elif name.startswith("gates") and array.ndim == 2:
            out[name] = [
                {"slots": [slots[i]], "weight": float(one[i])} for i in _highest(one, count)
            ]
        elif name == "crosses":
            crosses = [cross for cross in one if np.count_nonzero(cross) > 1]
            found = []
            for k in _highest(np.array([np.abs(cross).sum() for cross in crosses]), count):
                members = sorted(_highest(np.abs(crosses[k]), count))
                members = [i for i in members if crosses[k][i] != 0]
                found.append(
                    {
                        "slots": [slots[i] for i in members],
                        "weights": [float(crosses[k][i]) for i in members],
                        "num_slots": int(np.count_nonzero(crosses[k])),
                    }
                )
            out[name] = found
        elif name.startswith("interest."):
            length = (lengths or {})[name.removeprefix("interest.")]
            out[name] = [
                {"events_ago": length - i, "weight": float(one[i])}
                for i in _highest(one[:length], count)
            ]
    return out


def _highest(values: np.ndarray, count: int) -> list[int]:
    """Positions of the highest values, ties by position."""
    return np.argsort(-values, kind="stable")[:count].tolist()
