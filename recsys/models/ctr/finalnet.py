"""FinalNet: two networks of factorised layers that learn from each other.

Source   Zhu et al., SIGIR 2023, "FINAL: Factorized Interaction Layer for CTR Prediction".
Differs  Dense columns join the slots ungated.
Shapes   B rows, F slots, N dense columns, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError, did_you_mean
from recsys.layers.gates import FieldGate
from recsys.layers.mlp import FACTORIZATIONS, HiddenLayers, check_dropout, init_linear
from recsys.models.base import CTRModel


class FinalNet(CTRModel):
    """Layers whose outputs are products of linear maps, so that L of them reach degree 2^L.

    A layer's h = W x + b is split into u and v; [u, u * v] (or u + u * v) is normalised, activated
    and dropped. The logit is the mean of two blocks, the first of which also sees gated inputs. In
    training, each block also learns the joint prediction (self-distillation).

    Args:
        num_blocks: 2, or 1: only the first.
        hidden_dims1: Layers of the first block; even widths with residual=concat.
        hidden_dims2: Layers of the second block; even widths with residual=concat.
        residual: How a layer joins its linear and its product part: concat or sum.
        activation: relu, gelu, silu, tanh, sigmoid, leaky_relu or identity.
        dropout1: Probability after each layer of the first block, in [0, 1).
        dropout2: The same of the second block.
        batch_norm: Normalise each hidden unit over the batch, before the activation.
        field_gate: The first block reads [E, E * gates] instead of E.
        distillation: Weight of each block's cross-entropy against the joint prediction, >= 0.

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        return  [B]        float32 logit

    Example:
        >>> model = FinalNet(num_fields=3, embed_dim=4, num_dense=0)
        >>> model(Embedded.random(batch=2, fields=3, dim=4)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        *,
        num_blocks: int = 2,
        hidden_dims1: Sequence[int] = (400, 400),
        hidden_dims2: Sequence[int] = (400,),
        residual: str = "concat",
        activation: str = "relu",
        dropout1: float = 0.0,
        dropout2: float = 0.0,
        batch_norm: bool = True,
        field_gate: bool = True,
        distillation: float = 1.0,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        if num_blocks not in (1, 2):
            raise ConfigError(f"num_blocks is {num_blocks}; it must be 1 or 2.")
        if residual not in FACTORIZATIONS:
            raise ConfigError(f'residual is "{residual}".{did_you_mean(residual, FACTORIZATIONS)}')
        if not distillation >= 0.0:
            raise ConfigError(f"distillation is {distillation}; the weight must be at least 0.")
        self.distillation = distillation
        self.gate = FieldGate(num_fields) if field_gate and num_fields else None
        fields_dim = num_fields * embed_dim
        in_dims = (fields_dim * (1 if self.gate is None else 2) + num_dense, fields_dim + num_dense)
        hidden_dims = (hidden_dims1, hidden_dims2)
        dropouts = (check_dropout("dropout1", dropout1), check_dropout("dropout2", dropout2))
        self.blocks = nn.ModuleList()
        for block in range(num_blocks):
            hidden = HiddenLayers(
                in_dims[block],
                hidden_dims[block],
                activation=activation,
                dropout=dropouts[block],
                batch_norm=batch_norm,
                factorize=residual,
            )
            output = nn.Linear(hidden.out_dim, 1)
            init_linear(output)
            self.blocks.append(nn.Sequential(hidden, output))

    def forward(self, embedded: Embedded) -> Tensor:
        return self._logits(embedded).mean(0)

    def training_outputs(self, embedded: Embedded) -> tuple[Tensor, Tensor | None]:
        logits = self._logits(embedded)
        joint = logits.mean(0)
        if len(logits) == 1 or not self.distillation:
            return joint, None
        teacher = joint.detach().sigmoid().expand_as(logits)
        losses = nn.functional.binary_cross_entropy_with_logits(logits, teacher, reduction="none")
        return joint, losses.sum(0) * self.distillation

    @torch.no_grad()
    def explain(self, embedded: Embedded) -> dict[str, Tensor]:
        """`gates` [B, F], the mean factor of each slot's coordinates."""
        self.check_input(embedded)
        return {} if self.gate is None else {"gates": self.gate(embedded.fields).mean(2)}

    def _logits(self, embedded: Embedded) -> Tensor:
        """Logits of each block, [1 or 2, B]."""
        self.check_input(embedded)
        x0 = embedded.flat()
        x1 = x0
        if self.gate is not None:
            gated = embedded.fields * self.gate(embedded.fields)
            x1 = torch.cat([x0, gated.flatten(1)], dim=1)
        logits = [block(x).squeeze(1) for block, x in zip(self.blocks, (x1, x0), strict=False)]
        return torch.stack(logits).float()
