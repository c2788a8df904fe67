"""Parameter-free interactions of field vectors.

Letters   B rows, F slots, D embedding width.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def pairwise_product_sum(fields: Tensor) -> Tensor:
    """Sum over all pairs of slots m < n of <e_m, e_n>, in O(F D) instead of O(F^2 D).

    Rendle, ICDM 2010, Lemma 3.1: sum_{m<n} <e_m, e_n> = 1/2 sum_k [(sum_m e_mk)^2 - sum_m e_mk^2].

    Shape:
        fields  [B, F, D]
        return  [B]

    Example:
        >>> import torch
        >>> pairwise_product_sum(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [1.0, 0.0]]]))
        tensor([15.])
    """
    square_of_sum = fields.sum(dim=1).square().sum(dim=1)
    sum_of_squares = fields.square().sum(dim=(1, 2))
    return 0.5 * (square_of_sum - sum_of_squares)


def pairwise_products(fields: Tensor) -> Tensor:
    """Inner product of every pair of slots m < n: (0, 1), (0, 2), ..., (1, 2), ..., row by row.

    Bound: 2 B F^2 D floating-point operations forward and as many backward, each one batched
    product, and two passes over [B, F, F]; all pairs cost twice the distinct ones, but as one
    product of matrices they are several times faster than products of gathered vectors.

    Shape:
        fields  [B, F, D]
        return  [B, F (F - 1) / 2]

    Example:
        >>> pairwise_products(torch.tensor([[[1.0, 2.0], [3.0, 4.0], [1.0, 0.0]]]))
        tensor([[11.,  1.,  3.]])
    """
    products: Tensor = _PairwiseProducts.apply(fields)
    return products


class _PairwiseProducts(torch.autograd.Function):
    """The Gram matrix is symmetric, and so is its gradient once each pair's is written on both
    sides of the diagonal: the fields' gradient is then one product, where autograd would scatter
    into the upper triangle and need two."""

    @staticmethod
    def forward(ctx: Any, fields: Tensor) -> Tensor:
        ctx.save_for_backward(fields)
        num_fields = fields.shape[1]
        row, column = torch.triu_indices(num_fields, num_fields, 1, device=fields.device)
        gram = torch.bmm(fields, fields.transpose(1, 2))
        return gram.flatten(1).index_select(1, row * num_fields + column)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_products: Tensor) -> Tensor:
        (fields,) = ctx.saved_tensors
        num_fields, num_pairs = fields.shape[1], d_products.shape[1]
        row, column = torch.triu_indices(num_fields, num_fields, 1, device=fields.device)
        # Which pair stands at each place of the matrix; the diagonal takes a column of zeros.
        pair = row.new_full((num_fields, num_fields), num_pairs)
        pair[row, column] = pair[column, row] = torch.arange(num_pairs, device=fields.device)
        padded = torch.cat([d_products, d_products.new_zeros(len(fields), 1)], dim=1)
        d_gram = padded.index_select(1, pair.flatten()).unflatten(1, pair.shape)
        return torch.bmm(d_gram.to(fields.dtype), fields)
