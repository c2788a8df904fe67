"""Turbo-CF: a polynomial of an item graph whose normalisation and contrast are tuned.

Source   Park et al., SIGIR 2024, arXiv:2404.14243, Eq. 4-8, and the authors' code.
Differs  Nothing I x I is dense: with power 1 the graph is only ever multiplied as Rn' Rn, otherwise
         its non-zero entries are kept. The filter of third order is left out: the authors' best
         settings do not use it.
Shapes   U users, I items, b users scored at a time, Z non-zero entries of P.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.errors import ConfigError
from recsys.layers.fitted import Fitted
from recsys.layers.pair_graph import BLOCK, PairGraph
from recsys.layers.sparse_products import SparseRows, sparse_times_dense, sparse_times_sparse
from recsys.models.collaborative import ClosedForm, Progress

CHEBYSHEV = {1: [0.5, 0.5], 2: [0.625, 0.5, -0.125]}
"""x and 2 x - x^2 in Chebyshev polynomials on [0, 1]."""


class TurboCF(Fitted, ClosedForm):
    """Scores = r P or r (2 P - P^2) for a user's row r, with P = (Rn' Rn)^power entry by entry.

    Rn = Du^-alpha R Di^-(1 - alpha).

    Args:
        alpha: How much of the normalisation falls to users, in [0, 1].
        power: Exponent of the graph's entries, > 0. Only at 1 is memory in proportion to the pairs.
        order: 1 for r P, 2 for r (2 P - P^2).

    Example:
        >>> import numpy as np
        >>> train = Pairs.of(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), 2, 3)
        >>> model = TurboCF(2, 3, alpha=0.5, power=1.0)
        >>> model.fit(train)
        >>> model.scores(torch.tensor([0]))
        tensor([[0.8536, 0.8536, 0.3536]])
    """

    item_offsets: Tensor
    item_columns: Tensor
    item_values: Tensor

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *,
        alpha: float = 0.6,
        power: float = 0.7,
        order: int = 1,
    ) -> None:
        super().__init__(num_users, num_items)
        if not 0 <= alpha <= 1:
            raise ConfigError(f"cf.alpha={alpha}; it must be from 0 to 1.")
        if not power > 0:
            raise ConfigError(f"cf.power={power}; it must be positive.")
        if order not in CHEBYSHEV:
            raise ConfigError(f"cf.order={order}; it must be 1 or 2.")
        self.alpha, self.power, self.order = alpha, power, order
        self.graph = PairGraph(num_users, num_items)
        if power != 1:
            self.register_fitted("item_offsets", (num_items + 1,), torch.int64)
            self.register_fitted("item_columns", (None,), torch.int32)
            self.register_fitted("item_values", (None,))

    def fit(self, train: Pairs, progress: Progress | None = None) -> None:
        self.graph.fit(train)
        if self.power == 1:
            return
        graph = self.graph
        degrees, columns, values = [], [], []
        user_weights = graph.user_powers(-2 * self.alpha)
        scale = graph.item_powers(self.alpha - 1)
        of_items = graph.of_items._replace(values=user_weights[graph.item_users.long()])
        for block in torch.arange(self.num_items, device=scale.device).split(64):
            shared = sparse_times_sparse(of_items.take(block), graph.of_users)
            some, other = shared.nonzero(as_tuple=True)
            degrees.append(some.bincount(minlength=len(block)))
            columns.append(other.int())
            entries = shared[some, other] * scale[block][some] * scale[other]
            values.append(entries.pow_(self.power))
            if progress is not None:
                progress(int(block[-1]) + 1, self.num_items)
        offsets = torch.cat(degrees).cumsum(0)
        self.set_fitted("item_offsets", torch.cat([offsets.new_zeros(1), offsets]))
        self.set_fitted("item_columns", torch.cat(columns))
        columns.clear()
        self.set_fitted("item_values", torch.cat(values))

    def scores(self, users: Tensor) -> Tensor:
        self.check_fitted()
        if self.power == 1:
            return self.graph.filtered(
                users,
                CHEBYSHEV[self.order],
                user_power=self.alpha,
                item_power=1 - self.alpha,
            )
        similar = SparseRows(self.item_offsets, self.item_columns, self.num_items, self.item_values)
        out = sparse_times_sparse(self.graph.of_users.take(users), similar)
        if self.order == 2:
            for rows in out.split(BLOCK):
                # P is symmetric: r P P = (P (r P)')'.
                once = rows.T.contiguous()
                rows.copy_(sparse_times_dense(similar, once, alpha=-1, plus=once, beta=2).T)
        return out
