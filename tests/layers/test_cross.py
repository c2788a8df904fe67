from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recsys.errors import ConfigError
from recsys.layers.cross import CrossNetwork, LowRankCrossNetwork


def randomise(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)


@pytest.mark.parametrize("seed", range(3))
def test_full_rank_equals_equation_1_written_out(seed: int) -> None:
    network = CrossNetwork(4, num_layers=3).double()
    randomise(network, seed)
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    out = network(x)
    for row in range(3):
        x0 = x[row].tolist()
        crossed = list(x0)
        for layer in network.layers:
            weight, bias = layer.weight.tolist(), layer.bias.tolist()
            crossed = [
                x0[i] * (sum(weight[i][j] * crossed[j] for j in range(4)) + bias[i]) + crossed[i]
                for i in range(4)
            ]
        assert out[row].tolist() == pytest.approx(crossed, rel=1e-10)


@pytest.mark.parametrize("num_experts", [1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_low_rank_equals_the_loop_over_experts(num_experts: int, seed: int) -> None:
    network = LowRankCrossNetwork(5, num_layers=2, rank=2, num_experts=num_experts).double()
    randomise(network, seed)
    x = torch.randn(3, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    out = network(x)
    for row in range(3):
        x0 = x[row]
        crossed = x0.clone()
        for layer in range(2):
            gates = [1.0]
            if network.gate is not None:
                raw = (network.gate.weight @ crossed + network.gate.bias).tolist()
                gates = [math.exp(g) / sum(math.exp(h) for h in raw) for g in raw]
            update = torch.zeros(5, dtype=torch.float64)
            for expert, gate in enumerate(gates):
                low = torch.tanh(network.down[layer, expert] @ crossed)
                low = torch.tanh(network.core[layer, expert] @ low)
                value = network.up[layer, expert].T @ low + network.bias[layer]
                update += gate * x0 * value
            crossed = crossed + update
        torch.testing.assert_close(out[row], crossed)


def test_the_highest_degree_is_one_more_than_the_layers() -> None:
    """On inputs scaled by t, an L-layer network without bias is a polynomial of degree L + 1."""
    network = CrossNetwork(3, num_layers=2).double()
    x = torch.randn(1, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.stack([network(t * x).detach() for t in torch.arange(6, dtype=torch.float64)])
    fourth_difference = values.diff(n=4, dim=0)
    third_difference = values.diff(n=3, dim=0)
    torch.testing.assert_close(
        fourth_difference, torch.zeros_like(fourth_difference), atol=1e-9, rtol=0
    )
    assert third_difference.abs().max() > 1e-3


def test_one_row_keeps_its_batch_axis() -> None:
    assert LowRankCrossNetwork(4, 2, rank=2, num_experts=2)(torch.ones(1, 4)).shape == (1, 4)


def test_one_expert_needs_no_gate() -> None:
    assert LowRankCrossNetwork(4, 2, rank=2, num_experts=1).gate is None


@pytest.mark.parametrize(("rank", "num_experts", "layers"), [(5, 2, 1), (2, 0, 1), (2, 2, 0)])
def test_sizes_out_of_range_are_errors(rank: int, num_experts: int, layers: int) -> None:
    with pytest.raises(ConfigError, match=r"is [05]"):
        LowRankCrossNetwork(4, layers, rank=rank, num_experts=num_experts)
