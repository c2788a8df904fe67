"""Losses over logits, summed, so that parts of a batch add up to the batch.

Letters   B rows, K labels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def label_mass(labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Total weight of the labels that are present (not NaN), scalar or [K]: what a mean over rows
    divides by."""
    present = ~labels.isnan()
    if weights is None:
        return present.sum(dim=0).to(torch.float32)
    return (present * _like(weights, labels)).sum(dim=0)


def binary_cross_entropy_sum(
    logits: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Tensor:
    """Weighted sum over rows of binary cross-entropies; a NaN label counts nothing.

    Computed from logits: a probability of 1 - 1e-9 does not exist in float32, its logit does.

    Shape:
        logits   [B] or [B, K]
        labels   as logits, in {0, 1, NaN}
        weights  [B] or None
        return   scalar, or [K]

    Example:
        >>> binary_cross_entropy_sum(torch.zeros(2), torch.tensor([1.0, float("nan")]))
        tensor(0.6931)
    """
    present = ~labels.isnan()
    losses = F.binary_cross_entropy_with_logits(
        logits.float(), torch.where(present, labels, 0.0), reduction="none"
    )
    if weights is not None:
        losses = losses * _like(weights, labels)
    return torch.where(present, losses, 0.0).sum(dim=0)


def _like(weights: Tensor, labels: Tensor) -> Tensor:
    return weights if labels.ndim == 1 else weights.unsqueeze(1)
