"""ItemKNN: items like those that the user has, by the cosine of their sets of users.

Source   Deshpande and Karypis, TOIS 2004; shrinkage as in Bell and Koren, ICDM 2007.
Differs  Similarities keep their size: rows of neighbours are not brought to length one.
Shapes   U users, I items, k neighbours, b users scored at a time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.errors import ConfigError
from recsys.layers.fitted import Fitted
from recsys.layers.pair_graph import PairGraph
from recsys.layers.sparse_products import SparseRows, sparse_times_sparse
from recsys.models.collaborative import ClosedForm, Progress

BLOCK = 64  # items whose similarities to all others are held at a time


class ItemKNN(Fitted, ClosedForm):
    """Score of an item = sum of its similarities to the user's items whose neighbour it is.

    similarity(i, j) = users of both / (sqrt(users of i * users of j) + shrinkage), kept for the k
    items j of highest similarity to each item i, which is no neighbour of its own.

    Args:
        num_neighbors: k, >= 1.
        shrinkage: Added to the divisor, >= 0: takes weight from items with few users.

    Example:
        >>> import numpy as np
        >>> train = Pairs.of(np.array([0, 0, 1]), np.array([0, 1, 1]), 2, 3)
        >>> model = ItemKNN(2, 3)
        >>> model.fit(train)
        >>> model.scores(torch.tensor([1]))
        tensor([[0.7071, 0.0000, 0.0000]])
    """

    neighbors: Tensor
    similarities: Tensor

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *,
        num_neighbors: int = 100,
        shrinkage: float = 0.0,
    ) -> None:
        super().__init__(num_users, num_items)
        if num_neighbors < 1:
            raise ConfigError(f"cf.num_neighbors={num_neighbors}; it must be at least 1.")
        if not shrinkage >= 0:
            raise ConfigError(f"cf.shrinkage={shrinkage}; it must not be negative.")
        self.shrinkage = shrinkage
        self.num_neighbors = min(num_neighbors, num_items)
        self.graph = PairGraph(num_users, num_items)
        self.register_fitted("neighbors", (num_items, self.num_neighbors), torch.int32)
        self.register_fitted("similarities", (num_items, self.num_neighbors))

    def fit(self, train: Pairs, progress: Progress | None = None) -> None:
        self.graph.fit(train)
        neighbors, similarities = [], []
        lengths = self.graph.item_powers(0.5)
        items = torch.arange(self.num_items, device=lengths.device)
        for block in items.split(BLOCK):
            shared = sparse_times_sparse(self.graph.of_items.take(block), self.graph.of_users)
            shared /= torch.outer(lengths[block], lengths) + self.shrinkage
            shared[torch.arange(len(block)), block] = 0
            best = shared.topk(self.num_neighbors)
            neighbors.append(best.indices.int())
            similarities.append(best.values)
            if progress is not None:
                progress(int(block[-1]) + 1, self.num_items)
        self.set_fitted("neighbors", torch.cat(neighbors))
        self.set_fitted("similarities", torch.cat(similarities))

    def scores(self, users: Tensor) -> Tensor:
        self.check_fitted()
        k = self.num_neighbors
        offsets = torch.arange(self.num_items + 1, device=self.neighbors.device) * k
        similar = SparseRows(
            offsets, self.neighbors.view(-1), self.num_items, self.similarities.view(-1)
        )
        return sparse_times_sparse(self.graph.of_users.take(users), similar)
