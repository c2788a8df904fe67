"""BPR-MF: matrix factorisation that learns to rank pairs of items.

Source   Rendle et al., UAI 2009, arXiv:1205.2618.
Differs  Adam on batches instead of single steps, and triples as LightGCN draws them, so that the
         two differ by the graph alone. No item biases, as in LightGCN's comparison.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.data.pairs import Pairs
from recsys.data.triple_sampler import Sampling
from recsys.data.triples import Triples
from recsys.layers.pairwise import BatchRows, bpr_loss, squared_norms
from recsys.layers.propagation import Both
from recsys.models.collaborative import EmbeddingModel


class BPRMF(EmbeddingModel):
    """A vector for each user and item.

    Args:
        train: The pairs to learn from; their numbers of users and items are all that is used.
        embed_dim: Width of the vectors, D.
        l2: Weight of the batch's squared vectors, (|u|^2 + |i|^2 + |j|^2) / 2.
        init_std: Standard deviation of the first vectors.

    Shape:
        return  [U, D] and [I, D]  float32

    Example:
        >>> import numpy as np
        >>> train = Pairs.of(np.array([0, 1, 2]), np.array([0, 1, 1]), num_users=3, num_items=2)
        >>> BPRMF(train, embed_dim=4).scores(torch.tensor([2, 0])).shape
        torch.Size([2, 2])
    """

    sampling: Sampling = Sampling(draw="users", negatives=1, reject=True)

    def __init__(
        self, train: Pairs, *, embed_dim: int = 64, l2: float = 1e-4, init_std: float = 0.1
    ) -> None:
        super().__init__(train, embed_dim)
        self.l2 = l2
        self.users = nn.Parameter(torch.randn(train.num_users, embed_dim) * init_std)
        self.items = nn.Parameter(torch.randn(train.num_items, embed_dim) * init_std)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.users, self.items

    def losses(self, batch: Triples) -> dict[str, Tensor]:
        rows = BatchRows.of(batch)
        once = Both(
            nn.functional.embedding(rows.once.users, self.users),
            nn.functional.embedding(rows.once.items, self.items),
        )
        return {"bpr": bpr_loss(rows, once), "l2": self.l2 * squared_norms(rows, once)}
