"""AITM: each task of a chain passes on what the next one should know.

Source   Xi et al., KDD 2021, arXiv:2105.08489: the adaptive information transfer module and the
         behavioural expectation calibrator.
Differs  The calibrator holds nested labels alone, where P(task) <= P(parent) is a fact: for labels
         that only come one after the other in the list it would be a wrong assumption.
Shapes   B rows, F slots, D embedding, N dense columns, K tasks, H width of a tower's output.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.layers.experts import Towers
from recsys.layers.mlp import init_linear
from recsys.layers.stacked import StackedHidden
from recsys.models.base import Tasks
from recsys.models.multitask import MTLModel


class AITM(MTLModel):
    """Adaptive information transfer: attention between a task's own network and its predecessor.

    Args:
        hidden_dims: Hidden layers of each task's network, on common vectors.
        activation: Of all hidden layers.
        dropout: Probability after each hidden layer, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch.
        constraint: Weight of the calibrator, sum of max(P(task) - P(parent), 0).

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        return  [B, K]     float32 logits

    Example:
        >>> tasks = Tasks(("click", "conversion"), (-1, 0))
        >>> model = AITM(num_fields=3, embed_dim=4, num_dense=0, tasks=tasks)
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
        hidden_dims: Sequence[int] = (256, 128, 64),
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        constraint: float = 0.6,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense, tasks)
        if constraint < 0:
            raise ConfigError(f"constraint is {constraint}; it must be 0 or more.")
        self.constraint = constraint
        self.networks = StackedHidden(
            len(self.tasks),
            self.flat_dim,
            hidden_dims,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        width = self.networks.out_dim
        self.passed_on = nn.ModuleList(
            nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in self.tasks.names[1:]
        )
        self.value = nn.Linear(width, width, bias=False)  # h_1, h_2, h_3 of the paper
        self.key = nn.Linear(width, width, bias=False)
        self.query = nn.Linear(width, width, bias=False)
        for module in (self.passed_on, self.value, self.key, self.query):
            init_linear(module)
        self.outputs = Towers(len(self.tasks), width, [])

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        own = self.networks(embedded.flat()).unbind(dim=1)
        found = [own[0]]
        for passed_on, network in zip(self.passed_on, own[1:], strict=True):
            found.append(self.transfer(passed_on(found[-1]), network))
        logits: Tensor = self.outputs(torch.stack(found, dim=1))
        return logits

    def transfer(self, before: Tensor, own: Tensor) -> Tensor:
        """The AIT module: attention over the two, [B, H]."""
        both = torch.stack([before, own], dim=1)
        scores = (self.key(both) * self.query(both)).sum(dim=2, keepdim=True)
        weights = (scores / both.shape[2] ** 0.5).softmax(dim=1)
        return (weights * self.value(both)).sum(dim=1)

    def training_outputs(self, embedded: Embedded) -> tuple[Tensor, Tensor | None]:
        logits = self(embedded)
        if not self.constraint or not self.tasks.pairs:
            return logits, None
        parents, nested = (list(side) for side in zip(*self.tasks.pairs, strict=True))
        p = logits.sigmoid()
        excess = (p[:, nested] - p[:, parents]).clamp(min=0).sum(dim=1)
        return logits, self.constraint * excess
