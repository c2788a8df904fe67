"""Numeric columns: what is learnt from the training rows, and how it is applied.

    log       y = sign(x) log(1 + |x|),  (y - mean) / deviation     missing -> mean, that is 0
    standard  (x - mean) / deviation                                missing -> mean, that is 0
    minmax    (x - min) / (max - min), clipped to [0, 1]            missing -> the mean, scaled
    quantile  the bucket of x between the edges                     missing -> MISSING

All moments are float64; y of `log` is rounded to float32 before it is used. A constant column
becomes 0. Quantile edges are exact up to `SAMPLE_ROWS` training rows; beyond, they come from the
`SAMPLE_ROWS` rows whose index has the smallest fixed hash, a uniform sample that does not depend on
chunking (its rank error is below 0.3 %: five standard deviations of a share near one half).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recsys.data.hashing import mix64
from recsys.data.schema import MISSING, NUM_RESERVED, Encoding

SAMPLE_ROWS = 1 << 20


@dataclass(frozen=True)
class Scale:
    """A fitted numeric column.

    Args:
        encoding: Which formula.
        mean: Training mean of y (log) or x.
        deviation: Training standard deviation of y (log) or x; 1 for a constant column.
        low: Training minimum of y (log) or x.
        high: Training maximum of y (log) or x.
        edges: Quantile: increasing inner bucket edges; a value equal to an edge is above it.
    """

    encoding: Encoding
    mean: float = 0.0
    deviation: float = 1.0
    low: float = 0.0
    high: float = 0.0
    edges: tuple[float, ...] = ()

    @classmethod
    def from_dict(cls, raw: dict[str, Any]) -> Scale:
        """Inverse of `dataclasses.asdict`, through JSON."""
        rest = {**raw, "encoding": Encoding(raw["encoding"]), "edges": tuple(raw["edges"])}
        return cls(**rest)

    @property
    def size(self) -> int:
        """Quantile: number of codes, the reserved ones included."""
        return NUM_RESERVED + len(self.edges) + 1

    def apply(self, x: np.ndarray) -> np.ndarray:
        """float64 with NaN for missing -> float32 numbers, or int32 codes for quantile."""
        return self.finish(before_scaling(x, self.encoding))

    def finish(self, y: np.ndarray) -> np.ndarray:
        """As `apply`, of values that went through `before_scaling` already."""
        missing = np.isnan(y)
        if self.encoding is Encoding.QUANTILE:
            codes = np.searchsorted(np.asarray(self.edges), y, side="right") + NUM_RESERVED
            codes[missing] = MISSING
            return codes.astype(np.int32)
        if self.encoding is Encoding.MINMAX:
            span = (self.high - self.low) or 1.0
            y = np.clip((np.where(missing, self.mean, y) - self.low) / span, 0.0, 1.0)
            return y.astype(np.float32)
        dtype = y.dtype.type  # float32 for log, float64 else
        y = ((y - dtype(self.mean)) / dtype(self.deviation)).astype(np.float32, copy=False)
        np.copyto(y, 0.0, where=missing)
        return y


def before_scaling(x: np.ndarray, encoding: Encoding) -> np.ndarray:
    """What the mean and deviation are taken of: the logarithm for `log`, else the value."""
    if encoding is Encoding.LOG:
        y = np.abs(x)
        return np.copysign(np.log1p(y, out=y), x, out=y).astype(np.float32)
    return x


@dataclass
class Moments:
    """Sums over the training rows, one set per chunk, added at the end and rounded once.

    Chunks may arrive from threads and processes in any order and the result is the same to the last
    bit.
    """

    encoding: Encoding
    chunks: dict[int, tuple[int, float, float, float, float]] = field(default_factory=dict)

    def add(self, chunk: int, y: np.ndarray) -> None:
        """Add training values that went through `before_scaling`, none of them missing."""
        if not y.size:
            return
        low, high = float(y.min()), float(y.max())
        y = y.astype(np.float64)
        mean = float(y.mean())
        y -= mean
        self.chunks[chunk] = (y.size, mean, float(np.square(y, out=y).sum()), low, high)

    def merge(self, other: Moments) -> None:
        """Add the chunks of other training rows."""
        for part in other.chunks.values():
            self.chunks[len(self.chunks)] = part

    def scale(self) -> Scale | None:
        """Mean, deviation, minimum and maximum; None when no value was seen."""
        parts = [self.chunks[key] for key in sorted(self.chunks)]
        if not parts:
            return None
        count = sum(part[0] for part in parts)
        mean = math.fsum(part[0] * part[1] for part in parts) / count
        # Parallel variance: within the chunks, plus that of the chunk means.
        within = math.fsum(part[2] for part in parts)
        between = math.fsum(part[0] * (part[1] - mean) ** 2 for part in parts)
        deviation = math.sqrt((within + between) / count)
        low, high = min(part[3] for part in parts), max(part[4] for part in parts)
        constant = deviation <= 1e-12 * max(abs(mean), 1e-300) or low == high
        return Scale(self.encoding, mean, 1.0 if constant else deviation, low, high)


class RowSample:
    """The `limit` rows of smallest hash: all of them while they fit, then a uniform sample."""

    def __init__(self, num_columns: int, limit: int = SAMPLE_ROWS) -> None:
        self.limit = limit
        self._keys = np.empty(0, np.uint64)
        self._values = np.empty((num_columns, 0))

    def add(self, rows: np.ndarray, columns: list[np.ndarray]) -> None:
        """Offer training rows by index [B] and their values, one array [B] per column."""
        if not columns:
            return
        keys = mix64(rows.astype(np.uint64))
        if self._keys.size == self.limit:
            chosen = np.flatnonzero(keys < self._keys.max())
            keys, columns = keys[chosen], [column[chosen] for column in columns]
        self._keep(keys, np.stack(columns))

    def merge(self, other: RowSample) -> None:
        """Offer the sample of other training rows."""
        self._keep(other._keys, other._values)

    def _keep(self, keys: np.ndarray, values: np.ndarray) -> None:
        keys = np.concatenate([self._keys, keys])
        values = np.concatenate([self._values, values], axis=1)
        if keys.size > self.limit:
            kept = np.sort(np.argpartition(keys, self.limit - 1)[: self.limit])
            keys, values = keys[kept], values[:, kept]
        self._keys, self._values = keys, values

    def edges(self, column: int, num_buckets: int) -> tuple[float, ...]:
        """Distinct inner edges that cut the training values into equal shares."""
        x = self._values[column]
        x = x[~np.isnan(x)]
        if not x.size:
            return ()
        shares = np.arange(1, num_buckets) / num_buckets
        edges = np.unique(np.quantile(x, shares, method="higher"))
        return tuple(float(edge) for edge in edges if edge > x.min())
