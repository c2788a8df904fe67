from __future__ import annotations

import pytest
import torch
from torch import nn

from recsys.layers.stacked import StackedHidden, StackedLinear, StackedNorm


def linears(stacked: StackedLinear) -> list[nn.Linear]:
    """The same maps one by one."""
    found = []
    for index, weight in enumerate(stacked.weight):
        one = nn.Linear(weight.shape[1], weight.shape[0], bias=stacked.bias is not None)
        one.weight.data.copy_(weight)
        if stacked.bias is not None:
            one.bias.data.copy_(stacked.bias[index])
        found.append(one.double())
    return found


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("counts", [None, [1] * 5, [2, 2, 1], [1, 2, 2], [3, 2], [5], [1, 3, 1]])
def test_maps_of_several_inputs_equal_maps_one_by_one(counts: list[int] | None, bias: bool) -> None:
    torch.manual_seed(0)
    stacked = StackedLinear(5, 4, 3, counts, bias=bias).double()
    if stacked.bias is not None:
        stacked.bias.data.normal_()
    inputs = len(counts) if counts else 5
    x = torch.randn(7, inputs, 4, dtype=torch.float64)
    owner = [s for s, count in enumerate(counts or [1] * 5) for _ in range(count)]
    slow = torch.stack([m(x[:, s]) for m, s in zip(linears(stacked), owner, strict=True)], dim=1)
    torch.testing.assert_close(stacked(x), slow)


def test_one_input_for_all() -> None:
    stacked = StackedLinear(5, 4, 3, [2, 3]).double()
    x = torch.randn(7, 4, dtype=torch.float64)
    slow = torch.stack([one(x) for one in linears(stacked)], dim=1)
    torch.testing.assert_close(stacked(x), slow)


def test_counts_must_add_up() -> None:
    with pytest.raises(ValueError, match=r"\[2, 2\] do not add up to 5"):
        StackedLinear(5, 4, 3, [2, 2])


def test_weights_start_as_those_of_single_maps() -> None:
    torch.manual_seed(0)
    weight = StackedLinear(4, 300, 100).weight
    assert weight.std().item() == pytest.approx((2 / 400) ** 0.5, rel=0.02)


@pytest.mark.parametrize("own", [True, False])
def test_hidden_networks_equal_networks_one_by_one(own: bool) -> None:
    torch.manual_seed(0)
    stacked = StackedHidden(3, 4, [6, 5], activation="silu", batch_norm=True, norm_eps=1e-3)
    stacked.double()
    x = torch.randn(9, 3, 4, dtype=torch.float64)
    if not own:
        x = x[:, 0]
    outputs = []
    for index in range(3):
        value = x[:, index] if own else x
        for layer in stacked:
            if isinstance(layer, StackedLinear):
                value = linears(layer)[index](value)
            elif isinstance(layer, StackedNorm):
                variance, mean = torch.var_mean(value, dim=0, correction=0)
                value = (value - mean) / (variance + 1e-3).sqrt()
            else:
                value = value * value.sigmoid()
        outputs.append(value)
    torch.testing.assert_close(stacked(x), torch.stack(outputs, dim=1))
