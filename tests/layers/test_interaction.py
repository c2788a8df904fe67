from __future__ import annotations

import pytest
import torch

from recsys.layers.interaction import pairwise_product_sum, pairwise_products


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


@pytest.mark.parametrize("batch", [0, 1, 4])
@pytest.mark.parametrize("fields", [0, 1, 2, 3, 7])
def test_products_and_gradient_equal_the_loop_over_pairs(fields: int, batch: int) -> None:
    generator = torch.Generator().manual_seed(fields)
    x = torch.randn(batch, fields, 3, generator=generator, dtype=torch.float64, requires_grad=True)
    products = pairwise_products(x)
    assert products.shape == (batch, fields * (fields - 1) // 2)
    weight = torch.randn(products.shape, generator=generator, dtype=torch.float64)
    (products * weight).sum().backward()
    gradient = torch.zeros_like(x)
    pair = 0
    for m in range(fields):
        for n in range(m + 1, fields):
            for row in range(batch):
                e_m, e_n = x[row, m].detach(), x[row, n].detach()
                torch.testing.assert_close(products[row, pair].detach(), (e_m * e_n).sum())
                gradient[row, m] += weight[row, pair] * e_n
                gradient[row, n] += weight[row, pair] * e_m
            pair += 1
    torch.testing.assert_close(x.grad, gradient)


def test_products_sum_to_the_sum_of_products() -> None:
    x = torch.randn(5, 6, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(pairwise_products(x).sum(dim=1), pairwise_product_sum(x))


def test_products_have_a_gradient_under_autocast() -> None:
    x = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0), requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        products = pairwise_products(x)
    products.float().sum().backward()
    assert x.grad is not None
    expected = x.detach().sum(dim=1, keepdim=True) - x.detach()
    torch.testing.assert_close(x.grad, expected, rtol=0.02, atol=0.02)
