"""Instance-guided masks: hidden units multiplied by numbers that the row's own input chooses.

Source    Wang et al., DLP-KDD 2021, arXiv:2102.07619, Sec. 3.
Letters   B rows, X width of the input x0, H width of what is masked, O width of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.layers.mlp import HiddenLayers, build_activation, check_dropout, init_linear


class MaskBlock(nn.Module):
    """`act(LN(W (mask(x0) * hidden)))`, where `mask(x0) = W2 relu(W1 x0 + b1) + b2`.

    Args:
        x0_dim: Width X of the input that the mask is made of.
        in_dim: Width H of the units that are masked.
        out_dim: Width O of the output.
        reduction_ratio: Width of the mask's hidden layer over H; above 1 it is wider.
        layer_norm: Normalise the output units of a row before the activation.
        activation: Name from `ACTIVATIONS`.
        dropout: Probability after the activation, in [0, 1).

    Shape:
        x0      [B, x0_dim]
        hidden  [B, in_dim]
        return  [B, out_dim]

    Example:
        >>> MaskBlock(6, 6, 4)(torch.zeros(3, 6), torch.zeros(3, 6)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        x0_dim: int,
        in_dim: int,
        out_dim: int,
        *,
        reduction_ratio: float = 2.0,
        layer_norm: bool = True,
        activation: str = "relu",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        wide = int(in_dim * reduction_ratio)
        if wide < 1:
            raise ConfigError(
                f"reduction_ratio is {reduction_ratio}; the mask's hidden layer must keep at least "
                f"one unit, so it must be at least 1 / {in_dim}, the width of what is masked."
            )
        projection = nn.Linear(wide, in_dim)
        self.mask = nn.Sequential(HiddenLayers(x0_dim, [wide]), projection)
        layers: list[nn.Module] = [nn.Linear(in_dim, out_dim, bias=False)]
        if layer_norm:
            layers.append(nn.LayerNorm(out_dim))
        layers.append(build_activation(activation))
        if check_dropout("dropout", dropout):
            layers.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*layers)
        init_linear(self)

    def forward(self, x0: Tensor, hidden: Tensor) -> Tensor:
        out: Tensor = self.layers(self.mask(x0) * hidden)
        return out


class SlotNorm(nn.Module):
    """Layer normalisation of each slot's vector, with a gain and a shift per slot and place.

    Args:
        num_fields: Slots F.
        embed_dim: Width D of a vector.
        epsilon: Added to the variance.

    Shape:
        fields  [B, F, D]
        return  [B, F, D]
    """

    def __init__(self, num_fields: int, embed_dim: int, *, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(num_fields, embed_dim))
        self.shift = nn.Parameter(torch.zeros(num_fields, embed_dim))
        self.epsilon = epsilon

    def forward(self, fields: Tensor) -> Tensor:
        normal = nn.functional.layer_norm(fields, fields.shape[2:], eps=self.epsilon)
        return torch.addcmul(self.shift, normal, self.gain)
