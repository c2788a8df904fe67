from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recsys.errors import ConfigError
from recsys.layers.mask import MaskBlock, SlotNorm


def normalise_by_loops(values: list[float], gain: list[float], shift: list[float]) -> list[float]:
    mean = sum(values) / len(values)
    variance = sum((value - mean) ** 2 for value in values) / len(values)
    return [
        g * (value - mean) / math.sqrt(variance + 1e-5) + s
        for value, g, s in zip(values, gain, shift, strict=True)
    ]


def linear_by_loops(layer: nn.Linear, values: list[float]) -> list[float]:
    bias = [0.0] * layer.out_features if layer.bias is None else layer.bias.tolist()
    return [
        sum(w * x for w, x in zip(weights, values, strict=True)) + b
        for weights, b in zip(layer.weight.tolist(), bias, strict=True)
    ]


def block_by_loops(block: MaskBlock, x0: list[float], hidden: list[float]) -> list[float]:
    """The equations of the paper for one row, with ReLU and without dropout."""
    first, second = (layer for layer in block.mask.modules() if isinstance(layer, nn.Linear))
    mask = linear_by_loops(second, [max(0.0, value) for value in linear_by_loops(first, x0)])
    out = linear_by_loops(block.layers[0], [m * h for m, h in zip(mask, hidden, strict=True)])
    norm = block.layers[1]
    if isinstance(norm, nn.LayerNorm):
        out = normalise_by_loops(out, norm.weight.tolist(), norm.bias.tolist())
    return [max(0.0, value) for value in out]


@pytest.mark.parametrize("layer_norm", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_block_equals_the_equations_written_out(seed: int, layer_norm: bool) -> None:
    torch.manual_seed(seed)
    block = MaskBlock(4, 3, 5, reduction_ratio=1.5, layer_norm=layer_norm).double()
    for parameter in block.requires_grad_(False).parameters():
        parameter.normal_()
    x0, hidden = torch.randn(6, 4).double(), torch.randn(6, 3).double()
    assert block.mask[0][0].out_features == 4
    for row, found in enumerate(block(x0, hidden).tolist()):
        expected = block_by_loops(block, x0[row].tolist(), hidden[row].tolist())
        assert found == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_dropout_is_the_last_layer_and_only_where_asked() -> None:
    assert isinstance(MaskBlock(2, 2, 2, dropout=0.5).layers[-1], nn.Dropout)
    assert not any(isinstance(layer, nn.Dropout) for layer in MaskBlock(2, 2, 2).layers)


@pytest.mark.parametrize("ratio", [0.0, -1.0, 0.2])
def test_a_mask_without_hidden_units_is_refused(ratio: float) -> None:
    with pytest.raises(ConfigError, match=f"reduction_ratio is {ratio}"):
        MaskBlock(4, 4, 4, reduction_ratio=ratio)


def test_each_slot_is_normalised_with_its_own_gain_and_shift() -> None:
    norm = SlotNorm(3, 4).double().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in norm.parameters():
        parameter.normal_(generator=generator)
    fields = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    found = norm(fields)
    for row in range(2):
        for slot in range(3):
            expected = normalise_by_loops(
                fields[row, slot].tolist(), norm.gain[slot].tolist(), norm.shift[slot].tolist()
            )
            assert found[row, slot].tolist() == pytest.approx(expected, rel=1e-10)


def test_no_rows() -> None:
    assert SlotNorm(3, 4)(torch.zeros(0, 3, 4)).shape == (0, 3, 4)
    assert MaskBlock(2, 3, 4)(torch.zeros(0, 2), torch.zeros(0, 3)).shape == (0, 4)
