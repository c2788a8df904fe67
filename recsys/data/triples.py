"""Batches of users with an item they have and items they do not.

Letters   B rows, n negatives of a row.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Triples:
    """What a collaborative model learns from in one step.

    Shape:
        users      [B]     int64
        positives  [B]     int64, an item of that user
        negatives  [B, n]  int64, items drawn for that user
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor

    def __len__(self) -> int:
        return len(self.users)

    def to(self, device: torch.device) -> Triples:
        """Copy every tensor to a device."""
        return Triples(self.users.to(device), self.positives.to(device), self.negatives.to(device))
