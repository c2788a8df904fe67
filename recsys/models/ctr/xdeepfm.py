"""xDeepFM: a compressed interaction network beside a deep network and first-order weights.

Source   Lian et al., KDD 2018, arXiv:1803.05170, Eq. 6-9.
Differs  The CIN has a bias per map and no activation, as in BARS; the deep part may normalise its
         units over the batch. Dense columns enter the first-order term and the deep part, not the
         CIN. Why: a number has no vector here.
Shapes   B rows, F slots, D embedding, N dense columns.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.layers.cin import CIN
from recsys.layers.linear import FirstOrder
from recsys.layers.mlp import HiddenLayers, init_linear
from recsys.models.base import CTRModel


class XDeepFM(CTRModel):
    """First-order weights, plus explicit interactions of vectors, plus hidden layers on them all.

    Args:
        cin_dims: Maps of each CIN layer; the highest degree of interaction is one more than layers.
        hidden_dims: Width of each hidden layer; empty for the CIN and first-order weights alone.
        activation: relu, gelu, silu, tanh, sigmoid, leaky_relu or identity.
        dropout: Probability after each activation, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch, before the activation.

    Shape:
        fields  [B, F, D]  float32
        linear  [B, F]     float32
        dense   [B, N]     float32
        return  [B]        float32 logit

    Example:
        >>> model = XDeepFM(num_fields=3, embed_dim=4, num_dense=1, hidden_dims=[8])
        >>> model(Embedded.random(batch=2, fields=3, dim=4, dense=1)).shape
        torch.Size([2])
    """

    min_fields = 1

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        *,
        cin_dims: Sequence[int] = (64,),
        hidden_dims: Sequence[int] = (400, 400, 400),
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        self.needs_linear = True
        self.first_order = FirstOrder(num_dense, bias=False)
        self.cin = CIN(num_fields, cin_dims)
        self.hidden = None
        if hidden_dims:
            hidden = HiddenLayers(
                num_fields * embed_dim + num_dense,
                hidden_dims,
                activation=activation,
                dropout=dropout,
                batch_norm=batch_norm,
            )
            self.hidden = nn.Sequential(hidden, nn.Linear(hidden.out_dim, 1))
            init_linear(self.hidden)

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        assert embedded.linear is not None
        logit: Tensor = self.first_order(embedded.linear, embedded.dense)
        logit = logit + self.cin(embedded.fields)
        if self.hidden is not None:
            logit = logit + self.hidden(embedded.flat()).squeeze(1)
        return logit.float()  # Eq. 9, before the sigmoid
