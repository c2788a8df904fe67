"""Dice against Eq. 9 in float64, by the kernel and by torch."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from recsys.layers import dice as module
from recsys.layers.dice import Dice, dice_kernel


@pytest.fixture(params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(module, "raw_float32", lambda *_: False)
    elif dice_kernel() is None:
        pytest.skip("no C++ compiler: the kernel cannot be built")
    return request.param


def build(num_units: int, **options: float) -> Dice:
    dice = Dice(num_units, **options)
    with torch.no_grad():
        dice.alpha.copy_(torch.linspace(-1.0, 1.0, num_units))
    return dice


def by_loop(x: Tensor, alpha: Tensor, mean: Tensor, variance: Tensor, eps: float) -> Tensor:
    out = torch.zeros_like(x)
    for row in range(x.shape[0]):
        for unit in range(x.shape[1]):
            s = float(x[row, unit])
            p = 1 / (1 + math.exp(-(s - float(mean[unit])) / math.sqrt(variance[unit] + eps)))
            out[row, unit] = p * s + (1 - p) * float(alpha[unit]) * s
    return out


def rows(count: int, num_units: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, num_units, generator=generator) * 3 + 2


@pytest.mark.parametrize("shape", [(1, 3), (2, 5), (7, 1), (129, 17), (300, 33)], ids=str)
def test_training_uses_the_rows_own_statistics(shape: tuple[int, int], way: str) -> None:
    x, dice = rows(*shape), build(shape[1])
    exact = x.double()
    mean, variance = exact.mean(0), exact.var(0, correction=0)
    expected = by_loop(exact, dice.alpha, mean, variance, dice.eps)
    torch.testing.assert_close(dice(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_evaluation_uses_the_moving_averages(way: str) -> None:
    dice = build(4, momentum=0.25)
    mean, variance = torch.zeros(4), torch.ones(4)
    for step in range(3):
        x = rows(50, 4, seed=step)
        dice(x)
        mean += 0.25 * (x.mean(0) - mean)
        variance += 0.25 * (x.var(0) - variance)  # of the sample, as in batch normalisation
    torch.testing.assert_close(dice.running_mean, mean)
    torch.testing.assert_close(dice.running_var, variance)
    assert int(dice.num_batches_tracked) == 3
    x = rows(9, 4, seed=7)
    expected = by_loop(x.double(), dice.alpha, mean.double(), variance.double(), dice.eps)
    torch.testing.assert_close(dice.eval()(x).double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(dice.running_mean, mean)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("shape", [(1, 3), (2, 5), (200, 19)], ids=str)
def test_gradients_are_those_of_the_formula(
    shape: tuple[int, int], training: bool, way: str
) -> None:
    dice, x = build(shape[1]).train(training), rows(*shape).requires_grad_()
    weight = rows(*shape, seed=3)
    (dice(x) * weight).sum().backward()
    exact, alpha = x.detach().double().requires_grad_(), dice.alpha.detach().double()
    alpha.requires_grad_()
    mean, variance = torch.zeros(shape[1]).double(), torch.ones(shape[1]).double()
    if training:
        mean, variance = exact.mean(0), exact.var(0, correction=0)
    p = torch.sigmoid((exact - mean) / torch.sqrt(variance + dice.eps))
    ((p * exact + (1 - p) * alpha * exact) * weight).sum().backward()
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(dice.alpha.grad.double(), alpha.grad, rtol=1e-4, atol=1e-3)


def test_no_rows_and_one_row(way: str) -> None:
    dice = build(3)
    out = dice(torch.zeros(0, 3))
    assert out.shape == (0, 3)
    out.sum().backward()
    assert dice.alpha.grad is not None
    x = torch.tensor([[1.0, -2.0, 3.0]])
    torch.testing.assert_close(dice(x), x * (1 + dice.alpha) / 2)  # p = 1/2
    assert dice.running_mean.tolist() == [0, 0, 0]
    assert dice.running_var.tolist() == [1, 1, 1]
    assert torch.isfinite(dice.eval()(x)).all()


def test_a_mean_far_from_zero_costs_no_digits(way: str) -> None:
    x = rows(1000, 5)
    dice = build(5)
    with torch.no_grad():
        dice.alpha.fill_(1.0)  # then f(s) = s and only p could spoil it
    torch.testing.assert_close(dice(x + 1e4), x + 1e4)
    dice(x)
    dice.running_var.fill_(1.0)
    dice(x + 1e4)
    sample = (x + 1e4).double().var(0)
    torch.testing.assert_close(dice.running_var.double(), 0.99 + 0.01 * sample, rtol=1e-3, atol=0)


def test_extreme_numbers(way: str) -> None:
    dice = build(3).eval()
    x = torch.tensor([[-1e4, 1e4, 0.0]])
    torch.testing.assert_close(dice(x), torch.tensor([[1e4, 1e4, 0.0]]))  # alpha, 1, nothing
    assert torch.isnan(dice(torch.tensor([[float("nan"), 1.0, 1.0]]))[0, 0])


def test_a_constant_unit_has_a_finite_gradient(way: str) -> None:
    x = torch.full((20, 2), 3.0, requires_grad=True)
    dice = Dice(2)
    dice(x).sum().backward()
    torch.testing.assert_close(dice(x), x / 2)
    assert torch.isfinite(x.grad).all()


def test_batch_normalisation_is_seen_and_has_no_gain_or_shift() -> None:
    dice = Dice(4)
    assert isinstance(dice, nn.modules.batchnorm._BatchNorm)
    assert [name for name, _ in dice.named_parameters()] == ["alpha"]
    assert not dice.alpha.any()


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    x, weight = rows(1000, 9), rows(1000, 9, seed=1)
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        dice, one = build(9), x.clone().requires_grad_()
        (dice(one) * weight).sum().backward()
        found.append(torch.cat([one.grad.flatten(), dice.alpha.grad, dice.running_var]))
    torch.set_num_threads(before)
    assert torch.equal(*found)
