"""IPNN: a deep network that also reads the inner product of every pair of field vectors.

Source   Qu et al., ICDM 2016, arXiv:1611.00144, Sec. III-B.
Differs  The first hidden layer multiplies the pairs' products by a full matrix, as BARS does, where
         the paper factorises it to save memory: the products themselves are as cheap. The paper's
         pairs include a field with itself; these are distinct. Dense columns join the vectors,
         not the pairs.
Shapes   B rows, F slots, D embedding, N dense columns, P = F (F - 1) / 2 pairs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.layers.interaction import pairwise_products
from recsys.layers.mlp import HiddenLayers, init_linear
from recsys.models.base import CTRModel


class IPNN(CTRModel):
    """Hidden layers on all vectors and all pairwise inner products side by side.

    Args:
        hidden_dims: Width of each hidden layer.
        activation: relu, gelu, silu, tanh, sigmoid, leaky_relu or identity.
        dropout: Probability after each activation, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch, before the activation.

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        return  [B]        float32 logit

    Example:
        >>> model = IPNN(num_fields=3, embed_dim=4, num_dense=1, hidden_dims=[8])
        >>> model(Embedded.random(batch=2, fields=3, dim=4, dense=1)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        *,
        hidden_dims: Sequence[int] = (400, 400, 400),
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        num_pairs = num_fields * (num_fields - 1) // 2
        self.hidden = HiddenLayers(
            num_fields * embed_dim + num_dense + num_pairs,
            hidden_dims,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.output = nn.Linear(self.hidden.out_dim, 1)
        init_linear(self.output)

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        # The linear and the product signals of the paper, [B, F * D + N + P].
        signals = torch.cat([embedded.flat(), pairwise_products(embedded.fields)], dim=1)
        logit: Tensor = self.output(self.hidden(signals)).squeeze(1)
        return logit.float()
