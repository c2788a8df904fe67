"""Parameter-free interactions of field vectors.

Letters   B rows, F slots, D embedding width.
"""

from __future__ import annotations

from torch import Tensor


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
