"""PLE: experts of each task beside shared ones, in levels.

Source   Tang et al., RecSys 2020, "Progressive Layered Extraction (PLE)", Sec. 4, Eq. 1-7 (one
         level is CGC).
Differs  Nothing; gates may drop weights in training (`gate_dropout`), off by default.
Shapes   B rows, F slots, D embedding, N dense columns, K tasks, G experts of a level.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.layers.experts import Experts, Gates, Towers, expert_names, visible
from recsys.models.base import Tasks
from recsys.models.multitask import MTLModel

SHARED = "shared"


class PLEHead(nn.Module):
    """Levels of experts, then towers, on an input of any making.

    Args:
        in_dim: Width of the input.
        tasks: K of them.
        num_specific: Experts of each task and level.
        num_shared: Shared experts of each level.
        levels: Hidden layers of an expert, for each level.
        tower_dims: Hidden layers of each tower; none: a linear map.
        activation: Of experts and towers.
        dropout: Probability after each hidden layer, in [0, 1).
        gate_dropout: Probability that a gate's weight is dropped.
        batch_norm: Normalise hidden units of experts over the batch.

    Shape:
        x       [B, in_dim]     what the shared experts of the first level read
        own     [B, K, in_dim]  what each task's experts and gate read there; None: x
        return  [B, K]          logits
    """

    def __init__(
        self,
        in_dim: int,
        tasks: Tasks,
        *,
        num_specific: int,
        num_shared: int,
        levels: Sequence[Sequence[int]],
        tower_dims: Sequence[int],
        activation: str,
        dropout: float,
        gate_dropout: float,
        batch_norm: bool,
    ) -> None:
        super().__init__()
        for key, value in (("num_specific", num_specific), ("num_shared", num_shared)):
            if value < 1:
                raise ConfigError(f"{key} is {value}; it must be at least 1.")
        if not levels or any(isinstance(dims, int) for dims in levels):
            raise ConfigError(
                f"levels is {list(levels)}; it lists the hidden layers of each level's experts, "
                "such as [[256], [128]]."
            )
        groups = [*((name, num_specific) for name in tasks.names), (SHARED, num_shared)]
        names = expert_names(groups)
        self.experts, self.gates = nn.ModuleList(), nn.ModuleList()
        for level, expert_dims in enumerate(levels):
            last = level == len(levels) - 1
            readers = [*tasks.names] if last else [*tasks.names, SHARED]
            # The shared gate sees all experts, a task's its own and the shared ones (Eq. 6).
            every = [name for name, _ in groups]
            seen = [every if reader == SHARED else [reader, SHARED] for reader in readers]
            experts = Experts(
                names,
                in_dim,
                expert_dims,
                counts=[count for _, count in groups],
                activation=activation,
                dropout=dropout,
                batch_norm=batch_norm,
            )
            self.experts.append(experts)
            self.gates.append(
                Gates(readers, names, in_dim, visible(groups, seen), dropout=gate_dropout)
            )
            in_dim = experts.out_dim
        self.towers = Towers(len(tasks), in_dim, tower_dims, activation=activation, dropout=dropout)

    def forward(self, x: Tensor, own: Tensor | None = None) -> Tensor:
        # [B, K + 1, I], tasks first; at the first level mostly [B, I], the same for all.
        inputs = x if own is None else torch.cat([own, x.unsqueeze(1)], dim=1)
        for experts, gates in zip(self.experts, self.gates, strict=True):
            assert isinstance(gates, Gates)
            assert isinstance(experts, Experts)
            read = inputs if inputs.dim() == 2 else inputs[:, : len(gates.readers)]
            inputs = experts.mixed(inputs, gates(read))
        logits: Tensor = self.towers(inputs)
        return logits


class PLE(MTLModel):
    """Shared experts and experts that belong to one task, told apart at every level.

    Args:
        num_specific: Experts of each task and level.
        num_shared: Shared experts of each level.
        levels: Hidden layers of an expert, for each level.
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
        >>> model = PLE(num_fields=3, embed_dim=4, num_dense=0, tasks=tasks)
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
        num_specific: int = 2,
        num_shared: int = 2,
        levels: Sequence[Sequence[int]] = ((128,), (64,)),
        tower_dims: Sequence[int] = (64,),
        activation: str = "relu",
        dropout: float = 0.0,
        gate_dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense, tasks)
        self.head = PLEHead(
            self.flat_dim,
            self.tasks,
            num_specific=num_specific,
            num_shared=num_shared,
            levels=levels,
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
