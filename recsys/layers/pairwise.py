"""The pairwise loss over triples, and the rows of a batch that it needs.

Letters   B rows of a batch, n negatives of a row, D width, P users and Q items of a batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from torch import Tensor

from recsys.data.triples import Triples
from recsys.layers.propagation import Both


def bpr_loss(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """mean of -log sigmoid(u.i - u.j) over rows and negatives.

    Source: Rendle et al., UAI 2009, arXiv:1205.2618, section 4.1.

    Shape:
        users      [B, D]
        positives  [B, D]
        negatives  [B, n, D]
        return     []
    """
    wanted = (users * positives).sum(1, keepdim=True)
    unwanted = (negatives @ users.unsqueeze(2)).squeeze(2)
    return nnf.softplus(unwanted - wanted).mean()


def squared_norms(users: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
    """(|u|^2 + |i|^2 + sum_j |j|^2) / 2, mean over rows; shapes as in `bpr_loss`."""
    total = sum(part.square().sum() for part in (users, positives, negatives))
    return torch.as_tensor(total) / (2 * len(users))


@dataclass(frozen=True)
class BatchRows:
    """Users and items of a batch, each once, and where the batch has them.

    Example:
        >>> batch = Triples(torch.tensor([7, 7]), torch.tensor([3, 4]), torch.tensor([[5], [3]]))
        >>> rows = BatchRows.of(batch)
        >>> rows.once
        Both(users=tensor([7]), items=tensor([3, 4, 5]))
        >>> rows.positives_once
        tensor([0, 1])
    """

    once: Both
    """Users [P] and items [Q], ascending."""
    user_at: Tensor
    item_at: Tensor
    num_negatives: int

    @staticmethod
    def of(batch: Triples) -> BatchRows:
        """The rows of one batch."""
        users, user_at = batch.users.unique(return_inverse=True)
        drawn = torch.cat([batch.positives, batch.negatives.flatten()])
        items, item_at = drawn.unique(return_inverse=True)
        return BatchRows(Both(users, items), user_at, item_at, batch.negatives.shape[1])

    @property
    def positives_once(self) -> Tensor:
        """Places among the items of those that are a positive of some row, each once."""
        return self.item_at[: len(self.user_at)].unique()

    def of_batch(self, vectors: Both) -> tuple[Tensor, Tensor, Tensor]:
        """From vectors of each once to those of every row.

        Shape:
            vectors  [P, D] and [Q, D]
            return   users [B, D], positives [B, D], negatives [B, n, D]
        """
        users = nnf.embedding(self.user_at, vectors.users)
        items = nnf.embedding(self.item_at, vectors.items)
        size = len(self.user_at)
        return users, items[:size], items[size:].view(size, self.num_negatives, -1)
