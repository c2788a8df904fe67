"""SimGCL: LightGCN whose two noisy views of each user and item must agree.

Source   Yu et al., SIGIR 2022, arXiv:2112.08679, Eq. 2, 7-9.
Differs  The L2 term is LightGCN's, squared first-layer vectors; the authors' code takes norms of
         propagated ones. Why: that loses recall. Negatives are not part of the contrast, as in the
         authors' code.
Shapes   U users, I items, D embedding, B rows of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.data.pairs import Pairs
from recsys.data.triple_sampler import Sampling
from recsys.data.triples import Triples
from recsys.layers.contrast import info_nce
from recsys.layers.pairwise import BatchRows, bpr_loss, squared_norms
from recsys.layers.propagation import Graph, LayerSum
from recsys.layers.row_noise import Noise
from recsys.models.collaborative import EmbeddingModel


class SimGCL(EmbeddingModel):
    """The mean of layers 1 to K for ranking; two means with noise in every layer for the contrast.

    Args:
        train: The pairs to learn from; they are the graph.
        embed_dim: Width of the vectors, D.
        num_layers: Steps of propagation, K.
        l2: Weight of the batch's squared first-layer vectors, (|u|^2 + |i|^2 + |j|^2) / 2.
        contrast: Weight of the contrastive loss of users plus that of items.
        temperature: What cosines are divided by.
        eps: Length of the noise added to every layer of a view.

    Shape:
        return  [U, D] and [I, D]  float32

    Example:
        >>> import numpy as np
        >>> train = Pairs.of(np.array([0, 1, 2]), np.array([0, 1, 1]), num_users=3, num_items=2)
        >>> SimGCL(train, embed_dim=4).scores(torch.tensor([2, 0])).shape
        torch.Size([2, 2])
    """

    sampling: Sampling = Sampling(draw="pairs", negatives=1, reject=True)

    def __init__(
        self,
        train: Pairs,
        *,
        embed_dim: int = 64,
        num_layers: int = 3,
        l2: float = 1e-4,
        contrast: float = 0.5,
        temperature: float = 0.2,
        eps: float = 0.1,
    ) -> None:
        super().__init__(train, embed_dim)
        self.graph = Graph(train)
        self.num_layers = num_layers
        self.l2 = l2
        self.contrast = contrast
        self.temperature = temperature
        self.eps = eps
        self.users = nn.Parameter(torch.empty(train.num_users, embed_dim))
        self.items = nn.Parameter(torch.empty(train.num_items, embed_dim))
        nn.init.xavier_uniform_(self.users)
        nn.init.xavier_uniform_(self.items)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.graph.propagate(self.users, self.items, [self._mean()])[0]

    def losses(self, batch: Triples) -> dict[str, Tensor]:
        rows = BatchRows.of(batch)
        views = [self._mean(Noise.draw(self.eps)) for _ in range(2)]
        wanted = [self._mean(), LayerSum.single(0), *views]
        final, ego, first, second = self.graph.propagate(self.users, self.items, wanted, rows.once)
        positives = rows.positives_once
        contrast = info_nce(first.users, second.users, self.temperature) + info_nce(
            first.items[positives], second.items[positives], self.temperature
        )
        return {
            "bpr": bpr_loss(rows, final),
            "l2": self.l2 * squared_norms(rows, ego),
            "contrast": self.contrast * contrast,
        }

    def _mean(self, noise: Noise | None = None) -> LayerSum:
        return LayerSum.mean(self.num_layers, skip_ego=True, noise=noise)
