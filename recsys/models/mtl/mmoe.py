"""MMoE: experts that all tasks share, and a gate for each task that says how much of which.

Source   Ma et al., KDD 2018, "Modeling Task Relationships in Multi-task Learning with
         Multi-gate Mixture-of-Experts", Eq. 4-7.
Differs  Gates may drop weights in training, as in Zhao et al., RecSys 2019 (`gate_dropout`).
Shapes   B rows, F slots, D embedding, N dense columns, K tasks, G experts.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.layers.experts import Experts, Gates, Towers, expert_names, visible
from recsys.models.base import Tasks
from recsys.models.multitask import MTLModel


class MMoEHead(nn.Module):
    """Experts, gates and towers on an input of any making.

    Args:
        in_dim: Width of the input.
        tasks: K of them.
        num_experts: G.
        expert_dims: Hidden layers of each expert.
        tower_dims: Hidden layers of each tower; none: a linear map.
        activation: Of experts and towers.
        dropout: Probability after each hidden layer, in [0, 1).
        gate_dropout: Probability that a gate's weight is dropped.
        batch_norm: Normalise hidden units of experts over the batch.

    Shape:
        x       [B, in_dim]     what the experts read
        own     [B, K, in_dim]  what each task's gate reads; None: x
        return  [B, K]          logits
    """

    def __init__(
        self,
        in_dim: int,
        tasks: Tasks,
        *,
        num_experts: int,
        expert_dims: Sequence[int],
        tower_dims: Sequence[int],
        activation: str,
        dropout: float,
        gate_dropout: float,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        if num_experts < 1:
            raise ConfigError(f"num_experts is {num_experts}; it must be at least 1.")
        groups = [("shared", num_experts)]
        names = expert_names(groups)
        self.experts = Experts(
            names,
            in_dim,
            expert_dims,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        mask = visible(groups, [["shared"]] * len(tasks))
        self.gates = Gates(tasks.names, names, in_dim, mask, dropout=gate_dropout)
        self.towers = Towers(
            len(tasks), self.experts.out_dim, tower_dims, activation=activation, dropout=dropout
        )

    def forward(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        weights = self.gates(x if own is None else own)
        logits: Tensor = self.towers(self.experts.mixed(x, weights))
        return logits


class MMoE(MTLModel):
    """Every task reads its own mixture of common experts.

    Args:
        num_experts: Experts, G.
        expert_dims: Hidden layers of each expert.
        tower_dims: Hidden layers of each tower; none: a linear map.
        activation: Of experts and towers; relu as published.
        dropout: Probability after each hidden layer, in [0, 1).
        gate_dropout: Probability that a gate's weight is dropped, in [0, 1).
        batch_norm: Normalise hidden units of experts over the batch.

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        return  [B, K]     float32 logits

    Example:
        >>> tasks = Tasks(("click", "like"), (-1, -1))
        >>> model = MMoE(num_fields=3, embed_dim=4, num_dense=0, tasks=tasks)
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
        num_experts: int = 8,
        expert_dims: Sequence[int] = (128, 64),
        tower_dims: Sequence[int] = (64,),
        activation: str = "relu",
        dropout: float = 0.0,
        gate_dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense, tasks)
        self.head = MMoEHead(
            self.flat_dim,
            self.tasks,
            num_experts=num_experts,
            expert_dims=expert_dims,
            tower_dims=tower_dims,
            activation=activation,
            dropout=dropout,
            gate_dropout=gate_dropout,
            batch_norm=batch_norm,
        )

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        logits: Tensor = self.head(embedded.flat())
        return logits
