"""ESMM: the probability of what follows a click, learnt from all rows and not from clicks alone.

Source   Ma et al., SIGIR 2018, arXiv:1804.07931, Eq. 1-3.
Differs  The product of probabilities is formed of logits, exactly, so that its cross-entropy loses
         nothing near 0 and 1. Chains of labels (pay after cart after click) multiply along the
         chain; a label that is nested in none has an ordinary tower.
Shapes   B rows, F slots, D embedding, N dense columns, K tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.data.nested import parents_first
from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.layers.experts import Towers
from recsys.layers.nested import joint_logit
from recsys.models.base import Tasks
from recsys.models.multitask import MTLModel


class ESMM(MTLModel):
    """pCTCVR = pCTR * pCVR: the second factor gets its gradient through the product.

    Args:
        hidden_dims: Hidden layers of each task's network, on common vectors.
        activation: Of all hidden layers.
        dropout: Probability after each hidden layer, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch.

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        return  [B, K]     float32 logits; a nested label's is that of the joint event

    Raises:
        ConfigError: No label of the data is nested in another.

    Example:
        >>> tasks = Tasks(("click", "conversion"), (-1, 0))
        >>> model = ESMM(num_fields=3, embed_dim=4, num_dense=0, tasks=tasks)
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
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense, tasks)
        if not self.tasks.pairs:
            raise ConfigError(
                f"ESMM multiplies along nested labels, but none of {', '.join(self.tasks.names)} "
                "is declared to be nested. Say which needs which, data.nested.conversion=click, "
                "or choose another mtl model."
            )
        self.towers = Towers(
            len(self.tasks),
            self.flat_dim,
            hidden_dims,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        own = self.towers(embedded.flat()).unbind(dim=1)
        logits = list(own)
        for task in parents_first(self.tasks.parents):
            logits[task] = joint_logit(logits[self.tasks.parents[task]], own[task])
        return torch.stack(logits, dim=1)
