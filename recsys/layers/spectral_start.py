"""First vectors of users and items whose dot products are near where training leads.

Letters   U users, I items, D width.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.layers.pair_graph import PairGraph
from recsys.layers.spectral import left_vectors, singular_vectors


def spectral_start(train: Pairs, width: int, std: float) -> tuple[Tensor, Tensor]:
    """Vectors of popularity and of the leading singular vectors of Du^-1/2 R Di^-1/2.

    The first coordinate gives every item the score log(d / mean d), which is best for a softmax
    where scores depend on the item alone; the others are singular vectors after the first (which
    is popularity's), users' and items' equally long on average, times the root of their singular
    value.

    Args:
        train: The pairs R.
        width: D.
        std: Standard deviation of the leading coordinate among the singular vectors, and of random
            coordinates where there are fewer singular vectors than coordinates.

    Shape:
        return  [U, D] and [I, D]

    Example:
        >>> train = Pairs.of(np.array([0, 1, 1]), np.array([0, 0, 1]), num_users=2, num_items=3)
        >>> users, items = spectral_start(train, 4, 0.1)
        >>> (users[:, :1] @ items[:, :1].T)[0]
        tensor([ 0.4055, -0.2877, -0.2877])
    """
    tables = [torch.randn(size, width) * std for size in (train.num_users, train.num_items)]
    graph = PairGraph(train.num_users, train.num_items)
    graph.fit(train)
    values, items = singular_vectors(graph, min(width, train.num_users, train.num_items))
    there = int((values > 0).sum())
    for table, found in zip(tables, (left_vectors(graph, values, items), items), strict=True):
        lengths = std * (values * len(found)).sqrt()
        table[:, 1:there] = (found * lengths)[:, 1:there]
    degrees = np.maximum(train.item_degrees, 1)
    popularity = torch.from_numpy(np.log(degrees / degrees.mean())).float()
    length = popularity.square().mean().sqrt().sqrt().clamp(min=1e-3)  # the same on both sides
    tables[0][:, 0] = length
    tables[1][:, 0] = popularity / length
    return tables[0], tables[1]
