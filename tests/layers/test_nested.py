from __future__ import annotations

import math

import pytest
import torch

from recsys.layers.nested import joint_logit


@pytest.mark.parametrize("a", [-80.0, -20.0, -1.0, 0.0, 3.0, 20.0, 80.0])
@pytest.mark.parametrize("b", [-80.0, -5.0, 0.0, 2.0, 30.0])
def test_equals_the_product_of_probabilities(a: float, b: float) -> None:
    # log(p / (1 - p)) of p = 1 / ((1 + e^-a) (1 + e^-b)), by exact arithmetic in float64 pieces
    log_p = -math.log1p(math.exp(-a)) - math.log1p(math.exp(-b))
    rest = math.exp(-a) + math.exp(-b) + math.exp(-a - b)  # (1 - p) / p
    expected = -math.log(rest)
    found = joint_logit(torch.tensor(a, dtype=torch.float64), torch.tensor(b, dtype=torch.float64))
    assert found.item() == pytest.approx(expected, rel=1e-9)
    assert found.item() <= min(a, b)
    assert torch.nn.functional.logsigmoid(found).item() == pytest.approx(log_p, rel=1e-9, abs=1e-30)


def test_gradients_stay_finite() -> None:
    logits = torch.tensor([-200.0, 0.0, 200.0], requires_grad=True)
    joint_logit(logits, logits.flip(0)).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()
