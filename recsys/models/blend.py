"""A blend: the weighted sum of what several models of users and items score.

Source   Linear stacking as in Sill et al., "Feature-Weighted Linear Stacking", arXiv:0911.0460,
         Sec. 2, with constant weights.
Differs  Scores of different models have different units, and a ranking needs none: each model's
         are shifted and scaled to mean 0 and variance 1 over the items of a user before they are
         added.
Letters  U users, I items, D width, b users scored at a time, M members.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.models.collaborative import CFModel
from recsys.models.registry import call, import_target


class Vectors(CFModel):
    """What is left of a trained model of vectors: their dot products.

    Args:
        num_users: U.
        num_items: I.
        embed_dim: D.

    Example:
        >>> model = Vectors(2, 3, embed_dim=4)
        >>> model.scores(torch.tensor([1])).shape
        torch.Size([1, 3])
    """

    users: Tensor
    items: Tensor

    def __init__(self, num_users: int, num_items: int, *, embed_dim: int) -> None:
        super().__init__(num_users, num_items)
        if embed_dim < 1:
            raise ConfigError(f"embed_dim is {embed_dim}; it must be at least 1.")
        self.register_buffer("users", torch.zeros(num_users, embed_dim))
        self.register_buffer("items", torch.zeros(num_items, embed_dim))

    @classmethod
    def of(cls, users: Tensor, items: Tensor) -> Vectors:
        """Take over vectors of all users [U, D] and items [I, D]."""
        made = cls(len(users), len(items), embed_dim=users.shape[1])
        made.users, made.items = users.detach().float(), items.detach().float()
        return made

    def scores(self, users: Tensor) -> Tensor:
        return self.users[users] @ self.items.T


class Blend(CFModel):
    """Scores = sum of weights[m] times the standardised scores of member m.

    Args:
        num_users: U.
        num_items: I.
        members: For each of M models its class and hyperparameters,
            `{"target": "recsys.models.cf.gfcf.GFCF", "arguments": {"rank": 64}}`; models that
            take training pairs are members as `Vectors`.
        weights: M numbers >= 0, not all 0.

    Raises:
        ConfigError: a member or a weight is impossible.

    Example:
        >>> popularity = {"target": "recsys.models.cf.popularity.Popularity", "arguments": {}}
        >>> vectors = {"target": "recsys.models.blend.Vectors", "arguments": {"embed_dim": 4}}
        >>> model = Blend(2, 3, members=[popularity, vectors], weights=[1.0, 2.0])
        >>> [type(member).__name__ for member in model.members]
        ['Popularity', 'Vectors']
    """

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *,
        members: Sequence[Mapping[str, Any]],
        weights: Sequence[float],
    ) -> None:
        super().__init__(num_users, num_items)
        if len(members) != len(weights) or not members:
            raise ConfigError(
                f"{len(members)} members and {len(weights)} weights; a blend needs as many of one "
                "as of the other, and at least one."
            )
        check_weights(weights)
        self.weights = tuple(float(weight) for weight in weights)
        sizes = {"num_users": num_users, "num_items": num_items}
        self.members = nn.ModuleList(
            self._member(
                call(import_target(one["target"]), dict(one["arguments"]), sizes, "members")
            )
            for one in members
        )

    @classmethod
    def of(
        cls,
        members: Sequence[CFModel],
        specs: Sequence[Mapping[str, Any]],
        weights: Sequence[float],
    ) -> Blend:
        """Blend models that have learnt.

        Args:
            members: `Vectors` or closed forms, all of the same users and items.
            specs: Their classes and hyperparameters.
            weights: One for each.
        """
        sizes = members[0].num_users, members[0].num_items
        with torch.device("meta"):  # each is replaced by the one that has learnt
            made = cls(*sizes, members=specs, weights=weights)
        made.members = nn.ModuleList(members)
        return made

    @staticmethod
    def _member(model: object) -> CFModel:
        if not isinstance(model, CFModel):
            raise ConfigError(f"{type(model).__name__} is not a model of users and items.")
        return model

    def scores(self, users: Tensor) -> Tensor:
        total: Tensor | None = None
        for weight, member in zip(self.weights, self.members, strict=True):
            if weight == 0:
                continue
            assert isinstance(member, CFModel)
            part = standardized(member.scores(users)).mul_(weight)
            total = part if total is None else total.add_(part)
        assert total is not None  # a weight is above 0
        return total


def check_weights(weights: Sequence[float]) -> None:
    """Raise ConfigError for weights that make no blend."""
    if not all(math.isfinite(w) and w >= 0 for w in weights) or not any(weights):
        raise ConfigError(
            f"weights={list(weights)}; they must be numbers of at least 0, not all of them 0."
        )


def standardized(scores: Tensor) -> Tensor:
    """Rows of mean 0 and variance 1; a row whose scores are all alike becomes zeros.

    Shape:
        scores  [b, I]
        return  [b, I]

    Example:
        >>> standardized(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
        tensor([[-1.,  1.],
                [ 0.,  0.]])
    """
    variance, mean = torch.var_mean(scores, dim=1, correction=0, keepdim=True)
    return (scores - mean).mul_(torch.where(variance > 0, variance.rsqrt(), 0.0))
