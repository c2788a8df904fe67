"""Compressed interaction network of xDeepFM: vector-wise interactions of bounded degree.

Source    Lian et al., KDD 2018, arXiv:1803.05170, Sec. 3.1, Eq. 6 and 8.
Letters   B rows, F slots, D embedding width, H maps of the layer before, O maps of a layer,
          C = B D columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsys.errors import ConfigError
from recsys.layers.mlp import init_linear

CPU_BLOCK_BYTES = 4 << 20
"""Products formed at once on a CPU: blocks that stay in its caches."""
BLOCK_BYTES = 256 << 20
"""Products formed at once elsewhere: few launches, and still a bound on memory."""


class CIN(nn.Module):
    """Each map of a layer weighs the products of every map before it with every slot; all maps are
    summed over the width, and one linear unit reads these sums.

    `x_l[o] = sum_hf W_l[o, h, f] x_{l-1}[h] * x_0[f] + b_l[o]`, `x_0` being the fields, and
    `logit = sum_l w_l . sum_d x_l[:, d] + c`, without an activation, as in BARS.

    Three things make it cheap, and none changes the numbers beyond rounding. The last layer's maps
    only enter their weighted sum, so it is summed first: one map `sum_o w[o] W[o]`, 2 B D H F
    floating-point operations instead of 2 B D H F O, and a network of one layer never forms a
    product per map. In the first layer x_1[h] * x_0[f] and x_1[f] * x_0[h] are the same product
    and share one weight: B D F (F + 1) O operations instead of 2 B D F F O. The products of every
    other layer, 2 B D H F O operations, are formed block by block and again in the backward pass,
    which costs as many again twice: nothing of [H F, C] is ever kept.

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
                x = _compress(x, None if x is x0 else x0, weight, bias)  # Eq. 6
                columns = columns + pool @ x
        return columns.view(batch, dim).sum(dim=1) + constant  # Eq. 8


def _compress(x: Tensor, x0: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
    """Maps [O, C] of the products of x [H, C] with x0 [F, C], or with itself where x0 is None."""
    if torch.compiler.is_compiling():  # a traced loop over blocks would be a graph of its length
        products = (x.unsqueeze(1) * (x if x0 is None else x0)).flatten(0, 1)
        return torch.addmm(bias.unsqueeze(1), weight.flatten(1), products)
    maps: Tensor = _Compress.apply(
        x, x0, _distinct(weight) if x0 is None else weight.flatten(1), bias
    )
    return maps


def _distinct(weight: Tensor) -> Tensor:
    """Weights of the products h <= f, [O, F (F + 1) / 2]: both orders' sum, a square's own."""
    num_fields = weight.shape[1]
    row, column = torch.triu_indices(num_fields, num_fields, device=weight.device)
    both = (weight + weight.transpose(1, 2)).flatten(1)
    return both.index_select(1, row * num_fields + column) * torch.where(row == column, 0.5, 1.0)


class _Compress(torch.autograd.Function):
    """`weight @ products + bias` in blocks of columns; `weight` has a column per product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, x0: Tensor | None, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, x0, weight)
        maps = x.new_empty(len(weight), x.shape[1])
        for start, stop in _blocks(x, weight):
            products = _products(x[:, start:stop], None if x0 is None else x0[:, start:stop])
            maps[:, start:stop] = torch.addmm(bias.unsqueeze(1), weight, products)
        return maps

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_maps: Tensor) -> tuple[Tensor | None, ...]:
        x, x0, weight = ctx.saved_tensors
        d_x, d_weight = torch.zeros_like(x), torch.zeros_like(weight)
        d_x0 = None if x0 is None else torch.empty_like(x0)
        for start, stop in _blocks(x, weight):
            x_block, d_block = x[:, start:stop], d_maps[:, start:stop]
            x0_block = None if x0 is None else x0[:, start:stop]
            d_weight.addmm_(d_block, _products(x_block, x0_block).T)
            d_products = torch.mm(weight.T, d_block)
            if x0_block is None:
                d_x_block = d_x[:, start:stop]
                for slot, part in enumerate(_by_slot(d_products, len(x))):
                    d_x_block[slot] += (part * x_block[slot:]).sum(dim=0)
                    d_x_block[slot:].addcmul_(part, x_block[slot])
            else:
                assert d_x0 is not None
                d_pairs = d_products.unflatten(0, (len(x), len(x0)))
                d_x[:, start:stop] = (d_pairs * x0_block).sum(dim=1)
                d_x0[:, start:stop] = (d_pairs * x_block.unsqueeze(1)).sum(dim=0)
        return d_x, d_x0, d_weight, d_maps.sum(dim=1)


def _products(x: Tensor, x0: Tensor | None) -> Tensor:
    """x[h] * x0[f] of every pair, or x[h] * x[f] of every pair h <= f, row by row."""
    if x0 is not None:
        return (x.unsqueeze(1) * x0).flatten(0, 1)
    products = x.new_empty(len(x) * (len(x) + 1) // 2, x.shape[1])
    for slot, part in enumerate(_by_slot(products, len(x))):
        torch.mul(x[slot], x[slot:], out=part)
    return products


def _by_slot(products: Tensor, num_fields: int) -> tuple[Tensor, ...]:
    """Rows of the products h <= f, as a view for each h."""
    return products.split(list(range(num_fields, 0, -1)))


def _blocks(x: Tensor, weight: Tensor) -> list[tuple[int, int]]:
    """Columns from and to, such that a block's products take a bounded number of bytes."""
    num_bytes = CPU_BLOCK_BYTES if x.device.type == "cpu" else BLOCK_BYTES
    width = max(64, num_bytes // (x.element_size() * weight.shape[1]))
    num_columns = x.shape[1]
    return [(start, min(start + width, num_columns)) for start in range(0, num_columns, width)]
