"""New features from neighbouring ones: FGCNN's convolution, pooling and recombination.

Letters   B rows, F fields, D embedding width, C maps (channels), H height (fields left after
          pooling), R new maps, G generated fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsys.errors import ConfigError
from recsys.layers.mlp import init_linear


class FeatureGeneration(nn.Module):
    """Layers of convolution over the fields, each of which also gives fields of its own.

    A layer convolves along the fields (each of the D places by itself), takes the largest of every
    `pool_size` fields, and recombines what is left into `num_new_maps` new fields per height. Where
    `pool_size` does not divide the height, the last window is short. As neighbours are combined,
    the order of the fields matters.

    Args:
        num_fields: Fields of the input.
        dim: Width of a field.
        channels: Maps of each layer's convolution.
        kernel_size: Fields that a convolution spans; odd, so that the height is kept.
        pool_size: Fields that become one.
        num_new_maps: New fields per height that is left.
        batch_norm: Normalise each map over rows and places, before the activation.

    Attributes:
        heights: Height after each layer.
        out_fields: G, `num_new_maps` times the sum of the heights.

    Shape:
        fields  [B, F, D]
        return  [B, G, D], between -1 and 1

    Raises:
        ConfigError: An option is out of range, or a layer would pool a single field.

    Example:
        >>> layer = FeatureGeneration(10, 4, [6, 8], kernel_size=3, num_new_maps=2)
        >>> layer.heights, layer(torch.zeros(5, 10, 4)).shape
        ([5, 3], torch.Size([5, 16, 4]))
    """

    def __init__(
        self,
        num_fields: int,
        dim: int,
        channels: Sequence[int],
        *,
        kernel_size: int = 7,
        pool_size: int = 2,
        num_new_maps: int = 3,
        batch_norm: bool = True,
    ) -> None:
        super().__init__()
        if not channels or min(channels) < 1:
            raise ConfigError(
                f"channels is {list(channels)}; it must list at least one positive number of maps, "
                "such as [14, 16, 18]."
            )
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ConfigError(
                f"kernel_size is {kernel_size}; it must be odd and positive, so that as many "
                f"fields are read on either side. Use {max(1, kernel_size + 1)}."
            )
        for name, value in (("pool_size", pool_size), ("num_new_maps", num_new_maps)):
            if value < 1:
                raise ConfigError(f"{name} is {value}; it must be at least 1.")
        self.pool_size = pool_size
        self.heights = pooled_heights(num_fields, pool_size, len(channels))
        self.out_fields = num_new_maps * sum(self.heights)
        self.convolutions = nn.ModuleList()
        self.norms = nn.ModuleList()
        self.recombinations = nn.ModuleList()
        maps, height = 1, num_fields
        for out_maps, pooled in zip(channels, self.heights, strict=True):
            self.convolutions.append(FieldConvolution(height, maps, out_maps, kernel_size))
            self.norms.append(nn.BatchNorm1d(out_maps) if batch_norm else nn.Identity())
            size = pooled * dim
            self.recombinations.append(nn.Linear(size * out_maps, size * num_new_maps))
            maps, height = out_maps, pooled
        init_linear(self.recombinations)

    def forward(self, fields: Tensor) -> Tensor:
        batch, num_fields, dim = fields.shape
        maps = fields.transpose(0, 1).reshape(1, num_fields, batch * dim)  # [C, H, B * D]
        new = []
        layers = zip(self.convolutions, self.norms, self.recombinations, strict=True)
        for convolve, norm, recombine in layers:
            maps = convolve(maps)
            maps = norm(maps.flatten(1).unsqueeze(0)).view_as(maps)
            # The largest number's tanh is the largest tanh: taken first, it spares half of them.
            maps = torch.tanh(pool(maps, self.pool_size))
            rows = maps.unflatten(2, (batch, dim)).permute(2, 0, 1, 3).flatten(1)  # [B, C * H * D]
            new.append(torch.tanh(recombine(rows)).unflatten(1, (-1, dim)))
        return torch.cat(new, dim=1)


class FieldConvolution(nn.Module):
    """A convolution along the fields that keeps their number, with zeros on either side.

    As one product of matrices: with all numbers that a weight meets side by side, a band matrix
    made of the weights does the work at the speed of a product, where convolutions with so few
    maps and so short an axis spend most of their time on moving numbers. It multiplies H / kernel
    as often as needed.

    Shape:
        maps    [in_maps, H, X]   X = rows times places
        return  [out_maps, H, X]
    """

    def __init__(self, height: int, in_maps: int, out_maps: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_maps, in_maps, kernel_size))
        self.bias = nn.Parameter(torch.empty(out_maps))
        bound = (in_maps * kernel_size) ** -0.5  # torch's own for a convolution, as in BARS
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)
        steps = torch.arange(height)
        offset = steps - steps.unsqueeze(1) + kernel_size // 2
        outside = (offset < 0) | (offset >= kernel_size)
        # Which weight is between output i and input j; beyond the kernel a zero.
        self.register_buffer("band", offset.masked_fill(outside, kernel_size), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        out_maps, in_maps, _ = self.weight.shape
        height = maps.shape[1]
        padded = nn.functional.pad(self.weight, (0, 1))
        band: Tensor = padded.index_select(2, self.get_buffer("band").flatten())
        matrix = (
            band.view(out_maps, in_maps, height, height).transpose(1, 2).flatten(2).flatten(0, 1)
        )
        bias = self.bias.repeat_interleave(height).unsqueeze(1)
        out = torch.addmm(bias, matrix, maps.flatten(0, 1))
        return out.unflatten(0, (out_maps, height))


def pool(maps: Tensor, size: int) -> Tensor:
    """The largest of every `size` along the middle axis; the last window may be short.

    Shape:
        maps    [C, H, X]
        return  [C, ceil(H / size), X]

    Example:
        >>> pool(torch.tensor([3.0, 1.0, 2.0, 5.0, 4.0]).view(1, 5, 1), 3).flatten()
        tensor([3., 5.])
    """
    if torch.compiler.is_compiling():  # which cannot follow what writes into parts of a tensor
        short = -maps.shape[1] % size
        full = nn.functional.pad(maps, (0, 0, 0, short), value=-torch.inf)
        return full.unflatten(1, (-1, size)).max(dim=2).values
    largest: Tensor = _Pool.apply(maps, size)
    return largest


class _Pool(torch.autograd.Function):
    """Remembers which entries were the largest so far, one byte each: where autograd compares the
    numbers again and splits a gradient between equal ones, this gives it to the first of them."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, size: int) -> Tensor:
        largest = maps[:, ::size].clone()
        larger = []
        for start in range(1, min(size, maps.shape[1])):
            other = maps[:, start::size]
            before = largest[:, : other.shape[1]]  # a short last window has no such entry
            larger.append(other > before)
            torch.maximum(before, other, out=before)
        ctx.shape, ctx.size = maps.shape, size
        ctx.save_for_backward(*larger)
        return largest

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_largest: Tensor) -> tuple[Tensor, None]:
        d_maps = d_largest.new_empty(ctx.shape)
        left = d_largest.clone()  # of the gradient, for the entries before
        for start in range(len(ctx.saved_tensors), 0, -1):
            part, larger = d_maps[:, start :: ctx.size], ctx.saved_tensors[start - 1]
            before = left[:, : part.shape[1]]
            torch.mul(before, larger, out=part)
            before.sub_(part)
        d_maps[:, :: ctx.size] = left
        return d_maps, None


def pooled_heights(num_fields: int, pool_size: int, num_layers: int) -> list[int]:
    """Fields left after each layer that pools `pool_size` into one, the last window short.

    Raises:
        ConfigError: A layer would pool a single field.

    Example:
        >>> pooled_heights(39, 2, 4)
        [20, 10, 5, 3]
    """
    heights = [num_fields]
    for layer in range(num_layers):
        if heights[-1] < 2 and pool_size > 1:
            raise ConfigError(
                f"channels lists {num_layers} layers that pool {pool_size} fields into one, but "
                f"of {num_fields} field(s) layer {layer + 1} has one left. Use at most {layer} "
                f"layer(s), or more than {pool_size ** (num_layers - 1)} fields."
            )
        heights.append(-(-heights[-1] // pool_size))
    return heights[1:]
