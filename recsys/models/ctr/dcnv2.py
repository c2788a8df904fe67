"""DCNv2: explicit bounded-degree crosses beside or below a deep network.

Source   Wang et al., WWW 2021, arXiv:2008.13535, Eq. 1-6.
Differs  The gate of the low-rank mixture is shared by all layers, as in the public code (the paper
         leaves it open). Hidden layers may use batch normalisation and dropout, as in BARS.
Shapes   B rows, F slots, D embedding, N dense columns; x0 = [fields flattened, dense].
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError, did_you_mean
from recsys.layers.cross import CrossNetwork, LowRankCrossNetwork
from recsys.layers.mlp import HiddenLayers, init_linear
from recsys.models.base import CTRModel

STRUCTURES = ("parallel", "stacked", "crossnet")


class DCNv2(CTRModel):
    """Cross network and deep network on x0; the strongest simple model on most public data.

    Args:
        structure: parallel: both read x0 and are concatenated; stacked: the deep network reads
            the crosses; crossnet: no deep network.
        num_cross_layers: Cross layers; the highest degree of interaction is one more.
        low_rank: Rank of the cross experts; 0 for full-rank matrices.
        num_experts: Experts per low-rank layer (unused at full rank).
        hidden_dims: Width of each hidden layer of the deep network (unused by crossnet).
        activation: relu, gelu, silu, tanh, sigmoid, leaky_relu or identity.
        dropout: Probability after each activation, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch, before the activation.

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        return  [B]        float32 logit

    Example:
        >>> model = DCNv2(num_fields=3, embed_dim=4, num_dense=1, hidden_dims=[8])
        >>> model(Embedded.random(batch=2, fields=3, dim=4, dense=1)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        *,
        structure: str = "parallel",
        num_cross_layers: int = 3,
        low_rank: int = 0,
        num_experts: int = 4,
        hidden_dims: Sequence[int] = (400, 400, 400),
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = True,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        if structure not in STRUCTURES:
            raise ConfigError(f'structure is "{structure}".{did_you_mean(structure, STRUCTURES)}')
        self.structure = structure
        in_dim = num_fields * embed_dim + num_dense
        self.cross: nn.Module
        if low_rank:
            self.cross = LowRankCrossNetwork(
                in_dim, num_cross_layers, rank=low_rank, num_experts=num_experts
            )
        else:
            self.cross = CrossNetwork(in_dim, num_cross_layers)
        self.hidden = None
        out_dim = in_dim
        if structure != "crossnet":
            self.hidden = HiddenLayers(
                in_dim,
                hidden_dims,
                activation=activation,
                dropout=dropout,
                batch_norm=batch_norm,
            )
            out_dim = self.hidden.out_dim + (in_dim if structure == "parallel" else 0)
        self.output = nn.Linear(out_dim, 1)
        init_linear(self.output)

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        x0 = embedded.flat()
        features: Tensor = self.cross(x0)
        if self.hidden is not None:
            if self.structure == "parallel":
                features = torch.cat([features, self.hidden(x0)], dim=1)
            else:
                features = self.hidden(features)
        logit: Tensor = self.output(features).squeeze(1)
        return logit.float()
