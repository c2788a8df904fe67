"""Several networks of one shape side by side: one matrix product per layer for all of them.

Letters   B rows, E networks, S inputs, I input width, O output width.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.layers.mlp import build_activation, check_dropout, check_hidden_dims


class StackedLinear(nn.Module):
    """E linear maps. All read one input, or the first `counts[0]` of them the first of S inputs,
    the next `counts[1]` the second, and so on.

    Weights start as `init_linear` starts those of a single map.

    Args:
        num: E.
        in_dim: I.
        out_dim: O.
        counts: Maps that read each of S inputs, of sum E; None: one each.
        bias: Add a constant.

    Shape:
        x       [B, I], which all read, or [B, S, I]
        return  [B, E, O]

    Example:
        >>> StackedLinear(3, 4, 2)(torch.zeros(5, 4)).shape
        torch.Size([5, 3, 2])
        >>> StackedLinear(3, 4, 2, counts=[2, 1])(torch.zeros(5, 2, 4)).shape
        torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        num: int,
        in_dim: int,
        out_dim: int,
        counts: Sequence[int] | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        counts = [1] * num if counts is None else counts
        if sum(counts) != num:
            raise ValueError(f"counts {list(counts)} do not add up to {num} networks")
        # Inputs side by side that equally many maps read take one batched product: (inputs, maps).
        self.runs = [(len(list(run)), count) for count, run in itertools.groupby(counts)]
        self.weight = nn.Parameter(torch.empty(num, out_dim, in_dim))
        self.bias = nn.Parameter(torch.zeros(num, out_dim)) if bias else None
        if self.weight.numel():
            nn.init.normal_(self.weight, std=(2.0 / (in_dim + out_dim)) ** 0.5)

    def forward(self, x: Tensor) -> Tensor:
        num, out_dim, in_dim = self.weight.shape
        if x.dim() == 2:
            bias = None if self.bias is None else self.bias.flatten()
            return nn.functional.linear(x, self.weight.flatten(0, 1), bias).view(-1, num, out_dim)
        parts = []
        first = network = 0
        for inputs, count in self.runs:
            weight = self.weight[network : network + inputs * count]
            product = torch.bmm(
                x[:, first : first + inputs].transpose(0, 1),
                weight.view(inputs, count * out_dim, in_dim).transpose(1, 2),
            )
            parts.append(product.transpose(0, 1).reshape(len(x), inputs * count, out_dim))
            first, network = first + inputs, network + inputs * count
        y = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return y if self.bias is None else y + self.bias


class StackedNorm(nn.BatchNorm1d):
    """Batch normalisation of every unit of E networks.

    Args:
        num: E.
        width: O.
        eps: Added to the variance.

    Shape:
        x       [B, E, O]
        return  [B, E, O]
    """

    def __init__(self, num: int, width: int, eps: float = 1e-5) -> None:
        super().__init__(num * width, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(1)).view(x.shape)


class StackedHidden(nn.Sequential):
    """E hidden networks: linear, batch normalisation, activation, dropout; each layer for all.

    Args:
        num: E.
        in_dim: I.
        hidden_dims: Width of each layer, at least one.
        counts: Networks that read each of S inputs, of sum E; None: one each.
        activation: A name from `recsys.layers.mlp.ACTIVATIONS`.
        dropout: Probability after each activation, in [0, 1).
        batch_norm: Normalise every unit over the batch, before the activation.
        norm_eps: Added to the variance there.

    Shape:
        x       [B, I], which all read, or [B, S, I]
        return  [B, E, out_dim], where out_dim = hidden_dims[-1]

    Example:
        >>> StackedHidden(3, 4, [8, 2], activation="silu")(torch.zeros(5, 3, 4)).shape
        torch.Size([5, 3, 2])
    """

    def __init__(
        self,
        num: int,
        in_dim: int,
        hidden_dims: Sequence[int],
        *,
        counts: Sequence[int] | None = None,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        check_hidden_dims(hidden_dims)
        check_dropout("dropout", dropout)
        layers: list[nn.Module] = []
        width = in_dim
        for depth, hidden_dim in enumerate(hidden_dims):
            layers.append(StackedLinear(num, width, hidden_dim, None if depth else counts))
            if batch_norm:
                layers.append(StackedNorm(num, hidden_dim, norm_eps))
            layers.append(build_activation(activation))
            if dropout:
                layers.append(nn.Dropout(dropout))
            width = hidden_dim
        super().__init__(*layers)
        self.out_dim = width
