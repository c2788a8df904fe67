"""The graph of user-item pairs, and polynomials of its normalised form applied to users' rows.

Closed forms of collaborative filtering multiply a user's row by polynomials of A = Rn' Rn, where
Rn = Du^-a R Di^-c. A itself is never made: rows are multiplied by Rn and Rn', as columns of a
narrow matrix that stays in cache.

Letters   U users, I items, E pairs, b users scored at a time, W columns of a block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.errors import SchemaError
from recsys.layers.fitted import Fitted
from recsys.layers.sparse_products import (
    SparseRows,
    scaled_transpose,
    sparse_times_dense,
    sparse_times_sparse,
)

BLOCK = 32
"""Users side by side: 128 bytes of each row, so that all rows lie in a processor's last cache."""


def check_sizes(train: Pairs, num_users: int, num_items: int) -> None:
    """Raise SchemaError where pairs are of other numbers of users or items than a model."""
    if (train.num_users, train.num_items) != (num_users, num_items):
        raise SchemaError(
            f"the pairs are of {train.num_users:,} users and {train.num_items:,} items, the model "
            f"is of {num_users:,} and {num_items:,}: make one of their sizes."
        )


class PairGraph(Fitted):
    """Pairs as rows of users and as rows of items, as buffers: 8 bytes a pair.

    Args:
        num_users: U.
        num_items: I.
    """

    user_offsets: Tensor
    user_items: Tensor
    item_offsets: Tensor
    item_users: Tensor

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__()
        self.num_users = num_users
        self.num_items = num_items
        self.register_fitted("user_offsets", (num_users + 1,), torch.int64)
        self.register_fitted("user_items", (None,), torch.int32)
        self.register_fitted("item_offsets", (num_items + 1,), torch.int64)
        self.register_fitted("item_users", (None,), torch.int32)

    def fit(self, train: Pairs) -> None:
        """Take over some pairs.

        Raises:
            SchemaError: they are pairs of other numbers of users or items.
        """
        check_sizes(train, self.num_users, self.num_items)
        by_item = train.transposed()
        for side, pairs in (("user", train), ("item", by_item)):
            self.set_fitted(f"{side}_offsets", torch.from_numpy(pairs.offsets))
        self.set_fitted("user_items", torch.from_numpy(train.items))
        self.set_fitted("item_users", torch.from_numpy(by_item.items))

    @property
    def of_users(self) -> SparseRows:
        """R, [U, I]."""
        return SparseRows(self.user_offsets, self.user_items, self.num_items)

    @property
    def of_items(self) -> SparseRows:
        """R', [I, U]."""
        return SparseRows(self.item_offsets, self.item_users, self.num_users)

    def user_powers(self, exponent: float) -> Tensor:
        """Degree of each user to a power, [U] float32; 1 where it is 0."""
        return self.user_offsets.diff().clamp_min(1).double().pow(exponent).float()

    def item_powers(self, exponent: float) -> Tensor:
        """Degree of each item to a power, [I] float32; 1 where it is 0."""
        return self.item_offsets.diff().clamp_min(1).double().pow(exponent).float()

    def weighted_rows(self, users: Tensor, weights: Tensor) -> SparseRows:
        """Rows of R of some users [b], every pair with its item's weight of [I]."""
        rows = self.of_users.take(users)
        return rows._replace(values=weights[rows.columns.long()])

    def filtered(
        self,
        users: Tensor,
        coefficients: Sequence[float],
        *,
        bound: float = 1.0,
        user_power: float = 0.5,
        item_power: float = 0.5,
        before: Tensor | None = None,
        after: Tensor | None = None,
    ) -> Tensor:
        """Rows of R times before, p(A) and after, where A = Di^-c R' Du^-2a R Di^-c.

        p(x) = sum of coefficients[k] * T_k(2 x / bound - 1), Chebyshev polynomials on [0, bound].

        Args:
            users: [b] int64.
            coefficients: One for each degree, at least one.
            bound: End of the interval on which the polynomials are between -1 and 1.
            user_power: a.
            item_power: c.
            before: [I] factors of the items on the way in; ones by default.
            after: [I] factors of the items on the way out; ones by default.

        Returns:
            [b, I] float32
        """
        self.check_fitted()
        # In terms of z = Di^-c x a product with A is z -> Di^-2c R' Du^-2a R z: one factor for
        # each row of each product.
        inward, outward = self.item_powers(-item_power), self.item_powers(item_power)
        inward = inward if before is None else inward * before
        outward = outward if after is None else outward * after
        scales = self.user_powers(-2 * user_power), self.item_powers(-2 * item_power)
        out = torch.empty(len(users), self.num_items, device=inward.device)
        width = BLOCK if out.device.type == "cpu" else max(len(users), 1)
        for start in range(0, len(users), width):
            part = slice(start, start + width)
            signal = self.weighted_rows(users[part], inward)
            filtered = self._polynomial(signal, coefficients, bound, *scales)
            scaled_transpose(filtered, outward, out[part])
        return out

    def polynomial(self, x: Tensor, coefficients: Sequence[float]) -> Tensor:
        """p(A) x for any columns x [I, W], with a = c = 1/2 and Chebyshev polynomials on [0, 1]."""
        users, items = self.user_powers(-1.0), self.item_powers(-1.0)
        signal = x * self.item_powers(-0.5).unsqueeze(1)
        newer, older = signal * coefficients[-1], torch.zeros_like(signal)
        for k in range(len(coefficients) - 2, -1, -1):
            twice = 2.0 if k else 1.0
            hidden = sparse_times_dense(self.of_users, newer, scale=users)
            older = sparse_times_dense(
                self.of_items,
                hidden,
                scale=items,
                alpha=twice * 2,
                plus=newer,
                beta=-twice,
                plus_too=older,
                gamma=-1.0,
                out=older,
            ).add_(signal, alpha=coefficients[k])
            newer, older = older, newer
        return newer.mul_(self.item_powers(0.5).unsqueeze(1))

    def _polynomial(
        self,
        signal: SparseRows,
        coefficients: Sequence[float],
        bound: float,
        user_scale: Tensor,
        item_scale: Tensor,
    ) -> Tensor:
        """p(A) of sparse rows [W, I] in terms of z, as columns [I, W], by Clenshaw's recurrence:
        y_k = c_k s + 2 t(y_k+1) - y_k+2 with t(y) = 2 / bound A y - y, and half of t at k = 0."""
        width, degree = signal.num_rows, len(coefficients) - 1
        places = signal.columns.long() * width + signal.rows()

        def add_signal(y: Tensor | None, factor: float) -> Tensor:
            if y is None:
                y = item_scale.new_zeros(self.num_items, width)
            assert signal.values is not None
            y.view(-1).index_add_(0, places, signal.values, alpha=factor)
            return y

        if degree == 0:
            return add_signal(None, coefficients[0])
        # y_K = c_K s is sparse: its product with R touches few users, and makes half a product
        # almost free.
        hidden = sparse_times_sparse(signal, self.of_items).mul_(user_scale).T.contiguous()
        last = coefficients[degree]
        twice = 1.0 if degree == 1 else 2.0
        newer = sparse_times_dense(
            self.of_items, hidden, scale=item_scale, alpha=twice * 2 / bound * last
        )
        newer = add_signal(newer, coefficients[degree - 1] - twice * last)
        older = add_signal(None, last) if degree > 1 else None
        for k in range(degree - 2, -1, -1):
            twice = 2.0 if k else 1.0
            sparse_times_dense(self.of_users, newer, scale=user_scale, out=hidden)
            older = sparse_times_dense(
                self.of_items,
                hidden,
                scale=item_scale,
                alpha=twice * 2 / bound,
                plus=newer,
                beta=-twice,
                plus_too=older,
                gamma=-1.0,
                out=older,
            )
            newer, older = add_signal(older, coefficients[k]), newer
        return newer
