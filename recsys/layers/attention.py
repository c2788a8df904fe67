"""Self-attention over the slots of a row.

Source    Song et al., CIKM 2019, arXiv:1810.11921, Eq. 5-8.
Letters   B rows, F slots, D input width, O output width, H heads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from recsys.errors import ConfigError, did_you_mean
from recsys.layers.fused_attention import FusedLayer, fused_attention, fused_attention_kernel
from recsys.layers.mlp import check_dropout

KERNELS = ("auto", "torch", "fused")
MAX_FUSED_DIM = 512
"""Widest layer that `kernel=auto` fuses: beyond it, the matrix products of torch win."""


class FieldAttention(nn.Module):
    """One interacting layer: multi-head self-attention over slots, residual, ReLU.

    Args:
        in_dim: Width D of each slot's vector.
        out_dim: Width O of each output vector, all heads together.
        num_heads: Attention heads; must divide `out_dim`.
        residual: Add the input to the heads' output.
        project_residual: Pass the residual through W_Res even where the widths agree; where they
            differ it is projected in any case.
        scale: Divide the scores by the square root of a head's width.
        layer_norm: Normalise each slot's vector, with learned gain and bias.
        norm_first: Normalise before the ReLU; False: after it.
        dropout: Probability on attention weights, in [0, 1).

    Shape:
        fields  [B, F, D]
        return  [B, F, O]
    """

    def __init__(
        self,
        in_dim: int,
        out_dim: int,
        num_heads: int,
        *,
        residual: bool = True,
        project_residual: bool = False,
        scale: bool = True,
        layer_norm: bool = False,
        norm_first: bool = True,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if num_heads < 1 or out_dim < 1 or out_dim % num_heads:
            raise ConfigError(
                f"num_heads is {num_heads} and attention_dim is {out_dim}; num_heads must divide "
                "attention_dim, the width of all heads together."
            )
        self.num_heads = num_heads
        self.residual = residual
        self.norm_first = norm_first
        self.dropout = check_dropout("dropout", dropout)
        self.scale = (out_dim // num_heads) ** -0.5 if scale else 1.0
        projected = residual and (project_residual or in_dim != out_dim)
        # W_Q, W_K, W_V and, when the residual is projected, W_Res: one matrix product for all.
        self.weight = nn.Parameter(torch.empty(3 + projected, out_dim, in_dim))
        for matrix in self.weight.detach():
            nn.init.xavier_normal_(matrix)
        self.norm = nn.LayerNorm(out_dim) if layer_norm else None

    def forward(self, fields: Tensor) -> Tensor:
        return self._attend(fields)[0]

    def explain(self, fields: Tensor) -> tuple[Tensor, Tensor]:
        """The layer's output and its attention weights [B, H, F, F], rows summing to one."""
        out, weights = self._attend(fields, keep_weights=True)
        assert weights is not None
        return out, weights

    def _attend(self, fields: Tensor, keep_weights: bool = False) -> tuple[Tensor, Tensor | None]:
        projections = nnf.linear(fields, self.weight.flatten(0, 1))  # [B, F, 3 or 4 times O]
        query, key, value, *projected = projections.chunk(self.weight.shape[0], dim=2)
        query, key, value = (
            x.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for x in (query, key, value)
        )  # [B, H, F, O / H]
        scores_BHFF = query @ key.transpose(2, 3) * self.scale  # Eq. 5
        weights_BHFF = scores_BHFF.softmax(dim=3)
        dropped = nnf.dropout(weights_BHFF, self.dropout, self.training)
        out = (dropped @ value).transpose(1, 2).flatten(2)  # Eq. 6-7: heads side by side
        if self.residual:
            out = out + (projected[0] if projected else fields)  # Eq. 8
        if self.norm is not None and self.norm_first:
            out = self.norm(out)
        out = torch.relu(out)
        if self.norm is not None and not self.norm_first:
            out = self.norm(out)
        return out, weights_BHFF if keep_weights else None

    def fused(self) -> FusedLayer:
        """This layer as the fused kernel reads it."""
        norm = self.norm
        return FusedLayer(
            weight=self.weight,
            num_heads=self.num_heads,
            residual=self.residual,
            scale=self.scale,
            gain=None if norm is None else norm.weight,
            bias=None if norm is None else norm.bias,
            epsilon=0.0 if norm is None else norm.eps,
            dropout=self.dropout if self.training else 0.0,
        )


class AttentionStack(nn.Sequential):
    """`FieldAttention` layers one after another: on a CPU as one fused kernel where that applies.

    The fused kernel takes float32 on the CPU, without a normalisation after the ReLU. Everything
    else, and `explain`, runs the layers' own code.

    Args:
        layers: At least one; each reads the width that the one before gives.
        kernel: auto: fused where it applies and pays; torch: never; fused: always, and an error
            that names the obstacle where it does not apply.

    Shape:
        fields  [B, F, D]
        return  [B, F, O]
    """

    def __init__(self, *layers: FieldAttention, kernel: str = "auto") -> None:
        if kernel not in KERNELS:
            raise ConfigError(f'kernel is "{kernel}".{did_you_mean(kernel, KERNELS)}')
        if not layers:
            raise ConfigError("num_layers is 0; there must be at least 1 attention layer.")
        super().__init__(*layers)
        self.kernel = kernel

    def forward(self, fields: Tensor) -> Tensor:
        if self.kernel == "torch":
            return super().forward(fields)
        obstacle = self.obstacle(fields)
        if obstacle is None:
            return fused_attention(fields, [layer.fused() for layer in self._layers()])
        if self.kernel == "fused":
            raise ConfigError(f"kernel is fused, but {obstacle}. Use kernel=auto.")
        return super().forward(fields)

    def explain(self, fields: Tensor) -> Tensor:
        """Attention weights of every layer, [B, L, H, F, F], rows summing to one."""
        weights = []
        for layer in self._layers():
            fields, weight = layer.explain(fields)
            weights.append(weight)
        return torch.stack(weights, dim=1)

    def obstacle(self, fields: Tensor) -> str | None:
        """Why the fused kernel does not apply to this input, or None where it does."""
        layers = self._layers()
        if fields.device.type != "cpu" or fields.dtype != torch.float32:
            return f"the input is {fields.dtype} on {fields.device}, not float32 on a CPU"
        if type(fields) not in (Tensor, nn.Parameter) or torch.compiler.is_compiling():
            return "torch is tracing the model"
        if torch.is_autocast_enabled("cpu"):
            return "autocast is on"
        if any(p.dtype != torch.float32 or p.device.type != "cpu" for p in self.parameters()):
            return "the weights are not all float32 on a CPU"
        if any(layer.norm is not None and not layer.norm_first for layer in layers):
            return "layers normalise after the ReLU"
        widest = max(max(layer.weight.shape[1:]) for layer in layers)
        if self.kernel == "auto" and widest > MAX_FUSED_DIM:
            return f"torch is faster at width {widest}"
        return None if fused_attention_kernel() else "the kernel could not be built"

    def _layers(self) -> list[FieldAttention]:
        return [layer for layer in self if isinstance(layer, FieldAttention)]
