"""InfoNCE against its formula, whole and in blocks."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.layers import contrast
from recsys.layers.contrast import info_nce


def slow_info_nce(x: Tensor, y: Tensor, temperature: float) -> Tensor:
    total = torch.zeros((), dtype=x.dtype)
    for a in range(len(x)):
        cosines = [x[a] @ y[b] / (x[a].norm() * y[b].norm()) for b in range(len(y))]
        exponents = [(cosine / temperature).exp() for cosine in cosines]
        total = total - (exponents[a] / torch.stack(exponents).sum()).log()
    return total / len(x)


def draw(rows: int, width: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    x, y = torch.randn(2, rows, width, generator=generator, dtype=torch.float64)
    return x.requires_grad_(), y.requires_grad_()


@pytest.mark.parametrize("block", [1, 21, 1 << 20])
@pytest.mark.parametrize("rows", [1, 7])
def test_loss_and_gradients_equal_the_formula(
    rows: int, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contrast, "BLOCK_LOGITS", block)
    x, y = draw(rows, 5)
    found, expected = info_nce(x, y, 0.3), slow_info_nce(x, y, 0.3)
    torch.testing.assert_close(found, expected)
    wanted = torch.autograd.grad(expected, (x, y))
    torch.testing.assert_close(
        torch.autograd.grad(3.0 * found, (x, y)), tuple(3 * w for w in wanted)
    )


def test_gradients() -> None:
    assert torch.autograd.gradcheck(lambda x, y: info_nce(x, y, 0.5), draw(4, 3))


def test_small_temperatures_do_not_overflow() -> None:
    x = torch.eye(3).requires_grad_()
    loss = info_nce(x, -torch.eye(3), 1e-3)  # the right one is the worst by far
    torch.testing.assert_close(loss, torch.tensor(1000.0 + torch.tensor(2.0).log().item()))
    loss.backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_zero_vectors_have_a_finite_loss() -> None:
    x = torch.zeros(4, 3, requires_grad=True)
    loss = info_nce(x, torch.zeros(4, 3), 0.2)
    torch.testing.assert_close(loss, torch.tensor(4.0).log())
    loss.backward()
    assert x.grad is not None
    assert x.grad.isfinite().all()
