"""What one column tells about the label: information above chance, its error, a held-out check.

    information   I(x; y) in nats, exact plug-in over the training rows
    chance        its mean when x tells nothing (`recsys.feature_ranking.null`)
    excess        information - chance
    score         excess - `STRICTNESS` deviations of the null: what columns are ranked by
    z, p          how far in the null's tail the information lies
    gain          log-loss that a smoothed table of label rates saves on rows it has not seen, in
                  nats a row; it unmasks ids, whose every value is new there
    error         standard error of the information itself, rows drawn anew

A numeric label is compared by its normal scores: the information is -ln(1 - R^2) / 2, with R^2 the
share of their variance between the values of the column.

Letters   V values that occur, K classes, n training rows, H half-samples.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from recsys.feature_ranking.counts import ColumnCounts, library
from recsys.feature_ranking.information import (
    add_up,
    log_table,
    mutual_information,
    standard_error,
    x_log_x,
)
from recsys.feature_ranking.null import InformationNull, NullMoments, added
from recsys.feature_ranking.number_null import variance_null
from recsys.feature_ranking.rows import HELD_OUT, NUM_BLOCKS, NUM_PARTS, Rows
from recsys.feature_ranking.tails import tail
from recsys.feature_ranking.uneven import uneven_null

STRICTNESS = 3.0


@dataclass(frozen=True)
class ColumnScore:
    """See the module."""

    information: float
    chance: float
    deviation: float
    """Standard deviation of the information under the null."""
    error: float
    z: float
    p: float
    gain: float
    strength: float
    """Rows of a value at which its own label rate weighs as much as the base rate; infinite where
    values do not differ beyond chance."""

    @property
    def excess(self) -> float:
        return self.information - self.chance

    @property
    def score(self) -> float:
        """The lower bound that columns are ranked by."""
        return self.excess - STRICTNESS * self.deviation


class Scorer:
    """Scores columns of one data set; what depends on the label alone is made once.

    Args:
        rows: The label and the parts.
        halves: Number of half-samples for the stability of ranks; 0 for none.
    """

    def __init__(self, rows: Rows, halves: int = 32) -> None:
        self.rows = rows
        if rows.is_number:
            x = rows.sample_labels.astype(np.float64)
            self._kurtosis = float((x**4).mean() / (x**2).mean() ** 2)
            self._present = np.array([True])
        else:
            self._present = rows.class_counts > 0
            self._null = InformationNull(rows.class_counts[self._present].tolist())
        self.masks = half_masks(halves)
        if halves and not rows.is_number:
            half = np.maximum(rows.class_counts[self._present] // 2, 1)
            null = InformationNull(half.tolist())
            self._half_rows = null.num_rows
            self._half_null = null.by_size()
        self._logs = log_table()

    def score(self, column: ColumnCounts) -> ColumnScore:
        """Score a column over all training rows."""
        if column.sums is not None:
            return self._score_number(column)
        train = column.train[:, self._present]
        size = add_up(train, 1)
        train, size = train[size > 0], size[size > 0]
        information = mutual_information(train)
        if column.squares is None:
            null = self._null.moments(size)
        else:
            null = uneven_null(column, self.rows, self._present)
        z, p = _tail(information, null)
        return ColumnScore(
            information=information,
            chance=null.mean,
            deviation=null.deviation,
            error=standard_error(train, information),
            z=z,
            p=p,
            gain=held_out_gain(*self._learnt_and_unseen(column.counts[:, :, self._present])),
            strength=prior_strength(train),
        )

    def _score_number(self, column: ColumnCounts) -> ColumnScore:
        assert column.sums is not None
        size = column.train[:, 0].astype(np.float64)
        total = column.sums[:, :HELD_OUT].sum(axis=1)
        seen = size > 0
        size, total = size[seen], total[seen]
        n = size.sum()
        total = total - size * (total.sum() / n)
        share = min(float((total**2 / size).sum() / n), 1.0 - 1e-12)
        null = variance_null(size, self._kurtosis)
        z, p = _tail(share, null)
        left = max(1.0 - null.mean, 1e-12)
        information = -0.5 * math.log1p(-share)
        return ColumnScore(
            information=information,
            chance=-0.5 * math.log(left),
            deviation=null.deviation / (2 * left),
            error=math.sqrt(max(share, 0.0) / n),
            z=z,
            p=p,
            gain=self._number_gain(column),
            strength=_number_strength(size, total),
        )

    # -- rows that were not counted -------------------------------------------------------------

    def _learnt_and_unseen(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Where there are no held-out rows, the last block stands in for them."""
        if self.rows.num_held_out:
            return add_up(counts[:, :HELD_OUT], 1), counts[:, HELD_OUT]
        return add_up(counts[:, : NUM_BLOCKS - 1], 1), counts[:, NUM_BLOCKS - 1]

    def _number_gain(self, column: ColumnCounts) -> float:
        assert column.sums is not None
        size, unseen = self._learnt_and_unseen(column.counts[:, :, 0])
        total, later = self._learnt_and_unseen(column.sums)
        later_rows = unseen.sum()
        strength = _number_strength(size, total)
        if not later_rows or math.isinf(strength):
            return 0.0
        mean = (total - size * (total.sum() / size.sum())) / (size + strength)
        saved = float((2 * mean * later - unseen * mean**2).sum() / later_rows)
        return -0.5 * math.log(max(1 - saved, 1e-12))

    # -- half-samples ----------------------------------------------------------------------------

    def half_scores(self, column: ColumnCounts) -> np.ndarray:
        """The score in every half-sample, [H]. Deviations there neglect what couples values."""
        if not len(self.masks):
            return np.zeros(0)
        if column.sums is not None:
            return self._number_halves(column)
        counts = column.counts[:, :, self._present]
        found = np.zeros((len(self.masks), 5))
        kernels = library()
        if counts.dtype == np.int32 and kernels is not None:
            counts = np.ascontiguousarray(counts)
            bits = (self.masks << np.arange(NUM_PARTS, dtype=np.uint32)).sum(
                axis=1, dtype=np.uint32
            )
            kernels.half_information(
                counts.ctypes.data, len(counts), NUM_PARTS, counts.shape[2],
                bits.ctypes.data, len(self.masks), self._logs.ctypes.data, len(self._logs),
                self._half_null.ctypes.data, len(self._half_null), self._half_rows,
                found.ctypes.data,
            )  # fmt: skip
        else:
            for index, mask in enumerate(self.masks):
                table = counts[:, mask.astype(bool)].sum(axis=1)
                size = table.sum(axis=1)
                found[index, 0] = x_log_x(table).sum() - x_log_x(size).sum()
                found[index, 1:] = added(self._half_null, size, self._half_rows)
        information, mean, variance, linear, slope = found.T
        of_class = self.masks @ counts.sum(axis=0)
        n = np.maximum(of_class.sum(axis=1), 1)
        information = (information - x_log_x(of_class).sum(axis=1) + x_log_x(n)) / n
        # The tables are those of exact halves: a half-sample has its own size and label rate.
        rate = of_class[:, -1] / n - self.rows.class_counts[self._present][-1] / self.rows.num_train
        mean = (mean + rate * slope) * self._half_rows / n
        values = int((add_up(add_up(counts, 1), 1) > 0).sum())
        coupled = values / max(values - 1, 1)  # of equally frequent values; exact for two
        variance = np.maximum(variance - linear**2, 0.0) * coupled
        return information - mean - STRICTNESS * np.sqrt(variance) * self._half_rows / n

    def _number_halves(self, column: ColumnCounts) -> np.ndarray:
        assert column.sums is not None
        out = np.zeros(len(self.masks))
        for index, mask in enumerate(self.masks.astype(bool)):
            size, total = column.counts[:, mask, 0].sum(axis=1), column.sums[:, mask].sum(axis=1)
            size, total = size[size > 0], total[size > 0]
            n = size.sum()
            total = total - size * (total.sum() / n)
            null = variance_null(size, self._kurtosis)
            share = (total**2 / size).sum() / n
            out[index] = (share - null.mean - STRICTNESS * null.deviation) / 2
        return out


