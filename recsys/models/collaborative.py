"""Contracts of collaborative filtering: models that know users and items by their pairs alone.

Letters   U users, I items, D embedding width, B rows of a batch, b users scored at a time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor, nn

from recsys.data.pairs import Pairs
from recsys.data.triple_sampler import Sampling
from recsys.data.triples import Triples
from recsys.errors import SchemaError

Progress: TypeAlias = Callable[[int, int], None]
"""Told how much is done, of how much."""


class CFModel(nn.Module, ABC):
    """Scores every item for a user.

    All that scoring needs lies in parameters and buffers, so that `state_dict` is the model.

    Args:
        num_users: U.
        num_items: I.
    """

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__()
        if num_users < 1 or num_items < 1:
            raise SchemaError(
                f"{num_users:,} users and {num_items:,} items: there is nothing to learn from. "
                "Give at least one pair."
            )
        self.num_users = num_users
        self.num_items = num_items

    @abstractmethod
    def scores(self, users: Tensor) -> Tensor:
        """Scores of all items, higher is better; items of the training pairs are not masked.

        Shape:
            users    [b]     int64
            return   [b, I]  float32
        """


class ClosedForm(CFModel):
    """A model that is computed, not trained."""

    @abstractmethod
    def fit(self, train: Pairs, progress: Progress | None = None) -> None:
        """Compute the model of some pairs; what an earlier call left is forgotten."""


class EmbeddingModel(CFModel):
    """A model of two matrices of vectors, whose dot products are the scores.

    Args:
        train: The pairs to learn from; its graph is built once, here.
        embed_dim: D.
    """

    sampling: Sampling
    """How its batches are drawn."""

    def __init__(self, train: Pairs, embed_dim: int) -> None:
        super().__init__(train.num_users, train.num_items)
        self.embed_dim = embed_dim

    @abstractmethod
    def forward(self) -> tuple[Tensor, Tensor]:
        """Vectors of all users [U, D] and items [I, D] as scoring uses them."""

    @abstractmethod
    def losses(self, batch: Triples) -> dict[str, Tensor]:
        """Named scalar losses of a batch; training minimises their sum."""

    def scores(self, users: Tensor) -> Tensor:
        vectors, items = self()
        return vectors[users] @ items.T
