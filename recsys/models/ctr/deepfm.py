"""DeepFM: a factorisation machine and a deep network on the same field vectors.

Source   Guo et al., IJCAI 2017, arXiv:1703.04247, Eq. 1-4.
Differs  One bias for the whole model, that of the deep part's output, as in BARS. Dense columns
         enter the first-order term and the deep part, not the pairs. Why: a number has no vector
         here. Batch normalisation and its place before the activation are BARS'.
Shapes   B rows, F slots, D embedding, N dense columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.layers.interaction import pairwise_product_sum
from recsys.layers.linear import FirstOrder
from recsys.layers.mlp import HiddenLayers, init_linear
from recsys.models.base import CTRModel


class DeepFM(CTRModel):
    """First-order weights, plus every pair's inner product, plus hidden layers on all vectors.

    Args:
        hidden_dims: Width of each hidden layer.
        activation: relu, gelu, silu, tanh, sigmoid, leaky_relu or identity.
        dropout: Probability after each activation, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch, before the activation.

    Shape:
        fields  [B, F, D]  float32
        linear  [B, F]     float32
        dense   [B, N]     float32
        return  [B]        float32 logit

    Example:
        >>> model = DeepFM(num_fields=3, embed_dim=4, num_dense=1, hidden_dims=[8])
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
        batch_norm: bool = True,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        self.needs_linear = True
        self.first_order = FirstOrder(num_dense, bias=False)
        self.hidden = HiddenLayers(
            num_fields * embed_dim + num_dense,
            hidden_dims,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.output = nn.Linear(self.hidden.out_dim, 1)
        init_linear(self.output)

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        assert embedded.linear is not None
        logit: Tensor = self.output(self.hidden(embedded.flat())).squeeze(1)  # Eq. 4
        logit = logit + pairwise_product_sum(embedded.fields)  # Eq. 2, second term
        logit = logit + self.first_order(embedded.linear, embedded.dense)
        return logit.float()
