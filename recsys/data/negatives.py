"""Negatives: items that a user has never touched, drawn at random."""

from __future__ import annotations

import numpy as np

from recsys.errors import SchemaError


def draw_untouched(
    users: np.ndarray,
    log_users: np.ndarray,
    log_items: np.ndarray,
    num_items: int,
    seed: int,
) -> np.ndarray:
    """For every user asked for, one item of `[0, num_items)` that is in none of its log's rows.

    Every item that is allowed has the same chance. A user asked for twice gets two draws, which
    may be equal.

    Args:
        users: Users to draw for [B], int64, >= 0.
        log_users: Users of the log [R], int64, >= 0.
        log_items: Items of the log [R], int64, in `[0, num_items)`.
        num_items: Number of items.
        seed: The same seed gives the same items.

    Returns:
        Items [B], int64.

    Raises:
        SchemaError: A user has touched every item.

    Example:
        >>> log_users, log_items = np.array([7, 7, 8]), np.array([0, 2, 1])
        >>> draw_untouched(np.array([7, 7]), log_users, log_items, num_items=3, seed=0)
        array([1, 1])
    """
    touched = np.unique(log_users * num_items + log_items)
    owners, counts = np.unique(touched // num_items, return_counts=True)
    full = np.intersect1d(owners[counts >= num_items], users)
    if full.size:
        raise SchemaError(
            f"user {full[0]} has touched all {num_items:,} items ({full.size} such users), so no "
            "negative can be drawn for it. Leave these users out, or give a log of more items."
        )
    rng = np.random.default_rng(seed)
    items = np.empty(len(users), np.int64)
    open_rows = np.arange(len(users))
    while open_rows.size:
        drawn = rng.integers(0, num_items, open_rows.size)
        pairs = users[open_rows] * num_items + drawn
        at = np.minimum(np.searchsorted(touched, pairs), len(touched) - 1)
        items[open_rows] = drawn
        open_rows = open_rows[touched[at] == pairs] if len(touched) else open_rows[:0]
    return items
