"""Nested events on logits: a purchase needs a click, so P(both) = P(click) P(purchase | click).

Letters   B rows.
"""

from __future__ import annotations

import torch
from torch import Tensor


def joint_logit(parent: Tensor, conditional: Tensor) -> Tensor:
    """Logit of sigmoid(parent) * sigmoid(conditional), exact near 0 and 1.

    p / (1 - p) = 1 / (e^-a + e^-b + e^-(a + b)), hence a + b - log(1 + e^a + e^b).

    Shape:
        parent, conditional, return  [B]  float32

    Example:
        >>> joint_logit(torch.zeros(1), torch.zeros(1)).sigmoid()
        tensor([0.2500])
    """
    stacked = torch.stack([torch.zeros_like(parent), parent, conditional])
    return parent + conditional - stacked.logsumexp(dim=0)
