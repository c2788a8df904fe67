"""A set of user-item pairs: what collaborative filtering learns from, and is tested on.

Stored as rows of sorted items, without values: 4 bytes a pair and 8 a user.

Letters   U users, I items, E pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.errors import SchemaError


@dataclass(frozen=True, eq=False)
class Pairs:
    """Which items each user has, every pair once.

        offsets  0    2  2      5      three users with 2, 0 and 3 items
        items    1 4  |  | 0 1 7

    Args:
        offsets: [U + 1] int64, starts at 0.
        items: [E] int32, ascending within each user.
        num_items: I.

    Example:
        >>> users, items = np.array([2, 0, 2, 2]), np.array([7, 4, 1, 7])
        >>> pairs = Pairs.of(users, items, num_users=3, num_items=8)
        >>> pairs.offsets, pairs.items
        (array([0, 1, 1, 3]), array([4, 1, 7], dtype=int32))
    """

    offsets: np.ndarray
    items: np.ndarray
    num_items: int
    num_users: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "num_users", len(self.offsets) - 1)

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def of(cls, users: np.ndarray, items: np.ndarray, num_users: int, num_items: int) -> Pairs:
        """The set of some pairs in any order, repeats counted once.

        Args:
            users: [n] integers in `[0, num_users)`.
            items: [n] integers in `[0, num_items)`.
            num_users: U.
            num_items: I.

        Raises:
            SchemaError: a user or an item is out of range.
        """
        for name, found, size in (("user", users, num_users), ("item", items, num_items)):
            if len(found) and (found.min() < 0 or found.max() >= size):
                raise SchemaError(
                    f"{name} codes run from {found.min()} to {found.max()}, but there are {size:,} "
                    f"{name}s: allowed are 0 to {size - 1}."
                )
        keys = np.unique(users.astype(np.int64) * max(num_items, 1) + items)
        rows, columns = np.divmod(keys, max(num_items, 1))
        return cls(_offsets(rows, num_users), columns.astype(np.int32), num_items)

    @property
    def users(self) -> np.ndarray:
        """The user of every pair, [E] int32, ascending."""
        return np.repeat(np.arange(self.num_users, dtype=np.int32), self.user_degrees)

    @property
    def user_degrees(self) -> np.ndarray:
        """How many items each user has, [U] int64."""
        return np.diff(self.offsets)

    @property
    def item_degrees(self) -> np.ndarray:
        """How many users each item has, [I] int64."""
        return np.bincount(self.items, minlength=self.num_items)

    def of_user(self, user: int) -> np.ndarray:
        """The items of one user, ascending, [n] int32; a view."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def transposed(self) -> Pairs:
        """The same pairs as users of each item."""
        order = np.argsort(self.items, kind="stable")
        offsets = _offsets(self.items[order], self.num_items)
        return Pairs(offsets, self.users[order], self.num_users)

    def keys(self) -> np.ndarray:
        """`user * I + item` of every pair, ascending, [E] int64."""
        return self.users.astype(np.int64) * max(self.num_items, 1) + self.items

    def contains(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether each of some pairs [n] is in the set, [n] bool."""
        wanted = users.astype(np.int64) * max(self.num_items, 1) + items
        keys = self.keys()
        if not len(keys):
            return np.zeros(len(wanted), bool)
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.asarray(keys[at] == wanted)

    def taken(self, mask: np.ndarray) -> Pairs:
        """The pairs that a mask [E] selects."""
        return Pairs(_offsets(self.users[mask], self.num_users), self.items[mask], self.num_items)

    def split(
        self, share: float, seed: int, order: np.ndarray | None = None
    ) -> tuple[Pairs, Pairs]:
        """A part of every user's items taken out: floor(share * n + uniform) of n, so that the
        share holds on average for users of few items too, and at least one is left.

        Args:
            share: Of each user's items, on average.
            seed: Of the choice, and of that among equal places.
            order: [E] numbers; those of each user where they are largest are taken out. None: any.

        Returns:
            What is left, and what was taken out.

        Raises:
            SchemaError: the share is not between 0 and 1.
        """
        if not 0 < share < 1:
            raise SchemaError(f"share={share}; it must lie between 0 and 1.")
        rng = np.random.default_rng(seed)
        degrees = self.user_degrees
        wanted = np.floor(share * degrees + rng.random(self.num_users)).astype(np.int64)
        wanted = np.minimum(wanted, np.maximum(degrees - 1, 0))
        # Rank of each pair among its user's pairs.
        any_order = rng.random(len(self))
        keys = (any_order,) if order is None else (any_order, -order)
        ranked = np.lexsort((*keys, self.users))
        rank = np.empty(len(self), np.int64)
        rank[ranked] = np.arange(len(self)) - np.repeat(self.offsets[:-1], degrees)
        taken = rank < np.repeat(wanted, degrees)
        return self.taken(~taken), self.taken(taken)

    @classmethod
    def union(cls, parts: Sequence[Pairs]) -> Pairs:
        """The pairs that are in any of several sets over the same users and items."""
        users = np.concatenate([part.users for part in parts])
        items = np.concatenate([part.items for part in parts])
        return cls.of(users, items, parts[0].num_users, parts[0].num_items)


def _offsets(sorted_rows: np.ndarray, num_rows: int) -> np.ndarray:
    counts = np.bincount(sorted_rows, minlength=num_rows)
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
