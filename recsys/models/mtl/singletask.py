"""Single task: a network with tables of its own for every task; nothing is shared.

Source   The baseline of every multi-task paper.
Differs  All tasks train in one run, side by side: a row of the tables is K vectors, each of which
         gets its own task's gradient alone. Adam moves every number by itself, so these are K
         separate models; only gradient clipping, early stopping and row-wise Adagrad's rate per row
         see them together.
Shapes   B rows, F slots, D embedding, N dense columns, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from recsys.embedding.embedded import Embedded
from recsys.layers.experts import Towers
from recsys.models.base import Tasks
from recsys.models.multitask import MTLModel


class SingleTask(MTLModel):
    """K independent networks.

    Args:
        hidden_dims: Hidden layers of each.
        activation: Of all hidden layers.
        dropout: Probability after each hidden layer, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch.

    Shape:
        fields  [B, F, K * D]  float32, the first D numbers of a slot being the first task's
        dense   [B, N]         float32
        return  [B, K]         float32 logits

    Example:
        >>> tasks = Tasks(("click", "like"), (-1, -1))
        >>> model = SingleTask(num_fields=3, embed_dim=8, num_dense=0, tasks=tasks)
        >>> model(Embedded.random(batch=2, fields=3, dim=8)).shape
        torch.Size([2, 2])
    """

    separate_tables: ClassVar[bool] = True

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        tasks: Tasks | None = None,
        *,
        hidden_dims: Sequence[int] = (256, 128, 64),
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense, tasks)
        if self.tasks_known and embed_dim % len(self.tasks):
            raise ValueError(
                f"slots of width {embed_dim} cannot be those of {len(self.tasks)} tasks"
            )
        self.task_dim = embed_dim // len(self.tasks)
        self.networks = Towers(
            len(self.tasks),
            num_fields * self.task_dim + num_dense,
            hidden_dims,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        rows, tasks = len(embedded), len(self.tasks)
        parts = embedded.fields.view(rows, self.num_fields, tasks, self.task_dim)
        x = parts.transpose(1, 2).reshape(rows, tasks, self.num_fields * self.task_dim)
        if self.num_dense:
            x = torch.cat([x, embedded.dense.unsqueeze(1).expand(-1, tasks, -1)], dim=2)
        logits: Tensor = self.networks(x)
        return logits
