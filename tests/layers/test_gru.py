"""Recurrent layers over jagged histories against row-by-row loops in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.embedding.embedded import History
from recsys.errors import ConfigError
from recsys.layers.gru import CELLS, AttentionalGRU, HistoryGRU, Steps

LENGTHS = [[3, 0, 1, 4], [2, 2], [0, 0], [1], [0, 5]]
every_length = pytest.mark.parametrize("lengths", LENGTHS, ids=str)
DIM = 3


def draw(lengths: list[int]) -> tuple[History, Tensor]:
    torch.manual_seed(len(lengths))
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    values = torch.randn(sum(lengths), DIM, dtype=torch.float64, requires_grad=True)
    weights = torch.rand(sum(lengths), dtype=torch.float64, requires_grad=True)
    return History(values, offsets, max(1, *lengths, 0)), weights


def gradients(out: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Of a sum that tells all numbers apart, zeros where nothing depends on an input."""
    weight = torch.linspace(-1, 2, max(out.numel(), 1), dtype=out.dtype)[: out.numel()]
    total = (out.flatten() * weight).sum()
    if not total.requires_grad:
        return [torch.zeros_like(one) for one in inputs]
    found = torch.autograd.grad(total, inputs, allow_unused=True)
    return [
        torch.zeros_like(one) if gradient is None else gradient
        for one, gradient in zip(inputs, found, strict=True)
    ]


@every_length
def test_steps_are_the_histories_read_in_parallel(lengths: list[int]) -> None:
    history, _ = draw(lengths)
    steps = Steps.of(history)
    assert steps.sizes == [sum(n > t for n in lengths) for t in range(max([*lengths, 0]))]
    longest_first = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    assert steps.rows.tolist() == [row for row in longest_first if lengths[row]]
    order = iter(steps.order.tolist())
    for step, size in enumerate(steps.sizes):
        for row in steps.rows.tolist()[:size]:
            assert next(order) == int(history.offsets[row]) + step
    ordered = history.values[steps.order]
    assert torch.equal(steps.back(ordered), history.values)


@every_length
def test_states_equal_a_loop(lengths: list[int]) -> None:
    """Eq. 2-5, torch's form: its z is 1 - u, and the reset gate is on W h + b."""
    history, _ = draw(lengths)
    gru = HistoryGRU(DIM).double()
    states = gru(history, Steps.of(history))
    expected = []
    for row, length in enumerate(lengths):
        h = torch.zeros(DIM, dtype=torch.float64)
        for j in range(length):
            event = history.values[int(history.offsets[row]) + j]
            i_r, i_z, i_n = (gru.weight_ih_l0 @ event + gru.bias_ih_l0).chunk(3)
            h_r, h_z, h_n = (gru.weight_hh_l0 @ h + gru.bias_hh_l0).chunk(3)
            r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
            h = (1 - z) * torch.tanh(i_n + r * h_n) + z * h
            expected.append(h)
    wanted = torch.stack(expected) if expected else torch.zeros(0, DIM, dtype=torch.float64)
    torch.testing.assert_close(states, wanted)
    inputs = [history.values, *gru.parameters()]
    for ours, loop in zip(gradients(states, *inputs), gradients(wanted, *inputs), strict=True):
        torch.testing.assert_close(ours, loop)


@every_length
@pytest.mark.parametrize("cell", CELLS)
def test_attentional_gru_equals_a_loop(lengths: list[int], cell: str) -> None:
    history, weights = draw(lengths)
    gru = AttentionalGRU(DIM, cell).double()
    last = gru(history.values, weights, Steps.of(history), num_rows=len(lengths))
    expected = []
    for row, length in enumerate(lengths):
        h = torch.zeros(DIM, dtype=torch.float64)
        for j in range(length):
            at = int(history.offsets[row]) + j
            a, event = weights[at], history.values[at]
            if cell == "aigru":
                event = a * event
            x = gru.of_event.weight @ event + gru.of_event.bias
            r = torch.sigmoid(x[:DIM] + gru.of_state.weight[:DIM] @ h)
            candidate = torch.tanh(x[-DIM:] + gru.of_state.weight[-DIM:] @ (r * h))
            u = a
            if cell != "agru":
                u = torch.sigmoid(x[DIM : 2 * DIM] + gru.of_state.weight[DIM : 2 * DIM] @ h)
                u = a * u if cell == "augru" else u
            h = (1 - u) * h + u * candidate
        expected.append(h)
    wanted = torch.stack(expected)
    torch.testing.assert_close(last, wanted)
    inputs = [history.values, weights, *gru.parameters()]
    for ours, loop in zip(gradients(last, *inputs), gradients(wanted, *inputs), strict=True):
        torch.testing.assert_close(ours, loop)


def test_another_cell_is_refused() -> None:
    with pytest.raises(ConfigError, match='gru is "gru"'):
        AttentionalGRU(DIM, "gru")


@pytest.mark.parametrize("cell", CELLS)
@every_length
def test_an_exported_model_takes_every_step_there_can_be(
    lengths: list[int], cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rectangle with a mask gives what the jagged plan gives."""
    history, weights = draw(lengths)
    torch.manual_seed(0)
    first, second = HistoryGRU(DIM).double(), AttentionalGRU(DIM, cell).double()

    def read() -> tuple[Tensor, Tensor]:
        longest = History(history.values, history.offsets, history.longest + 2)
        steps = Steps.of(longest)
        states = first(longest, steps)
        return states, second(states, weights, steps, num_rows=len(longest))

    expected = read()
    monkeypatch.setattr(torch.compiler, "is_exporting", lambda: True)
    assert Steps.of(history).mask is not None
    for found, wanted in zip(read(), expected, strict=True):
        torch.testing.assert_close(found, wanted)
