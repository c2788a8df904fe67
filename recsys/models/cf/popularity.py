"""Popularity: every user gets the items that most users have."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.layers.pair_graph import check_sizes
from recsys.models.collaborative import ClosedForm, Progress


class Popularity(ClosedForm):
    """Score = number of training pairs of the item; of equal counts the lower item is first.

    Scores are places in that order, so that no two are equal: float32 would round counts beyond
    2^24 together, and a place less than 2^24 it holds exactly.

    Example:
        >>> train = Pairs.of(np.array([0, 1, 1]), np.array([1, 1, 2]), 2, 3)
        >>> model = Popularity(2, 3)
        >>> model.fit(train)
        >>> model.scores(torch.tensor([0]))
        tensor([[0., 2., 1.]])
    """

    places: Tensor

    def __init__(self, num_users: int, num_items: int) -> None:
        super().__init__(num_users, num_items)
        self.register_buffer("places", torch.zeros(num_items))

    def fit(self, train: Pairs, progress: Progress | None = None) -> None:
        check_sizes(train, self.num_users, self.num_items)
        order = np.argsort(-train.item_degrees, kind="stable")
        places = np.empty(self.num_items, np.float32)
        places[order] = np.arange(self.num_items - 1, -1, -1)
        self.places = torch.from_numpy(places).to(self.places)

    def scores(self, users: Tensor) -> Tensor:
        return self.places.repeat(len(users), 1)
