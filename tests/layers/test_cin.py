from __future__ import annotations

import pytest
import torch

from recsys.errors import ConfigError
from recsys.layers import cin
from recsys.layers.cin import CIN


def by_loops(network: CIN, fields: list[list[float]]) -> float:
    """The equations of the paper for one row, number by number; every map is formed."""
    width, pools = len(fields[0]), []
    maps = fields
    for weight, bias in zip(network.weights, network.biases, strict=True):
        layer = []
        for w, b in zip(weight.tolist(), bias.tolist(), strict=True):
            layer.append(
                [
                    b
                    + sum(
                        w[h][f] * maps[h][d] * fields[f][d]
                        for h in range(len(maps))
                        for f in range(len(fields))
                    )
                    for d in range(width)
                ]
            )
        maps = layer
        pools += [sum(values) for values in maps]
    output = network.output
    return (
        sum(w * p for w, p in zip(output.weight[0].tolist(), pools, strict=True))
        + output.bias.item()
    )


def network_of(num_fields: int, layer_dims: list[int], seed: int) -> CIN:
    generator = torch.Generator().manual_seed(seed)
    network = CIN(num_fields, layer_dims).double()
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    return network


@pytest.mark.parametrize("layer_dims", [[1], [4], [3, 2], [2, 4, 3]], ids=str)
@pytest.mark.parametrize(("batch", "num_fields", "dim"), [(3, 4, 2), (2, 1, 3), (1, 3, 1)])
def test_equals_the_equations_written_out(
    layer_dims: list[int], batch: int, num_fields: int, dim: int
) -> None:
    network = network_of(num_fields, layer_dims, seed=len(layer_dims))
    generator = torch.Generator().manual_seed(batch)
    fields = torch.randn(batch, num_fields, dim, generator=generator, dtype=torch.float64)
    expected = [by_loops(network, row) for row in fields.tolist()]
    assert network(fields).tolist() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("layer_dims", [[4], [3, 2], [2, 4, 3]], ids=str)
def test_gradient_equals_differences_of_the_loops(layer_dims: list[int]) -> None:
    """Every number of the fields and parameters, moved by a little."""
    network = network_of(3, layer_dims, seed=1)
    generator = torch.Generator().manual_seed(2)
    fields = torch.randn(2, 3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.tensor([1.0, -2.0], dtype=torch.float64)
    (network(fields) * weight).sum().backward()

    def value() -> float:
        rows = [by_loops(network, row) for row in fields.tolist()]
        return sum(w * row for w, row in zip(weight.tolist(), rows, strict=True))

    step = 1e-5
    for tensor in (fields, *network.parameters()):
        flat, gradient = tensor.data.view(-1), tensor.grad
        assert gradient is not None
        for place, found in enumerate(gradient.flatten().tolist()):
            kept = flat[place].item()
            flat[place] = kept + step
            above = value()
            flat[place] = kept - step
            below = value()
            flat[place] = kept
            assert found == pytest.approx((above - below) / (2 * step), rel=1e-6, abs=1e-5)


@pytest.mark.parametrize("layer_dims", [[4, 2], [3, 5, 2]], ids=str)
def test_blocks_of_columns_add_up(layer_dims: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """150 columns in one block, and in blocks of 64 of which the last is not full."""
    network = network_of(3, layer_dims, seed=1)
    generator = torch.Generator().manual_seed(2)
    fields = torch.randn(30, 3, 5, generator=generator, dtype=torch.float64, requires_grad=True)

    def run() -> list[torch.Tensor]:
        network.zero_grad()
        fields.grad = None
        logit = network(fields)
        logit.square().sum().backward()
        return [logit.detach(), fields.grad, *(p.grad for p in network.parameters())]

    whole = run()
    monkeypatch.setattr(cin, "CPU_BLOCK_BYTES", 1)
    for found, expected in zip(run(), whole, strict=True):
        torch.testing.assert_close(found, expected)


def test_equals_the_form_that_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    network = network_of(4, [3, 2, 2], seed=3)
    fields = torch.randn(5, 4, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    blocked = network(fields)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    torch.testing.assert_close(network(fields), blocked)


def test_the_highest_degree_is_one_more_than_the_layers() -> None:
    """On inputs scaled by t, L layers are a polynomial of degree L + 1."""
    network = network_of(3, [2, 2], seed=0)
    fields = torch.randn(1, 3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    values = torch.stack([network(t * fields).detach() for t in torch.arange(6.0).double()])
    assert values.diff(n=4, dim=0).abs().max() < 1e-8
    assert values.diff(n=3, dim=0).abs().max() > 1e-3


def test_no_rows() -> None:
    assert CIN(3, [4, 2])(torch.zeros(0, 3, 5)).shape == (0,)


def test_weights_start_as_those_of_the_benchmark() -> None:
    """Xavier over all products of a layer, as the convolution of width 1 in BARS."""
    torch.manual_seed(0)
    network = CIN(20, [50, 30])
    assert network.weights[0].std().item() == pytest.approx((2 / (400 + 50)) ** 0.5, rel=0.03)
    assert network.weights[1].std().item() == pytest.approx((2 / (1000 + 30)) ** 0.5, rel=0.03)
    assert not any(bias.any() for bias in network.biases)


@pytest.mark.parametrize("layer_dims", [[], [0], [4, -1], [2.5]])
def test_maps_must_be_positive_integers(layer_dims: list[int]) -> None:
    with pytest.raises(ConfigError, match="cin_dims is"):
        CIN(3, layer_dims)
