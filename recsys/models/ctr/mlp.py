"""MLP: a deep network on all vectors side by side ("DNN", BARS' YoutubeDNN).

Source   Covington et al., RecSys 2016, Sec. 4.2 (its ranking network); order of operations of
         the BARS benchmark.
Differs  none known from BARS; the paper has no batch normalisation or dropout.
Shapes   B rows, F slots, D embedding, N dense columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.layers.mlp import HiddenLayers, init_linear
from recsys.models.base import CTRModel


class MLP(CTRModel):
    """Hidden layers on the concatenated vectors and dense columns, then one linear unit.

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
        >>> model = MLP(num_fields=3, embed_dim=4, num_dense=1, hidden_dims=[8])
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
        logit: Tensor = self.output(self.hidden(embedded.flat())).squeeze(1)
        return logit.float()
