"""What two columns tell together: interaction, conditional information, redundancy.

    joint        I(x1, x2; y), the two columns as one
    interaction  joint - I(x1; y) - I(x2; y): what neither tells alone (negative where both tell the
                 same)
    conditional  I(x2; y | x1) = joint - I(x1; y): what x2 adds to x1
    redundancy   I(x1; x2) over the smaller of their entropies, chance taken off: 1 for a copy

All pairs among the best columns are tried, and pairs at random among the rest, within a budget: a
pure interaction has no marginal that could recommend its columns. Trying uses a fixed sample of the
rows, and the `NUM_CODES - 1` most frequent values of a column, others together; the pairs that look
best are then counted over all training rows.

Chance is the exact mean of the joint null less those of its columns. Its deviation is that of the
joint's cells.

Letters   S sampled rows, F columns, N pairs, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from recsys.data.columns import Lists
from recsys.data.readers import Chunk
from recsys.data.schema import Field
from recsys.feature_ranking.counts import ColumnCounts, library
from recsys.feature_ranking.information import (
    add_up,
    entropy,
    log_table,
    mutual_information,
    x_log_x,
)
from recsys.feature_ranking.null import InformationNull, added
from recsys.feature_ranking.rows import Rows, chunks, training_rows

NUM_CODES = 64
"""Codes of a column in a pair."""
LABEL_BINS = 10
"""Equal parts into which a numeric label is cut."""
MAX_VALUES = 1 << 18
"""Values of a column beyond which it is not paired: its frequent ones are too few of its rows."""
BATCH = 64
"""Pairs that a thread counts at a time."""


@dataclass(frozen=True)
class SmallColumn:
    """A column in `NUM_CODES` codes.

    Args:
        field: The column.
        sample: Codes of the sampled rows, [S] uint8.
        code: A chunk's codes, uint8; made for reading all rows.
    """

    field: Field
    sample: np.ndarray
    code: Callable[[Chunk], np.ndarray]


@dataclass(frozen=True)
class PairSums:
    """Statistics of pairs, each [N]: in nats, over the rows that were counted."""

    pairs: np.ndarray
    """Columns by position, [N, 2]."""
    joint: np.ndarray
    interaction: np.ndarray
    chance: np.ndarray
    """Of the interaction."""
    deviation: np.ndarray
    first: np.ndarray
    """I(x1; y), its chance taken off."""
    second: np.ndarray
    mutual: np.ndarray
    """I(x1; x2), its chance taken off."""
    redundancy: np.ndarray
    num_rows: int

    @property
    def excess(self) -> np.ndarray:
        """Interaction above chance."""
        return self.interaction - self.chance

    @property
    def z(self) -> np.ndarray:
        """Excess in deviations."""
        return self.excess / np.maximum(self.deviation, 1e-300)


def num_paired(num: int, budget: int) -> int:
    """How many of the best columns `choose_pairs` pairs with one another: all, where the budget
    allows, or what half of it does."""
    if num * (num - 1) // 2 <= budget:
        return num
    return int((1 + math.sqrt(1 + 4 * budget)) / 2)


def choose_pairs(order: Sequence[int], budget: int, seed: int) -> np.ndarray:
    """Pairs to try: all among the best columns, in half of the budget; then others at random.

    Args:
        order: Columns by rank, best first.
        budget: Most pairs.
        seed: Of the random ones.

    Returns:
        [N, 2], the smaller position first.
    """
    num = len(order)
    best = num_paired(num, budget)
    if best == num:
        first, second = np.triu_indices(num, 1)
        return np.stack([first, second], axis=1).astype(np.int32)
    ranked = np.asarray(order)
    first, second = np.triu_indices(best, 1)
    chosen = {tuple(sorted(pair)) for pair in zip(ranked[first], ranked[second], strict=True)}
    generator = np.random.default_rng(seed)
    while len(chosen) < budget:
        drawn = generator.integers(0, num, (budget, 2))
        for a, b in drawn[drawn[:, 0] != drawn[:, 1]]:
            if len(chosen) == budget:
                break
            chosen.add((min(a, b), max(a, b)))
    return np.array(sorted(chosen), np.int32)


class PairCounter:
    """Counts pairs over rows held in memory.

    Args:
        codes: [F, S] uint8, below `NUM_CODES`.
        labels: Classes of the rows, [S].
    """

    def __init__(self, codes: np.ndarray, labels: np.ndarray) -> None:
        present, labels = np.unique(labels, return_inverse=True)
        self.codes = np.ascontiguousarray(codes)
        self.labels = labels.astype(np.uint8)
        self.num_classes = len(present)
        self.num_rows = codes.shape[1]
        of_class = np.bincount(labels)
        null = InformationNull(of_class.tolist())
        self._null = null.by_size()
        self._logs = log_table()
        self._label_sum = float(x_log_x(of_class).sum())
        self._single = [self._alone(one) for one in range(len(codes))]

    def _alone(self, column: int) -> tuple[float, float, float]:
        """Information, chance, and sum of c ln c of one column."""
        key = self.codes[column].astype(np.int64) * self.num_classes + self.labels
        table = np.bincount(key, minlength=NUM_CODES * self.num_classes)
        table = table.reshape(NUM_CODES, self.num_classes)
        size = table.sum(axis=1)
        own = float(x_log_x(size).sum())
        chance = added(self._null, size, self.num_rows)[0]
        return self._information(float(x_log_x(table).sum()), own), float(chance), own

    def _information(self, both: Any, own: Any) -> Any:
        n = self.num_rows
        return (both - own - self._label_sum + n * np.log(n)) / n

    def count(
        self,
        pairs: np.ndarray,
        threads: int = 1,
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> PairSums:
        """Statistics of pairs of columns.

        Args:
            pairs: Positions, [N, 2] int32.
            threads: How many work.
            progress: Told how many of how many pairs are counted.
        """
        pairs = np.ascontiguousarray(pairs, np.int32)
        found = np.zeros((len(pairs), 7))
        starts = range(0, len(pairs), BATCH)

        def work(start: int) -> None:
            part = slice(start, start + BATCH)
            self._sums(pairs[part], found[part])

        with ThreadPoolExecutor(threads) as pool:
            for index, _ in enumerate(pool.map(work, starts)):
                progress(min((index + 1) * BATCH, len(pairs)), len(pairs))
        return self._statistics(pairs, found)

    def _sums(self, pairs: np.ndarray, out: np.ndarray) -> None:
        kernels = library()
        if kernels is not None:
            kernels.count_pairs(
                self.codes.ctypes.data, self.labels.ctypes.data, self.num_rows, self.num_classes,
                NUM_CODES, pairs.ctypes.data, len(pairs), self._logs.ctypes.data, len(self._logs),
                self._null.ctypes.data, len(self._null),
                out.ctypes.data,
            )  # fmt: skip
            return
        k = self.num_classes
        for index, (a, b) in enumerate(pairs):
            key = (self.codes[a].astype(np.int64) * NUM_CODES + self.codes[b]) * k + self.labels
            table = np.bincount(key, minlength=NUM_CODES**2 * k).reshape(-1, k)
            size = table.sum(axis=1)
            out[index] = (
                x_log_x(table).sum(), x_log_x(size).sum(), (size > 0).sum(),
                *added(self._null, size, self.num_rows),
            )  # fmt: skip

    def _statistics(self, pairs: np.ndarray, found: np.ndarray) -> PairSums:
        n = self.num_rows
        alone = np.array(self._single).reshape(-1, 3)
        a, b = alone[pairs[:, 0]], alone[pairs[:, 1]]
        joint = self._information(found[:, 0], found[:, 1])
        own = np.log(n) - alone[:, 2] / n  # entropies
        smaller = np.minimum(own[pairs[:, 0]], own[pairs[:, 1]])
        mutual = (found[:, 1] - a[:, 2] - b[:, 2] + n * np.log(n)) / n
        values = np.array([(np.bincount(one) > 0).sum() for one in self.codes])
        # Miller and Madow's bias of an information, over the cells that occur.
        bias = (found[:, 2] - values[pairs[:, 0]] - values[pairs[:, 1]] + 1) / (2 * n)
        mutual = mutual - bias
        redundancy = np.clip(mutual / np.maximum(smaller, 1e-12), 0.0, 1.0)
        return PairSums(
            pairs=pairs,
            joint=joint - found[:, 3],
            interaction=joint - a[:, 0] - b[:, 0],
            chance=found[:, 3] - a[:, 1] - b[:, 1],
            deviation=np.sqrt(np.maximum(found[:, 4] - found[:, 5] ** 2, 0.0)),
            first=a[:, 0] - a[:, 1],
            second=b[:, 0] - b[:, 1],
            mutual=mutual,
            redundancy=np.where(smaller > 1e-12, redundancy, 0.0),
            num_rows=n,
        )


def label_bins(labels: np.ndarray, of: np.ndarray) -> np.ndarray:
    """A numeric label in the `LABEL_BINS` equal parts of some labels.

    Args:
        labels: [n].
        of: Labels whose quantiles are the edges.
    """
    edges = np.unique(np.quantile(of, np.arange(1, LABEL_BINS) / LABEL_BINS))
    return np.searchsorted(edges, labels, side="right")


def small_column(column: ColumnCounts) -> SmallColumn | None:
    """The column in few codes; None for lists, and for columns of very many values."""
    if isinstance(column.sample, Lists) or len(column.counts) > MAX_VALUES:
        return None
    size = add_up(column.train, 1)
    groups = np.full(len(size), NUM_CODES - 1, np.uint8)
    most = np.argsort(-size, kind="stable")[: NUM_CODES - 1]
    groups[most] = np.arange(len(most))

    def code(chunk: Chunk) -> np.ndarray:
        codes = column.code(chunk)
        assert isinstance(codes, np.ndarray)
        return groups[codes]

    return SmallColumn(column.field, groups[column.sample], code)


def count_fully(
    rows: Rows,
    columns: Sequence[SmallColumn],
    pairs: np.ndarray,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> np.ndarray:
    """Counts of some pairs over all training rows, [N, NUM_CODES, NUM_CODES, K] int64.

    Args:
        rows: With classes; a numeric label is cut at the bins of the sample.
        columns: What `pairs` are positions in.
        pairs: [N, 2].
        progress: Told how many of how many rows are read.
    """
    classes = LABEL_BINS if rows.is_number else rows.num_classes
    out = np.zeros((len(pairs), NUM_CODES * NUM_CODES * classes), np.int64)
    total = sum(file.source.num_rows for file in rows.files)
    done = 0
    for file, chunk in chunks(rows, [columns[one].field.name for one in np.unique(pairs)]):
        train, labels = training_rows(rows, file, chunk)
        if rows.is_number:
            labels = label_bins(labels, rows.sample_labels)
        codes = {one: columns[one].code(chunk)[train] for one in np.unique(pairs)}
        for index, (a, b) in enumerate(pairs):
            key = (codes[a].astype(np.int64) * NUM_CODES + codes[b]) * classes + labels
            out[index] += np.bincount(key, minlength=out.shape[1])
        done += chunk.num_rows
        progress(done, total)
    return out.reshape(len(pairs), NUM_CODES, NUM_CODES, classes)


def exact_statistics(pairs: np.ndarray, tables: np.ndarray) -> PairSums:
    """As `PairCounter.count`, from tables of counts, with the exact null of the joint.

    Args:
        pairs: [N, 2].
        tables: [N, A, B, K].
    """
    n = int(tables[0].sum())
    of_class = tables[0].sum(axis=(0, 1))
    null = InformationNull(of_class[of_class > 0].tolist())
    rows = []
    for table in tables:
        first, second = table.sum(axis=1), table.sum(axis=0)
        own = [mutual_information(one) for one in (table.reshape(-1, len(of_class)), first, second)]
        moments = [null.moments(one.sum(axis=-1).ravel()) for one in (table, first, second)]
        both = table.sum(axis=2)
        smaller = min(entropy(one.sum(axis=1)) for one in (first, second))
        seen = [(one > 0).sum() for one in (both, first.sum(axis=1), second.sum(axis=1))]
        mutual = mutual_information(both) - (seen[0] - seen[1] - seen[2] + 1) / (2 * n)
        rows.append((
            own[0] - moments[0].mean, own[0] - own[1] - own[2],
            moments[0].mean - moments[1].mean - moments[2].mean, moments[0].deviation,
            own[1] - moments[1].mean, own[2] - moments[2].mean, mutual,
            min(max(mutual / smaller, 0.0), 1.0) if smaller > 1e-12 else 0.0,
        ))  # fmt: skip
    joint, interaction, chance, deviation, first, second, mutual, redundancy = np.array(rows).T
    return PairSums(
        pairs, joint, interaction, chance, deviation, first, second, mutual, redundancy, n
    )
