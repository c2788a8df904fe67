"""Rows of an encoded table, taken by number wherever the table lies.

Letters   R rows of the table, B rows taken.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recsys.data.batch import Batch, Ragged
from recsys.data.encode import EncodedTable


class TableRows(nn.Module):
    """An encoded table that moves between devices with the model that reads it.

    It is data, not learnt: no part of `state_dict`.

    Args:
        table: R rows.

    Example:
        >>> import numpy as np
        >>> lists = (np.array([7, 8, 9]), np.array([0, 2, 3]))
        >>> table = EncodedTable(np.array([[3], [4]]), np.zeros((2, 0), np.float32), {"l": lists})
        >>> batch = TableRows(table)(torch.tensor([1, 0, 1]))
        >>> batch.ids.tolist(), batch.ragged["l"].values.tolist()
        ([[4], [3], [4]], [9, 7, 8, 9])
    """

    ids: Tensor
    dense: Tensor

    def __init__(self, table: EncodedTable) -> None:
        super().__init__()
        self.names = tuple(table.ragged)
        self.register_buffer("ids", torch.from_numpy(table.ids), persistent=False)
        self.register_buffer("dense", torch.from_numpy(table.dense), persistent=False)
        for number, name in enumerate(self.names):  # a column's name need not be an attribute's
            values, offsets = (torch.from_numpy(array) for array in table.ragged[name])
            self.register_buffer(f"values{number}", values, persistent=False)
            self.register_buffer(f"offsets{number}", offsets, persistent=False)

    def __len__(self) -> int:
        return len(self.ids)

    def forward(self, rows: Tensor) -> Batch:
        """The rows of some numbers [B], int64, in that order; they have no labels."""
        ragged = {}
        for number, name in enumerate(self.names):
            offsets = self.get_buffer(f"offsets{number}")
            starts = offsets[rows]
            lengths = offsets[rows + 1] - starts
            ends = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
            total = int(ends[-1])
            shift = (starts - ends[:-1]).repeat_interleave(lengths, output_size=total)
            at = torch.arange(total, device=rows.device) + shift
            ragged[name] = Ragged(self.get_buffer(f"values{number}")[at], ends)
        label = torch.full((len(rows),), torch.nan, device=rows.device)
        return Batch(self.ids[rows], self.dense[rows], label, ragged)