def half_masks(halves: int) -> np.ndarray:
    """Which blocks make up each half-sample, [H, NUM_PARTS] uint8: complementary pairs of all ways
    to choose half of the blocks, spread evenly."""
    ways = list(itertools.combinations(range(NUM_BLOCKS), NUM_BLOCKS // 2))
    ways = [way for way in ways if 0 in way]  # one of each complementary pair
    out = np.zeros((halves, NUM_PARTS), np.uint8)
    for index in range(halves):
        way = ways[(index // 2) * len(ways) // max((halves + 1) // 2, 1) % len(ways)]
        blocks = way if index % 2 == 0 else [b for b in range(NUM_BLOCKS) if b not in way]
        out[index, list(blocks)] = 1
    return out


def held_out_gain(learnt: np.ndarray, unseen: np.ndarray) -> float:
    """Log-loss saved on unseen rows by label rates learnt from others, in nats a row.

    Rates are drawn towards the base rate with the strength that the spread between values calls
    for (method of moments of a Dirichlet); no spread beyond chance means no gain and no loss.

    Args:
        learnt: Counts [V, K].
        unseen: Counts [V, K] of other rows.
    """
    n, later = float(learnt.sum()), float(unseen.sum())
    if not n or not later:
        return 0.0
    strength = prior_strength(learnt)
    if math.isinf(strength):
        return 0.0
    base, size = learnt.sum(axis=0) / n, add_up(learnt, 1)
    met = add_up(unseen, 1) > 0
    rate = (learnt[met] + strength * base) / (size[met, None] + strength)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(base > 0, np.log(np.maximum(rate, 1e-300) / np.maximum(base, 1e-300)), 0.0)
    return float((unseen[met] * ratio).sum() / later)


def prior_strength(table: np.ndarray) -> float:
    """Strength of the Dirichlet prior that the spread of label rates calls for, in rows.

    Method of moments: the spread of rates between values beyond what drawing rows explains.

    Args:
        table: Counts [V, K].
    """
    size = add_up(table, 1)
    seen = size > 0
    table, size = table[seen], size[seen].astype(np.float64)
    n = size.sum()
    base = table.sum(axis=0) / n
    noise = float((base * (1 - base)).sum())
    off = table - size[:, None] * base
    between = float((add_up(off**2, 1) / size).sum()) - (seen.sum() - 1) * noise
    room = n - float((size**2).sum()) / n
    return max(noise * room / between - 1, 1e-9) if between > 0 and room > 0 else math.inf


def _number_strength(size: np.ndarray, total: np.ndarray) -> float:
    """The same for normal scores, whose variance is one."""
    seen = size > 0
    size, total = size[seen].astype(np.float64), total[seen]
    n = size.sum()
    if n <= 1:
        return math.inf
    total = total - size * (total.sum() / n)
    between = float((total**2 / size).sum()) - (seen.sum() - 1)
    room = n - float((size**2).sum()) / n
    return max(room / between - 1, 1e-9) if between > 0 and room > 0 else math.inf


def _tail(score: float, null: NullMoments) -> tuple[float, float]:
    one = (np.array([value]) for value in (score, null.mean, null.deviation, null.skewness))
    z, p = tail(*one)
    return float(z[0]), float(p[0])
