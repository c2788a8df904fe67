"""Wide & Deep: first-order weights and a deep network, trained together.

Source   Cheng et al., DLRS 2016, arXiv:1606.07792, Eq. 3.
Differs  The wide part has no hand-made crosses, and both parts share one optimiser, as in BARS (the
         paper: FTRL with L1 for the wide part, AdaGrad for the deep one). A cross that matters is
         a column of its own in the data. Dense columns enter both parts.
Shapes   B rows, F slots, D embedding, N dense columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.layers.linear import FirstOrder
from recsys.layers.mlp import HiddenLayers, init_linear
from recsys.models.base import CTRModel


class WideDeep(CTRModel):
    """First-order weights, which memorise, plus hidden layers on all vectors, which generalise.

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
        >>> model = WideDeep(num_fields=3, embed_dim=4, num_dense=1, hidden_dims=[8])
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
        self.wide = FirstOrder(num_dense, bias=False)
        self.deep = HiddenLayers(
            num_fields * embed_dim + num_dense,
            hidden_dims,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.output = nn.Linear(self.deep.out_dim, 1)
        init_linear(self.output)

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        assert embedded.linear is not None
        deep: Tensor = self.output(self.deep(embedded.flat())).squeeze(1)
        # Eq. 3 before the sigmoid; the one bias is the output unit's.
        logit: Tensor = self.wide(embedded.linear, embedded.dense) + deep
        return logit.float()
