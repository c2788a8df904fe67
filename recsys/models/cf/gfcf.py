"""GF-CF: the item graph once, and an ideal low-pass filter.

Source   Shen et al., "How Powerful is Graph Convolution for Recommendation?", CIKM 2021,
         arXiv:2108.07567, Eq. 10, and the authors' code.
Shapes   U users, I items, b users scored at a time, r singular vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.errors import ConfigError
from recsys.layers.fitted import Fitted
from recsys.layers.pair_graph import PairGraph
from recsys.layers.sparse_products import sparse_times_dense
from recsys.layers.spectral import singular_vectors
from recsys.models.collaborative import ClosedForm, Progress


class GFCF(Fitted, ClosedForm):
    """Scores = r (Rn' Rn + ideal Di^-1/2 V V' Di^1/2) for a user's row r.

    Args:
        rank: r, singular vectors of the ideal filter, from 1 to min(U, I).
        ideal: Weight of the ideal filter, >= 0; 0 leaves it out.

    Example:
        >>> import numpy as np
        >>> train = Pairs.of(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), 2, 3)
        >>> model = GFCF(2, 3, rank=1, ideal=0)
        >>> model.fit(train)
        >>> model.scores(torch.tensor([0]))
        tensor([[0.8536, 0.8536, 0.3536]])
    """

    vectors: Tensor

    def __init__(
        self, num_users: int, num_items: int, *, rank: int = 256, ideal: float = 0.3
    ) -> None:
        super().__init__(num_users, num_items)
        if rank < 1:
            raise ConfigError(f"cf.rank={rank}; it must be at least 1.")
        if not ideal >= 0:
            raise ConfigError(f"cf.ideal={ideal}; it must not be negative.")
        self.rank, self.ideal = rank, ideal
        self.graph = PairGraph(num_users, num_items)
        self.register_fitted("vectors", (num_items, None))

    def fit(self, train: Pairs, progress: Progress | None = None) -> None:
        self.graph.fit(train)
        vectors = torch.zeros(self.num_items, 0, device=self.vectors.device)
        if self.ideal:
            _, vectors = singular_vectors(self.graph, self.rank, progress=progress)
        self.set_fitted("vectors", vectors * self.graph.item_powers(0.5).unsqueeze(1))

    def scores(self, users: Tensor) -> Tensor:
        self.check_fitted()
        out = self.graph.filtered(users, [0.5, 0.5])  # T_0 / 2 + T_1(2 x - 1) / 2 = x
        if self.ideal:
            # The vectors carry Di^1/2; dividing by the degree leaves Di^-1/2.
            rows = self.graph.weighted_rows(users, self.graph.item_powers(-1.0))
            out.addmm_(sparse_times_dense(rows, self.vectors), self.vectors.T, alpha=self.ideal)
        return out
