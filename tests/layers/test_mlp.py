from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recsys.errors import ConfigError
from recsys.layers.mlp import (
    ACTIVATIONS,
    HiddenLayers,
    build_activation,
    check_dropout,
    check_hidden_dims,
    init_linear,
)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_built_and_keeps_the_shape(name: str) -> None:
    x = torch.linspace(-2, 2, 5)
    assert build_activation(name)(x).shape == x.shape


@pytest.mark.parametrize("name", ["dice", "prelu"])
def test_activations_with_parameters_are_built_for_a_width(name: str) -> None:
    layers = HiddenLayers(4, [5, 3], activation=name)
    assert layers(torch.randn(7, 4)).shape == (7, 3)
    assert [len(build_activation(name, width).state_dict()) > 0 for width in (5, 3)] == [True] * 2
    with pytest.raises(ConfigError, match=f'"{name}" is not an activation'):
        build_activation(name)


def test_an_unknown_activation_is_named() -> None:
    with pytest.raises(ConfigError, match='"swishh" is not an activation'):
        build_activation("swishh")


def test_layers_come_in_the_order_of_the_benchmark() -> None:
    layers = HiddenLayers(3, [4, 5], dropout=0.5, batch_norm=True)
    kinds = [type(layer) for layer in layers]
    assert kinds == 2 * [nn.Linear, nn.BatchNorm1d, nn.ReLU, nn.Dropout]
    assert layers.out_dim == 5


def test_nothing_is_built_that_is_switched_off() -> None:
    assert [type(layer) for layer in HiddenLayers(3, [4])] == [nn.Linear, nn.ReLU]


@pytest.mark.parametrize("dims", [[], [0], [4, -1], [2.5]])
def test_widths_must_be_positive_integers(dims: list[float]) -> None:
    with pytest.raises(ConfigError, match="hidden_dims is"):
        check_hidden_dims(dims)


@pytest.mark.parametrize("value", [-0.1, 1.0, 2.0])
def test_dropout_must_be_a_probability(value: float) -> None:
    with pytest.raises(ConfigError, match=f"net_dropout is {value}"):
        check_dropout("net_dropout", value)


def test_dropout_in_range_is_returned() -> None:
    assert check_dropout("dropout", 0) == 0.0


def test_init_linear_is_xavier_normal_with_zero_biases() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(200, 600), nn.Linear(600, 1, bias=False), nn.LayerNorm(3))
    init_linear(module)
    assert module[0].weight.std().item() == pytest.approx(math.sqrt(2 / 800), rel=0.02)
    assert not module[0].bias.any()
    assert torch.equal(module[2].weight, torch.ones(3))
