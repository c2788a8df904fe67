"""AutoInt and AutoInt+: feature interactions by self-attention over fields.

Source   Song et al., CIKM 2019, arXiv:1810.11921, Sec. 4, Eq. 2-10.
Differs  Defaults scale the scores, normalise each slot and keep the residual unprojected where
         widths agree, as the BARS benchmark does. Why: the ReLU that ends a layer zeroes much of
         every vector, and normalised layers train in fewer epochs. The paper's own model is
         `scale=False layer_norm=False project_residual=True`.
         AutoInt+ is `hidden_dims=[400, 400, 400]`: its network reads the slots' vectors, those of
         the dense columns included.
Shapes   B rows, F slots, N dense columns, D embedding, L layers, H heads.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.layers.attention import AttentionStack, FieldAttention
from recsys.layers.linear import FirstOrder
from recsys.layers.mlp import HiddenLayers, init_linear
from recsys.models.base import CTRModel


class AutoInt(CTRModel):
    """Layers of multi-head self-attention in which every slot gathers the slots it interacts with.

    Each dense column has a learned vector, which its number scales (Eq. 4), and is a slot like
    the others.

    Args:
        attention_dim: Width of a layer's output vectors, all heads together.
        num_heads: Attention heads; must divide `attention_dim`.
        num_layers: Attention layers.
        residual: Add each layer's input to its output.
        project_residual: Pass the residual through a matrix even where widths agree (the paper).
        scale: Divide the scores by the square root of a head's width.
        layer_norm: Normalise each slot's vector in every layer.
        norm_first: Normalise before the ReLU (BARS); False: after it (the authors' code).
        dropout: Probability on attention weights, in [0, 1).
        wide: Add the first-order term of every feature, without a bias of its own.
        hidden_dims: Hidden layers of AutoInt+; empty for AutoInt.
        activation: Activation of the hidden layers.
        hidden_dropout: Probability after each hidden layer, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch.
        kernel: How attention runs: auto (one fused kernel on a CPU where it applies, else torch),
            torch, or fused (an error where it does not apply). The numbers agree to rounding.

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        return  [B]        float32 logit

    Example:
        >>> model = AutoInt(num_fields=3, embed_dim=4, num_dense=0)
        >>> model(Embedded.random(batch=2, fields=3, dim=4)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        *,
        attention_dim: int = 32,
        num_heads: int = 2,
        num_layers: int = 3,
        residual: bool = True,
        project_residual: bool = False,
        scale: bool = True,
        layer_norm: bool = True,
        norm_first: bool = True,
        dropout: float = 0.0,
        wide: bool = False,
        hidden_dims: Sequence[int] = (),
        activation: str = "relu",
        hidden_dropout: float = 0.0,
        batch_norm: bool = False,
        kernel: str = "auto",
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        self.needs_linear = wide
        num_slots = num_fields + num_dense
        self.dense_vectors = (
            nn.Parameter(torch.randn(num_dense, embed_dim) * embed_dim**-0.5) if num_dense else None
        )
        layers = [
            FieldAttention(
                attention_dim if layer else embed_dim,
                attention_dim,
                num_heads,
                residual=residual,
                project_residual=project_residual,
                scale=scale,
                layer_norm=layer_norm,
                norm_first=norm_first,
                dropout=dropout,
            )
            for layer in range(num_layers)
        ]
        self.attention = AttentionStack(*layers, kernel=kernel)
        self.output = nn.Linear(num_slots * attention_dim, 1)
        init_linear(self.output)
        self.first_order = FirstOrder(num_dense, bias=False) if wide else None
        self.hidden = None
        if hidden_dims:
            self.hidden = nn.Sequential(
                HiddenLayers(
                    num_slots * embed_dim,
                    hidden_dims,
                    activation=activation,
                    dropout=hidden_dropout,
                    batch_norm=batch_norm,
                ),
                nn.Linear(hidden_dims[-1], 1),
            )
            init_linear(self.hidden)

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        slots = self._slots(embedded)
        attended = self.attention(slots)  # Eq. 5-8 in every layer
        logit: Tensor = self.output(attended.flatten(1)).squeeze(1)  # Eq. 9, before the sigmoid
        if self.hidden is not None:
            logit = logit + self.hidden(slots.flatten(1)).squeeze(1)  # AutoInt+, Sec. 5.5
        if self.first_order is not None:
            assert embedded.linear is not None
            logit = logit + self.first_order(embedded.linear, embedded.dense)
        return logit.float()

    @torch.no_grad()
    def explain(self, embedded: Embedded) -> dict[str, Tensor]:
        """`attention` [B, L, H, F + N, F + N]: how much each slot (row) reads of each (column)."""
        self.check_input(embedded)
        return {"attention": self.attention.explain(self._slots(embedded))}

    def _slots(self, embedded: Embedded) -> Tensor:
        """Field vectors, then one vector per dense column, [B, F + N, D]."""
        if self.dense_vectors is None:
            return embedded.fields
        scaled = embedded.dense.unsqueeze(2) * self.dense_vectors  # Eq. 4: e_m = v_m x_m
        return torch.cat([embedded.fields, scaled], dim=1)
