from __future__ import annotations

import pytest
import torch

from recsys.layers.interaction import pairwise_product_sum


@pytest.mark.parametrize("fields", [0, 1, 2, 7])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_loop_over_pairs(fields: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(4, fields, 3, generator=generator, dtype=torch.float64)
    expected = torch.zeros(4, dtype=torch.float64)
    for m in range(fields):
        for n in range(m + 1, fields):
            expected += (x[:, m] * x[:, n]).sum(dim=1)
    torch.testing.assert_close(pairwise_product_sum(x), expected)


def test_gradient_is_the_sum_of_the_others() -> None:
    x = torch.randn(2, 4, 3, dtype=torch.float64, requires_grad=True)
    pairwise_product_sum(x).sum().backward()
    torch.testing.assert_close(x.grad, x.detach().sum(dim=1, keepdim=True) - x.detach())
