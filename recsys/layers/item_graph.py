"""The graph of items that share users, cut to the strongest neighbours of each item.

With G = R^T R (I x I: how many users have both items) and g its row sums, UltraGCN weighs a
neighbour by omega_ij = G_ij / g_i sqrt((g_i + 1) / (g_j + 1)). Rows of G are made one at a time
and cut at once, so that memory holds I x k numbers and time is the sum of squared user degrees.

Source   Mao et al., "UltraGCN", CIKM 2021, arXiv:2110.15114, Eq. 10-11.
Letters  U users, I items, E pairs, k neighbours kept.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recsys.data.pairs import Pairs
from recsys.errors import ConfigError
from recsys.native import load_kernel

BLOCK_COUNTS = 1 << 22  # of the plain form: 32 MiB of counts


@dataclass(frozen=True, eq=False)
class ItemGraph:
    """The strongest neighbours of every item.

    An item with fewer than k has itself in the remaining places, with weight 0.

    Shape:
        neighbors  [I, k]  int32, by descending weight; of equal weights the lower index first
        weights    [I, k]  float32, omega
    """

    neighbors: np.ndarray
    weights: np.ndarray


def item_graph(train: Pairs, num_neighbors: int, *, keep_diagonal: bool = True) -> ItemGraph:
    """The `num_neighbors` items of largest omega for every item.

    Args:
        train: Which items each user has.
        num_neighbors: k, at least 1; no more than there are items are found.
        keep_diagonal: Leave G_ii, the number of users an item has, in the graph: an item is then
            its own neighbour, as in the authors' settings. Without, row sums lack it too.

    Raises:
        ConfigError: num_neighbors is less than 1.

    Example:
        >>> users, items = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])
        >>> train = Pairs.of(users, items, num_users=2, num_items=3)
        >>> item_graph(train, 2).neighbors.tolist()
        [[0, 1], [1, 0], [2, 1]]
    """
    if num_neighbors < 1:
        raise ConfigError(f"num_neighbors is {num_neighbors}; it must be at least 1.")
    # Row sums of R^T R: an item's users' degrees, added up.
    others = train.user_degrees if keep_diagonal else train.user_degrees - 1
    spread = np.repeat(others, train.user_degrees)
    sums = np.zeros(train.num_items, np.int64)
    np.add.at(sums, train.items, spread)
    find = _find_plain if item_graph_kernel() is None else _find_by_kernel
    neighbors, counts = find(train, sums, num_neighbors, keep_diagonal)
    own = np.sqrt(sums + 1.0) / np.maximum(sums, 1)
    weights = counts * own[:, None] / np.sqrt(sums[neighbors] + 1.0)
    return ItemGraph(neighbors, weights.astype(np.float32))


def _find_by_kernel(
    train: Pairs, sums: np.ndarray, k: int, keep_diagonal: bool
) -> tuple[np.ndarray, np.ndarray]:
    kernel = item_graph_kernel()
    assert kernel is not None
    turned = train.transposed()
    read: list[np.ndarray] = [
        np.ascontiguousarray(turned.offsets, np.int64),
        np.ascontiguousarray(turned.items, np.int32),
        np.ascontiguousarray(train.offsets, np.int64),
        np.ascontiguousarray(train.items, np.int32),
        sums,
    ]
    neighbors = np.empty((train.num_items, k), np.int32)
    counts = np.empty_like(neighbors)
    kernel.strongest_neighbours(
        train.num_items,
        k,
        *(array.ctypes.data for array in read),
        keep_diagonal,
        neighbors.ctypes.data,
        counts.ctypes.data,
        torch.get_num_threads(),
    )
    return neighbors, counts


def _find_plain(
    train: Pairs, sums: np.ndarray, k: int, keep_diagonal: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The kernel in NumPy, a block of rows at a time."""
    num_items = train.num_items
    turned = train.transposed()
    neighbors = np.repeat(np.arange(num_items, dtype=np.int32)[:, None], k, axis=1)
    counts = np.zeros((num_items, k), np.int32)
    height = max(1, BLOCK_COUNTS // max(num_items, 1))
    for start in range(0, num_items, height):
        stop = min(start + height, num_items)
        shared = np.zeros((stop - start, num_items), np.int32)
        for row in range(start, stop):
            for user in turned.of_user(row):
                shared[row - start, train.of_user(user)] += 1
            if not keep_diagonal:
                shared[row - start, row] = 0
        # Squares of integers over integers: equal fractions are equal numbers, so ties are exact.
        strength = shared.astype(np.float64) ** 2 / (sums + 1.0)
        best = np.argsort(-strength, axis=1, kind="stable")[:, :k]
        found = np.take_along_axis(shared, best, axis=1)
        width = best.shape[1]
        own = neighbors[start:stop, :width]
        neighbors[start:stop, :width] = np.where(found > 0, best, own)
        counts[start:stop, :width] = found
    return neighbors, counts


@functools.cache
def item_graph_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is not None:
        i32, i64, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
        find = library.strongest_neighbours
        find.argtypes, find.restype = [i64, i64, *5 * [ptr], i32, *2 * [ptr], i32], None
    return library
