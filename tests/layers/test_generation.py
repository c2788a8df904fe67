"""Feature generation against loops in float64, for every remainder of the pooling."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.layers.generation import FeatureGeneration, FieldConvolution, pool, pooled_heights


def build(num_fields: int, dim: int, channels: list[int], **options: object) -> FeatureGeneration:
    torch.manual_seed(0)
    layer = FeatureGeneration(num_fields, dim, channels, **options).double()
    for name, parameter in layer.named_parameters():
        if name.startswith("norms") or name.endswith("bias"):
            nn.init.normal_(parameter)  # negative gains among them
    return layer


def by_loops(layer: FeatureGeneration, fields: Tensor) -> Tensor:
    """Convolution, batch normalisation, tanh, pooling, recombination, one number at a time."""
    batch, _, dim = fields.shape
    maps = [[fields[:, i] for i in range(fields.shape[1])]]  # [C][H] of [B, D]
    new = []
    layers = zip(layer.convolutions, layer.norms, layer.recombinations, strict=True)
    for convolve, norm, recombine in layers:
        convolved = []
        for m, kernel in enumerate(convolve.weight):
            column = []
            for i in range(len(maps[0])):
                total = convolve.bias[m].expand(batch, dim)
                for c, inputs in enumerate(maps):
                    for k in range(kernel.shape[1]):
                        j = i + k - kernel.shape[1] // 2
                        if 0 <= j < len(inputs):
                            total = total + kernel[c, k] * inputs[j]
                column.append(total)
            convolved.append(column)
        if isinstance(norm, nn.BatchNorm1d):
            for m, column in enumerate(convolved):
                numbers = torch.cat([entry.flatten() for entry in column])
                variance, mean = torch.var_mean(numbers, correction=0)
                scale = norm.weight[m] / (variance + norm.eps).sqrt()
                convolved[m] = [(entry - mean) * scale + norm.bias[m] for entry in column]
        maps = [[entry.tanh() for entry in column] for column in convolved]
        size = layer.pool_size
        maps = [
            [
                torch.stack(column[first : first + size]).amax(dim=0)
                for first in range(0, len(column), size)
            ]
            for column in maps
        ]
        rows = []
        for b in range(batch):
            flat = torch.cat([entry[b] for column in maps for entry in column])
            made = torch.tanh(recombine.weight @ flat + recombine.bias)
            rows.append(made.view(-1, dim))
        new.append(torch.stack(rows))
    return torch.cat(new, dim=1)


@pytest.mark.parametrize(
    ("num_fields", "channels", "options"),
    [
        (5, [3, 4, 2], {"kernel_size": 3, "num_new_maps": 2}),
        (10, [4], {"kernel_size": 7, "batch_norm": False}),
        (11, [2, 3], {"kernel_size": 5, "pool_size": 3}),  # both-sided padding breaks here
        (10, [2, 3], {"kernel_size": 3, "pool_size": 3, "num_new_maps": 1}),
        (9, [2, 2], {"kernel_size": 1, "pool_size": 3}),
        (4, [3], {"kernel_size": 9, "pool_size": 7, "batch_norm": False}),
        (3, [2, 2], {"kernel_size": 3, "pool_size": 1}),
        (9, [3], {"kernel_size": 3, "pool_size": 4}),
    ],
    ids=str,
)
def test_forward_and_backward_equal_loops(
    num_fields: int, channels: list[int], options: dict[str, object]
) -> None:
    layer = build(num_fields, 3, channels, **options)
    generator = torch.Generator().manual_seed(1)
    fields = torch.randn(4, num_fields, 3, generator=generator, dtype=torch.float64)
    fields.requires_grad_()
    found, expected = layer(fields), by_loops(layer, fields)
    assert found.shape == (4, layer.out_fields, 3)
    torch.testing.assert_close(found, expected)
    weight = torch.randn(found.shape, generator=generator, dtype=torch.float64)
    wanted = [fields, *layer.parameters()]
    exact = torch.autograd.grad(expected, wanted, weight)
    for one, other in zip(torch.autograd.grad(found, wanted, weight), exact, strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("kernel_size", [1, 3, 7, 9])
@pytest.mark.parametrize("height", [1, 2, 5, 10])
def test_convolution_is_torch_s(height: int, kernel_size: int) -> None:
    torch.manual_seed(0)
    convolve = FieldConvolution(height, 2, 3, kernel_size).double()
    maps = torch.randn(2, height, 6, dtype=torch.float64, requires_grad=True)
    image = maps.unsqueeze(0)  # one-row batch of [C, H, X] images
    expected = nn.functional.conv2d(
        image, convolve.weight.unsqueeze(3), convolve.bias, padding=(kernel_size // 2, 0)
    )
    found = convolve(maps)
    torch.testing.assert_close(found, expected[0])
    weight = torch.randn_like(found)
    wanted = [maps, convolve.weight, convolve.bias]
    ours = torch.autograd.grad(found, wanted, weight)
    theirs = torch.autograd.grad(expected[0], wanted, weight)
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("height", range(1, 13))
@pytest.mark.parametrize("size", [1, 2, 3, 5, 20])
def test_pool_takes_the_largest_of_every_window(height: int, size: int) -> None:
    torch.manual_seed(height)
    maps = torch.randn(2, height, 3, requires_grad=True)
    found = pool(maps, size)
    expected = torch.stack(
        [maps[:, first : first + size].amax(dim=1) for first in range(0, height, size)], dim=1
    )
    assert torch.equal(found, expected)
    assert found.shape[1] == math.ceil(height / size)
    weight = torch.randn_like(found)
    (ours,) = torch.autograd.grad(found, maps, weight)
    (theirs,) = torch.autograd.grad(expected, maps, weight)
    torch.testing.assert_close(ours, theirs)


def test_pool_is_the_same_where_torch_traces() -> None:
    maps = torch.randn(2, 7, 3)
    traced = torch.compile(lambda x: pool(x, 3), backend="eager", fullgraph=True)
    assert torch.equal(traced(maps), pool(maps, 3))


def test_heights_of_the_paper() -> None:
    assert pooled_heights(39, 2, 4) == [20, 10, 5, 3]
    assert pooled_heights(24, 2, 4) == [12, 6, 3, 2]
    assert pooled_heights(11, 3, 2) == [4, 2]
    assert pooled_heights(3, 1, 3) == [3, 3, 3]


@pytest.mark.parametrize(("num_fields", "layers", "enough"), [(4, 3, 5), (8, 4, 9), (1, 1, 2)])
def test_too_few_fields_to_pool_are_named(num_fields: int, layers: int, enough: int) -> None:
    with pytest.raises(ConfigError, match=f"{layers} layers .*more than {enough - 1} fields"):
        pooled_heights(num_fields, 2, layers)
    assert len(pooled_heights(enough, 2, layers)) == layers


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": []}, r"channels is \[\]"),
        ({"channels": [4, 0]}, r"channels is \[4, 0\]"),
        ({"kernel_size": 4}, "kernel_size is 4; it must be odd.*Use 5"),
        ({"kernel_size": -1}, "kernel_size is -1"),
        ({"pool_size": 0}, "pool_size is 0"),
        ({"num_new_maps": 0}, "num_new_maps is 0"),
    ],
)
def test_options_out_of_range_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        FeatureGeneration(10, 4, **({"channels": [3]} | options))


def test_the_order_of_fields_matters() -> None:
    layer = build(6, 3, [3, 2]).eval()
    fields = torch.randn(4, 6, 3, dtype=torch.float64)
    assert not torch.allclose(layer(fields), layer(fields.flip(1)))


def test_sizes_and_no_rows() -> None:
    with torch.device("meta"):
        layer = FeatureGeneration(39, 16, [38, 40, 42, 44], kernel_size=9)
    assert layer.out_fields == 114
    assert layer.recombinations[0].weight.shape == (960, 12_160)
    assert sum(p.numel() for p in layer.convolutions.parameters()) == 9 * (
        38 + 38 * 40 + 40 * 42 + 42 * 44
    ) + (38 + 40 + 42 + 44)
    small = FeatureGeneration(5, 2, [3, 2]).eval()
    assert small(torch.zeros(0, 5, 2)).shape == (0, small.out_fields, 2)
    assert "band" not in str(list(small.state_dict()))
