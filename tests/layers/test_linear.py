from __future__ import annotations

import torch

from recsys.layers.linear import FirstOrder


def test_sum_of_weights_dense_and_bias() -> None:
    layer = FirstOrder(num_dense=2)
    with torch.no_grad():
        layer.dense_weight.copy_(torch.tensor([2.0, -1.0]))
        layer.bias.fill_(0.5)
    linear = torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]])
    dense = torch.tensor([[1.0, 4.0], [0.5, 0.0]])
    assert layer(linear, dense).tolist() == [6.0 + 2.0 - 4.0 + 0.5, 1.0 + 0.5]


def test_nothing_is_stored_that_is_not_used() -> None:
    layer = FirstOrder(num_dense=0, bias=False)
    assert list(layer.parameters()) == []
    assert layer(torch.ones(2, 3), torch.zeros(2, 0)).tolist() == [3.0, 3.0]


def test_everything_starts_at_zero() -> None:
    assert not any(parameter.any() for parameter in FirstOrder(num_dense=4).parameters())
