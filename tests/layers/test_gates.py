from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recsys.errors import ConfigError
from recsys.layers.gates import ContextGate, FieldGate


def randomise(module: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def affine(linear: nn.Linear, x: list[float]) -> list[float]:
    rows = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
    return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in rows]


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_context_gate_written_out(learned: bool, seed: int) -> None:
    gate = ContextGate(3, [5, 4], 6, learned=learned).double()
    randomise(gate, seed)
    contexts = normal(2, 3, seed=seed)
    gates = gate(None if learned else contexts)
    if learned:
        contexts = gate.context.detach()
    assert gates.shape == (len(contexts), 6)
    linears = [layer for layer in gate.hidden if isinstance(layer, nn.Linear)]
    for row, context in enumerate(contexts.tolist()):
        hidden = context
        for linear in linears:
            hidden = [max(h, 0.0) for h in affine(linear, hidden)]
        expected = [2 / (1 + math.exp(-o)) for o in affine(gate.output, hidden)]
        assert gates[row].tolist() == pytest.approx(expected, rel=1e-10)


def test_a_learned_context_lets_the_whole_gate_learn() -> None:
    torch.manual_seed(0)
    gate = ContextGate(4, [32], 3, learned=True)
    gate(None).sum().backward()
    assert all(parameter.grad.any() for parameter in gate.parameters())


def test_context_gate_needs_a_hidden_layer() -> None:
    with pytest.raises(ConfigError, match="at least one positive width"):
        ContextGate(3, [], 5)


@pytest.mark.parametrize("seed", range(3))
def test_field_gate_written_out(seed: int) -> None:
    gate = FieldGate(4).double()
    randomise(gate, seed)
    fields = normal(2, 4, 3, seed=seed)
    gates = gate(fields)
    for row in range(2):
        for f in range(4):
            for d in range(3):
                expected = gate.bias[f].item() + sum(
                    gate.weight[f, g].item() * fields[row, g, d].item() for g in range(4)
                )
                assert gates[row, f, d].item() == pytest.approx(expected, rel=1e-10)


def test_field_gate_starts_open() -> None:
    assert torch.equal(FieldGate(3)(torch.randn(2, 3, 4)), torch.ones(2, 3, 4))
