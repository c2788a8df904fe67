"""A batch: encoded rows as a few contiguous tensors.

Letters   B rows, F coded fields, N dense columns, K labels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class Ragged:
    """Lists of codes of different lengths, stored end to end.

        values   3 7 4 | 9 | 5 5          three rows of 3, 1 and 2 codes
        offsets  0      3   4     6

    Shape:
        values   [sum of lengths]  integer codes
        offsets  [B + 1]           int64, starts at 0
    """

    values: Tensor
    offsets: Tensor

    @property
    def lengths(self) -> Tensor:
        """Length of each row's list, [B] int64."""
        return self.offsets.diff()


@dataclass
class Batch:
    """Encoded rows. Codes follow `recsys.data.schema`: 0 padding, 1 missing, 2 unseen, then tokens.

    Shape:
        ids     [B, F]       int32 or int64 codes, columns as in `schema.coded`
        dense   [B, N]       float32, columns as in `schema.dense`
        ragged  name -> Ragged with B rows, keys as in `schema.ragged`
        label   [B] or [B, K] float32; NaN marks a label that is missing for that row
        weight  [B]          float32, or None
        group   [B]          int64, or None
        row     [B]          int64 position of each row in its store, for error messages, or None
    """

    ids: Tensor
    dense: Tensor
    label: Tensor
    ragged: dict[str, Ragged] = field(default_factory=dict)
    weight: Tensor | None = None
    group: Tensor | None = None
    row: Tensor | None = None

    def __len__(self) -> int:
        return self.ids.shape[0]

    def to(self, device: torch.device, non_blocking: bool = False) -> Batch:
        """Copy every tensor to a device (nothing is copied when it is there already)."""
        return self._map(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Batch:
        """Page-lock every tensor, so that copies to a GPU overlap with work."""
        return self._map(lambda tensor: tensor.pin_memory())

    def _map(self, function: Callable[[Tensor], Tensor]) -> Batch:
        def apply(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else function(tensor)

        return Batch(
            ids=function(self.ids),
            dense=function(self.dense),
            label=function(self.label),
            ragged={
                name: Ragged(function(r.values), function(r.offsets))
                for name, r in self.ragged.items()
            },
            weight=apply(self.weight),
            group=apply(self.group),
            row=apply(self.row),
        )
