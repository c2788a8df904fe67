"""Compressed interaction network of xDeepFM: vector-wise interactions of bounded degree.

Source    Lian et al., KDD 2018, arXiv:1803.05170, Sec. 3.1, Eq. 6 and 8.
Letters   B rows, F slots, D embedding width, H maps of the layer before, O maps of a layer,
          C = B D columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.layers.mlp import init_linear


class CIN(nn.Module):
    """Each map of a layer weighs the products of every map before it with every slot; all maps are
    summed over the width, and one linear unit reads these sums.

    `x_l[o] = sum_hf W_l[o, h, f] x_{l-1}[h] * x_0[f] + b_l[o]`, `x_0` being the fields, and
    `logit = sum_l w_l . sum_d x_l[:, d] + c`, without an activation, as in BARS.

    Maps of the last layer only enter their weighted sum, which is the same number whichever sum
    is done first. So the last layer is one map, `u = sum_o w[o] W[o]`, and costs 2 B D H F
    floating-point operations instead of 2 B D H F O; a network of one layer never forms a product
    per map. Every other layer is one matrix product of 2 B D H F O.

    Args:
        num_fields: Slots, at least 1.
        layer_dims: Maps of each layer, at least one layer.

    Shape:
        fields  [B, F, D]
        return  [B]

    Example:
        >>> CIN(3, [4, 2])(torch.zeros(5, 3, 8)).shape
        torch.Size([5])
    """

    def __init__(self, num_fields: int, layer_dims: Sequence[int]) -> None:
        super().__init__()
        if not layer_dims or any(int(width) != width or width < 1 for width in layer_dims):
            raise ConfigError(
                f"cin_dims is {list(layer_dims)}; it must list at least one positive number of "
                "maps, such as [64]."
            )
        widths = [num_fields, *layer_dims]
        self.weights = nn.ParameterList(
            torch.empty(out_dim, in_dim, num_fields)
            for in_dim, out_dim in zip(widths[:-1], layer_dims, strict=True)
        )
        self.biases = nn.ParameterList(torch.zeros(out_dim) for out_dim in layer_dims)
        self.output = nn.Linear(sum(layer_dims), 1)
        for weight in self.weights:
            nn.init.xavier_normal_(weight.detach().flatten(1))
        init_linear(self.output)

    def forward(self, fields: Tensor) -> Tensor:
        batch, _, dim = fields.shape
        x0 = fields.transpose(0, 1).flatten(1)  # [F, C]: a layer is one matrix product
        x, columns = x0, x0.new_zeros(batch * dim)
        constant = self.output.bias
        last = len(self.weights) - 1
        pools = self.output.weight[0].split([len(bias) for bias in self.biases])
        for index, (weight, bias, pool) in enumerate(
            zip(self.weights, self.biases, pools, strict=True)
        ):
            if index == last:
                combined = torch.tensordot(pool, weight, dims=1)  # u, [H, F]
                columns = columns + (x * (combined @ x0)).sum(dim=0)
                constant = constant + dim * (pool @ bias)  # the bias is summed over the width
            else:
                products = (x.unsqueeze(1) * x0).flatten(0, 1)
                x = torch.addmm(bias.unsqueeze(1), weight.flatten(1), products)  # Eq. 6
                columns = columns + pool @ x
        return columns.view(batch, dim).sum(dim=1) + constant  # Eq. 8
