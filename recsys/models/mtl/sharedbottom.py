"""Shared bottom: one network for all tasks, and a tower for each.

Source   Caruana, "Multitask Learning", Machine Learning 1997; as drawn in Ma et al., KDD 2018
         (MMoE), Fig. 1a.
Differs  Nothing.
Shapes   B rows, F slots, D embedding, N dense columns, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from recsys.embedding.embedded import Embedded
from recsys.layers.experts import Towers
from recsys.layers.mlp import HiddenLayers
from recsys.models.base import Tasks
from recsys.models.multitask import MTLModel


class SharedBottom(MTLModel):
    """What all tasks share is everything below the towers: the baseline of multi-task learning.

    Args:
        hidden_dims: Hidden layers of the shared network.
        tower_dims: Hidden layers of each tower; none: a linear map.
        activation: Of all hidden layers.
        dropout: Probability after each hidden layer, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch.

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        return  [B, K]     float32 logits

    Example:
        >>> tasks = Tasks(("click", "like"), (-1, -1))
        >>> model = SharedBottom(num_fields=3, embed_dim=4, num_dense=0, tasks=tasks)
        >>> model(Embedded.random(batch=2, fields=3, dim=4)).shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        tasks: Tasks | None = None,
        *,
        hidden_dims: Sequence[int] = (256, 128),
        tower_dims: Sequence[int] = (64,),
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense, tasks)
        self.bottom = HiddenLayers(
            self.flat_dim,
            hidden_dims,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.towers = Towers(
            len(self.tasks),
            self.bottom.out_dim,
            tower_dims,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        logits: Tensor = self.towers(self.bottom(embedded.flat()))
        return logits
