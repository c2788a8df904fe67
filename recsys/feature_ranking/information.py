"""Plug-in mutual information of tables of counts."""

from __future__ import annotations

import math

import numpy as np

DENSE_COUNTS = 1 << 20
"""Counts below it are tallied in an array, others by sorting."""


LOG_TABLE = 1 << 16


def log_table() -> np.ndarray:
    """k ln k for k below `LOG_TABLE`, which the kernels look up."""
    return x_log_x(np.arange(LOG_TABLE))


def add_up(table: np.ndarray, axis: int) -> np.ndarray:
    """Sum over a short axis, a handful of classes or parts; whole numbers as int64.

    Entry by entry: numpy's own reduction pays for every short run that it adds up.
    """
    parts = np.moveaxis(table, axis, 0)
    total = parts[0].astype(np.int64 if table.dtype.kind == "i" else table.dtype)
    for part in parts[1:]:
        total += part
    return total


def entropy(size: np.ndarray) -> float:
    """Of counts, in nats."""
    n = float(size.sum())
    return math.log(n) - float(x_log_x(size).sum()) / n


def mutual_information(table: np.ndarray) -> float:
    """Plug-in mutual information of a table of counts [V, K], in nats.

    Sums go over distinct counts, so neither the order of values nor that of rows changes a bit.

    Example:
        >>> round(mutual_information(np.array([[2, 0], [0, 2]])), 6) == round(math.log(2), 6)
        True
    """
    n = float(table.sum())
    if not n:
        return 0.0
    total = _sum_x_log_x(table) - _sum_x_log_x(add_up(table, 1)) - _sum_x_log_x(table.sum(axis=0))
    return max((total + n * math.log(n)) / n, 0.0)


def _sum_x_log_x(x: np.ndarray) -> float:
    x = np.ravel(x)
    if x.dtype.kind == "i" and int(x.max(initial=0)) < DENSE_COUNTS:
        times = np.bincount(x)
        values = np.flatnonzero(times)
        return float(times[values] @ x_log_x(values))
    values, times = np.unique(x, return_counts=True)
    return float(times @ x_log_x(values))


def x_log_x(x: np.ndarray) -> np.ndarray:
    """x ln x, 0 for 0."""
    x = np.asarray(x, np.float64)
    return x * np.log(np.where(x > 0, x, 1.0))


def standard_error(table: np.ndarray, information: float) -> float:
    """Delta method: the deviation of ln p(x, y) / (p(x) p(y)) over the root of n."""
    n = table.sum()
    some = table > 0
    expected = add_up(table, 1)[:, None] * (table.sum(axis=0) / n)
    ratio = np.log(table[some] / expected[some])
    second = float((table[some] * ratio**2).sum() / n)
    return math.sqrt(max(second - information**2, 0.0) / n)
