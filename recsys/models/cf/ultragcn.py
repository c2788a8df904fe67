"""UltraGCN: the limit of infinitely many graph convolutions, as losses on plain user-item vectors.

Source   Mao et al., CIKM 2021, arXiv:2110.15114, Eq. 5-14; settings of the authors' repository.
Differs  log sigmoid is computed from the score; the authors' code takes the logarithm of a
         sigmoid. `negatives` other than `sampled` have the same expected loss. Why: sets shared by
         a few rows are quicker, and all items in one matrix product have no noise.
Shapes   U users, I items, D width, B rows, n negatives of a row, k neighbours of an item.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from recsys.data.pairs import Pairs
from recsys.data.triple_sampler import Sampling
from recsys.data.triples import Triples
from recsys.errors import ConfigError, did_you_mean
from recsys.layers.all_items_loss import all_items_loss, chosen_items_loss, group_length
from recsys.layers.item_graph import item_graph
from recsys.layers.pair_graph import PairGraph
from recsys.layers.spectral import left_vectors, singular_vectors
from recsys.models.collaborative import EmbeddingModel

NEGATIVES = ("sampled", "grouped", "all")
STARTS = ("random", "popularity", "spectral")


class UltraGCN(EmbeddingModel):
    """Plain dot products; a weighted cross-entropy takes the vectors to where propagation would.

    With beta_ui = sqrt(d_u + 1) / d_u / sqrt(d_i + 1) of the degrees in `train`, a batch's losses
    are sums over its rows (u, i):

        positive  (w1 + w2 beta_ui) softplus(-s_ui)
        negative  negative_weight * mean over the negatives j of (w3 + w4 beta_uj) softplus(s_uj)
        items     item_weight * sum over the neighbours j of i of omega_ij softplus(-s_uj)

    and `l2` is decay / 2 times the squared norm of ALL parameters, once a batch: a larger batch is
    decayed less, unless `decay` grows with it.

    Args:
        train: The pairs; degrees and the item-item graph come from here.
        embed_dim: D.
        w1: Weight of every positive.
        w2: Weight of beta for positives.
        w3: Weight of every negative.
        w4: Weight of beta for negatives.
        negatives: `sampled`: those of the batch, each row its own; `grouped`: one set, drawn here,
            for every `group_rows` rows; `all`: every item, which is what the others estimate.
        num_negatives: n, of a row or a group; not used by `all`.
        group_rows: Rows that share a set, for `grouped`.
        negative_weight: Weight of a row's mean over its negatives.
        item_weight: lambda of the item-item loss.
        num_neighbors: k of the item-item graph.
        keep_diagonal: An item is its own neighbour, as in the authors' settings.
        decay: gamma, L2 of all parameters.
        init_std: Standard deviation of the first vectors' coordinates; for `spectral`, of the
            leading one.
        start: `random`; or `popularity`: the first coordinate gives every item the score that is
            best for all users alike; or `spectral`: the other coordinates are leading singular
            vectors of the normalised pairs besides. Training from small random vectors reaches
            the scores of popularity first, saturated, and stays there for dozens of epochs, until
            it has found these directions.

    Raises:
        ConfigError: a hyperparameter is out of range.

    Example:
        >>> train = Pairs.of(np.array([0, 1, 1]), np.array([0, 0, 1]), num_users=2, num_items=3)
        >>> model = UltraGCN(train, embed_dim=4, negatives="all")
        >>> none = torch.empty(1, 0, dtype=torch.int64)
        >>> sorted(model.losses(Triples(torch.tensor([0]), torch.tensor([0]), none)))
        ['items', 'l2', 'negative', 'positive']
    """

    sampling: Sampling
    """Every pair once an epoch; negatives only where each row has its own, and any item."""

    item_scales: Tensor
    neighbor_weights: Tensor
    neighbors: Tensor
    user_scales: Tensor

    def __init__(
        self,
        train: Pairs,
        *,
        embed_dim: int = 64,
        w1: float = 1e-6,
        w2: float = 1.0,
        w3: float = 1e-6,
        w4: float = 1.0,
        negatives: str = "sampled",
        num_negatives: int = 1500,
        group_rows: int = 16,
        negative_weight: float = 300.0,
        item_weight: float = 5e-4,
        num_neighbors: int = 10,
        keep_diagonal: bool = True,
        decay: float = 1e-4,
        init_std: float = 1e-4,
        start: str = "random",
    ) -> None:
        super().__init__(train, embed_dim)
        if negatives not in NEGATIVES:
            raise ConfigError(f'negatives is "{negatives}".{did_you_mean(negatives, NEGATIVES)}')
        if start not in STARTS:
            raise ConfigError(f'start is "{start}".{did_you_mean(start, STARTS)}')
        counts = {
            "embed_dim": embed_dim,
            "num_negatives": num_negatives,
            "group_rows": group_rows,
            "num_neighbors": num_neighbors,
        }
        for name, count in counts.items():
            if count < 1:
                raise ConfigError(f"{name} is {count}; it must be at least 1.")
        numbers = {
            "w1": w1,
            "w2": w2,
            "w3": w3,
            "w4": w4,
            "negative_weight": negative_weight,
            "item_weight": item_weight,
            "decay": decay,
            "init_std": init_std,
        }
        for name, number in numbers.items():
            if not (math.isfinite(number) and number >= 0):
                raise ConfigError(f"{name} is {number}; it must be a number of at least 0.")
        if init_std == 0:
            raise ConfigError("init_std is 0; vectors that are all equal stay so. Give 1e-4, say.")
        drawn = num_negatives if negatives == "sampled" else 0
        self.sampling = Sampling(draw="pairs", negatives=drawn, reject=False)
        self.w1, self.w2, self.w3, self.w4 = w1, w2, w3, w4
        self.negatives, self.num_negatives, self.group_rows = negatives, num_negatives, group_rows
        self.negative_weight, self.item_weight, self.decay = negative_weight, item_weight, decay
        self.users = nn.Parameter(torch.randn(self.num_users, embed_dim) * init_std)
        self.items = nn.Parameter(torch.randn(self.num_items, embed_dim) * init_std)
        # beta_ui = user_scales[u] * item_scales[i]. A user without items has no rows.
        degrees = train.user_degrees
        user_scales = np.where(degrees > 0, np.sqrt(degrees + 1.0) / np.maximum(degrees, 1), 0.0)
        graph = item_graph(train, num_neighbors, keep_diagonal=keep_diagonal)
        made = {
            "user_scales": user_scales.astype(np.float32),
            "item_scales": (1 / np.sqrt(train.item_degrees + 1.0)).astype(np.float32),
            "neighbors": graph.neighbors,
            "neighbor_weights": graph.weights,
        }
        for name, array in made.items():  # of the training pairs, not learnt: not part of the state
            self.register_buffer(name, torch.from_numpy(array), persistent=False)
        if start == "random" or self.users.is_meta:  # settings are checked without numbers
            return
        if start == "spectral":
            self._start_at_spectrum(train, init_std)
        self._start_at_popularity(train)

    def forward(self) -> tuple[Tensor, Tensor]:
        return self.users, self.items

    def losses(self, batch: Triples) -> dict[str, Tensor]:
        # A user's rows share one vector, and one row of the matrix product over all items.
        users, row_of, repeats = torch.unique(batch.users, return_inverse=True, return_counts=True)
        vectors = nnf.embedding(users, self.users)
        rows = nnf.embedding(row_of, vectors)
        scales = self.user_scales[batch.users]
        positives = batch.positives.unsqueeze(1)
        positive_weights = self.w1 + self.w2 * scales.unsqueeze(1) * self.item_scales[positives]
        neighbors = nnf.embedding(batch.positives, self.neighbors).long()
        omega = nnf.embedding(batch.positives, self.neighbor_weights) * self.item_weight
        if self.negatives == "all":
            weight = repeats * (self.negative_weight / self.num_items)
            row_scales = self.w4 * weight * self.user_scales[users]
            negative = all_items_loss(
                vectors, self.items, self.w3 * weight, row_scales, self.item_scales
            )
        else:
            drawn = self._drawn(batch)  # [G, n]
            per_row = self.item_scales[drawn].repeat_interleave(
                group_length(len(rows), len(drawn)), dim=0
            )[: len(rows)]
            weights = (per_row * (self.w4 * scales).unsqueeze(1)).add_(self.w3)
            weights *= self.negative_weight / self.num_negatives
            negative = chosen_items_loss(rows, self.items, drawn, weights, label=0)
        return {
            "positive": chosen_items_loss(rows, self.items, positives, positive_weights, label=1),
            "negative": negative,
            "items": chosen_items_loss(rows, self.items, neighbors, omega, label=1),
            "l2": self.decay * (half_square(self.users) + half_square(self.items)),
        }

    @torch.no_grad()
    def _start_at_popularity(self, train: Pairs) -> None:
        """Scores s_i that depend on the item alone minimise p_i softplus(-s) + q_i softplus(s),
        p_i and q_i being the weights that an epoch gives to i with label 1 and 0: log(p_i / q_i).
        One coordinate holds them, equally long on both sides."""
        users = torch.from_numpy(train.users.astype(np.int64))
        items = torch.from_numpy(train.items.astype(np.int64))
        scales = self.user_scales[users].double()
        positive = torch.zeros(self.num_items, dtype=torch.float64)
        positive.index_add_(0, items, self.w1 + self.w2 * scales * self.item_scales[items])
        omega = self.neighbor_weights[items].double() * self.item_weight
        positive.index_add_(0, self.neighbors[items].long().flatten(), omega.flatten())
        negative = self.w3 * len(train) + self.w4 * scales.sum() * self.item_scales.double()
        negative *= self.negative_weight / self.num_items
        known = (positive > 0) & (negative > 0)
        if not known.any():
            return
        scores = torch.zeros_like(positive)
        scores[known] = (positive[known] / negative[known]).log()
        scores[~known] = scores[known].min()
        length = max(float((scores.square().sum() / self.num_users) ** 0.25), 1e-6)
        self.users[:, 0] = length
        self.items[:, 0] = (scores / length).float()

    @torch.no_grad()
    def _start_at_spectrum(self, train: Pairs, std: float) -> None:
        """Coordinates after the first are singular vectors after the first, which is popularity's:
        users' and items' equally long on average, times the root of their singular value."""
        graph = PairGraph(self.num_users, self.num_items)
        graph.fit(train)
        rank = min(self.embed_dim, self.num_users, self.num_items)
        values, items = singular_vectors(graph, rank)
        users = left_vectors(graph, values, items)
        there = int((values > 0).sum())  # coordinates of no vector stay random: zeros stay zeros
        for table, found in ((self.users, users), (self.items, items)):
            lengths = std * (values * len(found)).sqrt()
            table[:, 1:there] = (found * lengths)[:, 1:there]

    def _drawn(self, batch: Triples) -> Tensor:
        """The negatives of each row, or of each group of rows, [G, n]."""
        if self.negatives == "grouped":
            groups = -(-len(batch) // self.group_rows)
            shape = (groups, self.num_negatives)
            return torch.randint(self.num_items, shape, device=batch.users.device)
        if batch.negatives.shape != (len(batch), self.num_negatives):
            raise ValueError(
                f"the batch has negatives {list(batch.negatives.shape)}, but negatives=sampled "
                f"needs [{len(batch)}, {self.num_negatives}]. Draw {self.num_negatives} for each "
                "row, uniformly and without rejecting training items."
            )
        return batch.negatives


class _HalfSquare(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        flat = x.reshape(-1)
        return torch.dot(flat, flat) / 2

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return x * d_out


def half_square(x: Tensor) -> Tensor:
    """Half the squared norm; one pass over memory forward and one back, where torch's own makes
    three tensors of the size of `x`."""
    out: Tensor = _HalfSquare.apply(x)
    return out
