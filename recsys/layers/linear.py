"""First-order terms: one weight per feature.

Letters   B rows, F slots, N dense columns.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class FirstOrder(nn.Module):
    """`bias + sum of the slots' width-1 vectors + weight . dense`: logistic regression's logit.

    The weights of coded fields live in the embedding layer (`Embedded.linear`), those of the
    dense columns here. Everything starts at zero.

    Args:
        num_dense: Dense columns; 0 for none.
        bias: Add one global bias.

    Shape:
        linear  [B, F]
        dense   [B, num_dense]
        return  [B]

    Example:
        >>> FirstOrder(num_dense=2)(torch.ones(3, 4), torch.zeros(3, 2))
        tensor([4., 4., 4.], grad_fn=<AddBackward0>)
    """

    def __init__(self, num_dense: int, *, bias: bool = True) -> None:
        super().__init__()
        self.dense_weight = nn.Parameter(torch.zeros(num_dense)) if num_dense else None
        self.bias = nn.Parameter(torch.zeros(())) if bias else None

    def forward(self, linear: Tensor, dense: Tensor) -> Tensor:
        logit = linear.sum(dim=1)
        if self.dense_weight is not None:
            logit = logit + dense @ self.dense_weight
        if self.bias is not None:
            logit = logit + self.bias
        return logit
