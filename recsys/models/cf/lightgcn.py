"""LightGCN: vectors averaged over the layers of a graph, without weights or activations.

Source   He et al., SIGIR 2020, arXiv:2002.02126, Eq. 3-8, 15.
Differs  The L2 term is that of the authors' code: squared first-layer vectors of the batch over
         twice its rows, where the paper's Eq. 15 has the whole matrix.
Shapes   U users, I items, D embedding, B rows of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.data.pairs import Pairs
from recsys.data.triple_sampler import Sampling
from recsys.data.triples import Triples
from recsys.layers.pairwise import BatchRows, bpr_loss, squared_norms
from recsys.layers.propagation import Graph, LayerSum
from recsys.models.collaborative import EmbeddingModel


class LightGCN(EmbeddingModel):
    """The mean of a vector's own and of what its neighbours of 1 to K steps send.

    Args:
        train: The pairs to learn from; they are the graph.
        embed_dim: Width of the vectors, D.
        num_layers: Steps of propagation, K.
        l2: Weight of the batch's squared first-layer vectors, (|u|^2 + |i|^2 + |j|^2) / 2.
        init_std: Standard deviation of the first vectors.

    Shape:
        return  [U, D] and [I, D]  float32

    Example:
        >>> import numpy as np
        >>> train = Pairs.of(np.array([0, 1, 2]), np.array([0, 1, 1]), num_users=3, num_items=2)
        >>> LightGCN(train, embed_dim=4).scores(torch.tensor([2, 0])).shape
        torch.Size([2, 2])
    """

    sampling: Sampling = Sampling(draw="users", negatives=1, reject=True)

    def __init__(
        self,
        train: Pairs,
        *,
        embed_dim: int = 64,
        num_layers: int = 3,
        l2: float = 1e-4,
        init_std: float = 0.1,
    ) -> None:
        super().__init__(train, embed_dim)
        self.graph = Graph(train)
        self.l2 = l2
        self.mean = LayerSum.mean(num_layers)  # Eq. 8 with alpha_k = 1 / (K + 1)
        self.users = nn.Parameter(torch.randn(train.num_users, embed_dim) * init_std)
        self.items = nn.Parameter(torch.randn(train.num_items, embed_dim) * init_std)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.graph.propagate(self.users, self.items, [self.mean])[0]

    def losses(self, batch: Triples) -> dict[str, Tensor]:
        rows = BatchRows.of(batch)
        wanted = [self.mean, LayerSum.single(0)]
        final, ego = self.graph.propagate(self.users, self.items, wanted, rows.once)
        return {
            "bpr": bpr_loss(rows, final),
            "l2": self.l2 * squared_norms(rows, ego),
        }
