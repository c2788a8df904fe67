"""What a column that tells nothing scores: the exact margin-preserving null, without a permutation.

Shuffling the label over the rows keeps the number of rows of every value and of every class. The
table of counts is then multivariate hypergeometric, and the mutual information is a sum over its
cells: with c rows of a value, k of them of a class that has S of all n rows (share q = S/n),

    I = sum over cells of f_c(k),   f_c(k) = (c/n) (p ln(p/q) - p + q),   p = k/c             (1)

(the added -p + q sums to zero over classes and makes every term non-negative and flat at q).
Expectations add, and each cell alone is hypergeometric, so E0[I] is exact. For the variance every
f_c is written in the orthonormal polynomials P_m of its own cell: of two cells, P_m and P_m' are
uncorrelated unless m = m', and then correlate as the m-th power of the cells' own correlation,
which is the product of one factor for the values and one for the classes:

    R_vw = -sqrt(c_v c_w / ((n - c_v)(n - c_w))),   Q_kl = -sqrt(S_k S_l / ((n - S_k)(n - S_l)))

(the m-th power is exact for m = 1 and to O(1/n) beyond). Degrees up to `DEGREE` couple the cells;
what is left of a cell's variance is its own. With two classes a value is one cell, both at once.
The third cumulant is that of the quadratic part, which is a quadratic form in a projection
(chi-square with (V - 1)(K - 1) degrees for frequent values). With two classes the cells' own third
cumulants stand in for it where values are rare, after the part that is linear in k over all cells
is taken out: with the margins fixed, that part is a constant.

Mean, variance and skewness fix a Pearson type III distribution, of which chi-square and the normal
are the two ends; z is the normal quantile of its tail.

Cost: one short sum per DISTINCT number of rows of a value, of which there are at most sqrt(2n).

Source: the expectation is that of adjusted mutual information (Vinh, Epps, Bailey, JMLR 2010,
eq. 24a); the rest is this project's own and is tested against permutations.

Letters   n rows, V values, K classes, u distinct row counts, W support of a cell, m degree.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import gammaln

DEGREE = 4
"""Highest degree by which cells are coupled."""
NUM_MOMENTS = 7 + DEGREE
REMEMBERED = 1 << 16
"""Numbers of rows below which the moments of a cell are kept for the next column."""
EXACT_VARIANCE = 100.0
"""Cells whose class count has a larger variance use the expansion in 1/c, which is then right to
1e-4 of the mean and to 1 % of the variance."""
KNOWN_SIZES = 2048
"""Rows of a value up to which `InformationNull.by_size` is tabulated for the kernels."""
BLOCK = 512
"""Distinct row counts whose support is laid out at a time."""


@dataclass(frozen=True)
class NullMoments:
    """Mean, standard deviation and skewness of a score under the null."""

    mean: float
    deviation: float
    skewness: float


@dataclass(frozen=True)
class CellMoments:
    """Of f_c under the null, for several c.

    Args:
        packed: What the properties name, side by side, [u, NUM_MOMENTS].
    """

    packed: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """[u]."""
        return self.packed[:, 0]

    @property
    def variance(self) -> np.ndarray:
        """[u]."""
        return self.packed[:, 1]

    @property
    def spread(self) -> np.ndarray:
        """Standard deviation of k, [u]."""
        return self.packed[:, 2]

    @property
    def third(self) -> np.ndarray:
        """Third cumulants fff, ffk, fkk, kkk, [u, 4]."""
        return self.packed[:, 3:7]

    @property
    def coefficients(self) -> np.ndarray:
        """a_m = E[f_c P_m], m = 1 .. DEGREE, [u, DEGREE]."""
        return self.packed[:, 7:]


class InformationNull:
    """The null of mutual information with a label of given class counts.

    Args:
        class_counts: Rows of each class, [K], K >= 2, all positive.

    Example:
        >>> null = InformationNull([50, 50])
        >>> moments = null.moments(np.array([50, 50]))
        >>> round(moments.mean * 2 * 100, 1)     # 2 n E0[I] is one degree of freedom
        1.0
    """

    def __init__(self, class_counts: Sequence[int]) -> None:
        counts = np.asarray(class_counts, np.int64)
        if counts.size < 2 or counts.min() < 1:
            raise ValueError(
                f"class counts are {counts.tolist()}; two classes with rows are needed"
            )
        self.num_rows = int(counts.sum())
        self._counts = counts.tolist()
        self._binary = counts.size == 2
        # With two classes both cells of a value move together: one cell, of the rarer class.
        self._classes = np.sort(counts)[:1] if self._binary else counts
        share = self._classes / self.num_rows
        root = np.sqrt(share / (1 - share))
        self._class_coupling = np.where(
            np.eye(self._classes.size, dtype=bool), 1.0, -np.outer(root, root)
        )
        self.degrees = counts.size - 1
        self._known = np.zeros((self._classes.size, REMEMBERED, NUM_MOMENTS))
        self._is_known = np.zeros(REMEMBERED, bool)
        self._lock = threading.Lock()
        self.shares = counts / self.num_rows

    def cells(self, sizes: np.ndarray) -> list[CellMoments]:
        """Moments of the cells of values with these numbers of rows, for each class (of two: one).

        What is found for sizes below `REMEMBERED` is kept: columns share their label, and most of
        their values are rare.

        Args:
            sizes: Distinct numbers of rows, increasing, [u].
        """
        small = int(np.searchsorted(sizes, REMEMBERED))
        with self._lock:
            new = sizes[:small][~self._is_known[sizes[:small]]]
            for index, of_class in enumerate(self._classes if new.size else ()):
                found = _cell_moments(new, self.num_rows, int(of_class), self._binary)
                self._known[index, new] = found.packed
            self._is_known[new] = True
        out = []
        for index, of_class in enumerate(self._classes):
            packed = self._known[index, sizes[:small]]
            if small < sizes.size:
                large = _cell_moments(sizes[small:], self.num_rows, int(of_class), self._binary)
                packed = np.concatenate([packed, large.packed])
            out.append(CellMoments(packed))
        return out

    def by_size(self, known: int = KNOWN_SIZES) -> np.ndarray:
        """What a value of 0, 1, ... rows adds, [known + 1, 4]: to the mean, to the variance, to the
        linear part that values share, whose square is to be taken off the variance, and to the
        slope of the mean in the second class's share (of two classes).

        Beyond `known` they shrink with the rows that are left (`added` does that). Only the linear
        coupling of values is in them.
        """
        sizes = np.arange(1, min(known, self.num_rows) + 1)
        cells = self.cells(sizes)
        # Cells of one value depend on each other: of frequent values K - 1 degrees are left.
        alone = float(((1 - self.shares) ** 2).sum()) if len(cells) > 1 else 1.0
        factor = self.degrees / alone
        mean = np.sum([one.mean for one in cells], axis=0)
        variance = np.sum([one.variance for one in cells], axis=0) * factor
        linear = np.sum([one.coefficients[:, 0] for one in cells], axis=0)
        linear = linear * np.sqrt(sizes / np.maximum(self.num_rows - sizes, 1) * factor)
        if len(cells) > 1:  # of several classes the linear parts nearly cancel within a value
            linear = np.zeros_like(linear)
            variance -= np.sum([one.coefficients[:, 0] ** 2 for one in cells], axis=0) * factor
        table = np.stack([mean, variance, linear, self._slope(sizes, mean)], axis=1)
        return np.pad(np.pad(table, ((1, 0), (0, 0))), ((0, known - len(sizes)), (0, 0)), "edge")

    def _slope(self, sizes: np.ndarray, mean: np.ndarray) -> np.ndarray:
        """d mean / d share of the second class, by a difference; 0 for more classes than two."""
        first, second = self._counts[0], self._counts[-1]
        step = max(1, min(first, second) // 20)
        if not self._binary or first <= step:
            return np.zeros_like(mean)
        moved = InformationNull([first - step, second + step]).cells(sizes)[0].mean
        return (moved - mean) / (step / self.num_rows)

    def moments(self, value_counts: np.ndarray) -> NullMoments:
        """Null moments of the mutual information of a column, in nats.

        Args:
            value_counts: Rows of each value, [V]; they add up to n.
        """
        sizes, times = np.unique(np.asarray(value_counts, np.int64), return_counts=True)
        if sizes.size and sizes[0] == 0:
            sizes, times = sizes[1:], times[1:]
        if sizes.size == 1 and sizes[0] == self.num_rows:
            return NullMoments(0.0, 0.0, 0.0)
        cells = self.cells(sizes)
        ratio = sizes / (self.num_rows - sizes)  # squared coupling of a value
        mean = float(sum(times @ one.mean for one in cells))
        variance = float(sum(times @ one.variance for one in cells))
        for degree in range(1, DEGREE + 1):
            a = np.stack([one.coefficients[:, degree - 1] for one in cells], axis=1)  # [u, K]
            own = np.einsum("u,uk,ul->kl", times.astype(float), a, a)
            shared = np.einsum("u,uk,ul->kl", times * ratio**degree, a, a)
            sums = (times * ratio ** (degree / 2)) @ a
            sign = (-1.0) ** degree
            covariance = own + sign * (np.outer(sums, sums) - shared)
            # The own variance of every cell is in `variance` already, in full.
            variance += float((self._class_coupling**degree * covariance).sum()) - np.trace(own)
        third = self._third(sizes, times, cells)
        deviation = float(np.sqrt(max(variance, 0.0)))
        if deviation <= 1e-9 * max(mean, 1e-300):  # only unique values: nothing can vary
            return NullMoments(mean, 0.0, 0.0)
        return NullMoments(mean, deviation, third / deviation**3)

    def _third(self, sizes: np.ndarray, times: np.ndarray, cells: list[CellMoments]) -> float:
        share = sizes / self.num_rows
        quadratic = sum(one.coefficients[:, 1] for one in cells)
        scale = np.sqrt(2.0) * self.degrees * (1 - share)
        b = quadratic / np.where(scale > 0, scale, 1.0)
        trace = (
            times @ b**3
            - 3 * (times @ (b**3 * share))
            + 3 * (times @ (b**2 * share)) * (times @ (b * share))
            - (times @ (b * share)) ** 3
        )
        third = 8 * self.degrees * trace
        if self._binary:
            one = cells[0]
            weight = float(times @ one.spread**2)
            slope = float(times @ (one.coefficients[:, 0] * one.spread)) / weight if weight else 0.0
            own = one.third @ np.array([1.0, -3 * slope, 3 * slope**2, -(slope**3)])
            third += times @ (own - 8 * b**3 * (1 - share) ** 3)
        return float(third)


def _cell_moments(sizes: np.ndarray, num_rows: int, of_class: int, both: bool) -> CellMoments:
    """Moments of f_c for distinct c: by summing over the support, or by the expansion in 1/c."""
    n, q = num_rows, of_class / num_rows
    c = sizes.astype(np.float64)
    left = (n - c) / max(n - 1, 1)
    # Expansion: f = (c/n) d^2 w / 2 + ..., w = 1/q, or 1/(q(1 - q)) for both cells of two classes.
    degrees = 1.0 if both else 1 - q
    second = (1 / q + 1 / (1 - q) - 1) if both else (1 / q - q)
    mean = (left * degrees / 2 + left**2 * second / (12 * c)) / n
    quadratic = left * degrees / (np.sqrt(2) * n)
    spread = np.sqrt(c * q * (1 - q) * left)
    out = np.zeros((c.size, NUM_MOMENTS))
    out[:, 0], out[:, 1], out[:, 2] = mean, quadratic**2, spread
    out[:, 3] = (left * degrees / n) ** 3
    out[:, 5] = np.sqrt(2) * quadratic * spread**2
    out[:, 6] = spread**2 * (1 - 2 * q) * (n - 2 * c) / max(n - 2, 1)
    out[:, 8] = quadratic
    exact = np.flatnonzero(c * q * (1 - q) * left <= EXACT_VARIANCE)
    for start in range(0, exact.size, BLOCK):
        at = exact[start : start + BLOCK]
        out[at] = _summed(c[at], n, of_class, both)
    return CellMoments(out)


def _summed(c: np.ndarray, n: int, of_class: int, both: bool) -> np.ndarray:
    """The same by a sum over the hypergeometric support, cut ten deviations from the mean."""
    q = of_class / n
    deviation = np.sqrt(c * q * (1 - q) * (n - c) / max(n - 1, 1))
    low = np.maximum(np.maximum(0, c - (n - of_class)), np.floor(c * q - 10 * deviation - 25))
    high = np.minimum(np.minimum(c, of_class), np.ceil(c * q + 10 * deviation + 25))
    k = low[:, None] + np.arange(int((high - low).max()) + 1)[None, :]  # [u, W]
    inside = k <= high[:, None]
    k = np.minimum(k, high[:, None])
    size = c[:, None]
    log_mass = (
        gammaln(of_class + 1.0) - gammaln(k + 1) - gammaln(of_class - k + 1)
        + gammaln(n - of_class + 1.0) - gammaln(size - k + 1)
        - gammaln(n - of_class - size + k + 1)
    )  # fmt: skip
    log_mass = np.where(inside, log_mass, -np.inf)
    mass = np.exp(log_mass - log_mass.max(axis=1, keepdims=True))
    mass /= mass.sum(axis=1, keepdims=True)
    p = k / size
    f = _relative(p, q)
    if both:
        f = f + _relative(1 - p, 1 - q)
    f *= size / n
    mean = (mass * f).sum(axis=1)
    f -= mean[:, None]
    variance = (mass * f**2).sum(axis=1)
    d = k - (c * q)[:, None]
    third = np.stack([(mass * f ** (3 - i) * d**i).sum(axis=1) for i in range(4)], axis=1)
    coefficients = _project(mass, f, k, c * q, deviation)
    ends = np.stack([mean, variance, deviation], axis=1)
    return np.concatenate([ends, third, coefficients], axis=1)


def _relative(p: np.ndarray, q: float) -> np.ndarray:
    """p ln(p/q) - p + q, 0 ln 0 = 0."""
    return np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0) / q), 0.0) - p + q


def _project(
    mass: np.ndarray, f: np.ndarray, k: np.ndarray, mean: np.ndarray, deviation: np.ndarray
) -> np.ndarray:
    """Coefficients of f in the orthonormal polynomials of each row's distribution, [u, DEGREE]."""
    x = (k - mean[:, None]) / np.maximum(deviation, 1e-300)[:, None]
    basis = [np.ones_like(x)]
    out = np.zeros((len(x), DEGREE))
    for degree in range(1, DEGREE + 1):
        one = basis[-1] * x
        for _ in range(2):  # twice: the first sweep of Gram-Schmidt leaves rounding behind
            for other in basis:
                one = one - (mass * one * other).sum(axis=1, keepdims=True) * other
        norm = np.sqrt((mass * one**2).sum(axis=1, keepdims=True))
        # A support of m points has polynomials up to degree m - 1 only.
        one = np.where(norm > 1e-7, one / np.maximum(norm, 1e-300), 0.0)
        out[:, degree - 1] = (mass * f * one).sum(axis=1)
        basis.append(one)
    return out


def added(table: np.ndarray, sizes: np.ndarray, num_rows: int) -> np.ndarray:
    """Sum over values of what `InformationNull.by_size` says they add, [4].

    Args:
        table: Of `by_size`.
        sizes: Rows of each value, [V], rounded to whole rows.
        num_rows: Of the null.
    """
    sizes = np.rint(sizes).astype(np.int64)
    last = len(table) - 1
    left = (num_rows - sizes) / max(num_rows - last, 1)
    left = np.where(sizes > last, left, 1.0)
    found = table[np.minimum(sizes, last)]
    scale = np.stack([left, left**2, np.ones_like(left), left], axis=1)
    return (found * scale).sum(axis=0)
