"""DLRM: dense columns become one vector, and pairs of vectors feed the top network.

Source   Naumov et al., 2019, arXiv:1906.00091, Sec. 2.1; layer sizes of the authors' Criteo script.
Differs  Hidden layers may use batch normalisation and dropout, and weights start as in BARS. BARS'
         best rows on Frappe and MovieLens are `interaction=cat` without dense columns: an MLP, so
         they say nothing about the pairs.
Shapes   B rows, F slots, D embedding, N dense columns, V vectors: F, or F + 1 with dense columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError, did_you_mean
from recsys.layers.interaction import pairwise_products
from recsys.layers.mlp import HiddenLayers, build_activation, init_linear
from recsys.models.base import CTRModel

INTERACTIONS = ("dot", "cat")


class DLRM(CTRModel):
    """A bottom network on the dense columns, inner products of all vectors, a top network.

    Args:
        interaction: dot: the top network reads every pair's inner product and the bottom network's
            vector; cat: it reads all vectors side by side.
        bottom_dims: Hidden layers of the bottom network, before its last, which is as wide as a
            vector (unused without dense columns).
        top_dims: Hidden layers of the top network.
        activation: relu, gelu, silu, tanh, sigmoid, leaky_relu or identity; of all layers but the
            logit's.
        bottom_dropout: Probability after each hidden layer of the bottom network, in [0, 1).
        dropout: Probability after each hidden layer of the top network, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch, before the activation.

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        return  [B]        float32 logit

    Example:
        >>> model = DLRM(num_fields=3, embed_dim=4, num_dense=1, bottom_dims=[8], top_dims=[8])
        >>> model(Embedded.random(batch=2, fields=3, dim=4, dense=1)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        *,
        interaction: str = "dot",
        bottom_dims: Sequence[int] = (512, 256, 64),
        top_dims: Sequence[int] = (512, 256),
        activation: str = "relu",
        bottom_dropout: float = 0.0,
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        if interaction not in INTERACTIONS:
            raise ConfigError(
                f'interaction is "{interaction}".{did_you_mean(interaction, INTERACTIONS)}'
            )
        self.interaction = interaction
        self.bottom = None
        if num_dense:
            hidden = HiddenLayers(
                num_dense,
                bottom_dims,
                activation=activation,
                dropout=bottom_dropout,
                batch_norm=batch_norm,
            )
            vector = nn.Linear(hidden.out_dim, embed_dim)
            self.bottom = nn.Sequential(hidden, vector, build_activation(activation))
            init_linear(vector)
        num_vectors = num_fields + (num_dense > 0)
        if interaction == "cat":
            top_in_dim = num_vectors * embed_dim
        else:
            top_in_dim = num_vectors * (num_vectors - 1) // 2 + embed_dim * (num_dense > 0)
        if not top_in_dim:
            raise ConfigError(
                "interaction is dot, but the data has one field and no dense column, so there is "
                "no pair of vectors. Use ctr.interaction=cat or keep more columns."
            )
        self.top = HiddenLayers(
            top_in_dim, top_dims, activation=activation, dropout=dropout, batch_norm=batch_norm
        )
        self.output = nn.Linear(self.top.out_dim, 1)
        init_linear(self.output)

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        vectors, dense = embedded.fields, []
        if self.bottom is not None:
            dense = [self.bottom(embedded.dense)]  # [B, D]
            vectors = torch.cat([dense[0].unsqueeze(1), vectors], dim=1)  # [B, V, D]
        if self.interaction == "dot":
            features = torch.cat([pairwise_products(vectors), *dense], dim=1)
        else:
            features = vectors.flatten(1)
        logit: Tensor = self.output(self.top(features)).squeeze(1)
        return logit.float()
