"""What an interaction model sees: vectors, never ids.

Letters   B rows, F slots, D embedding width, N dense columns, P events of all histories of a batch,
          T the longest history.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class History:
    """The vectors of all rows' sequences end to end, oldest event first, without padding.

    Histories are mostly much shorter than the longest one, so a padded tensor would be mostly
    zeros; a model that needs the rectangle asks for it with `padded`.

    Shape:
        values   [P, D]   the events of row b are values[offsets[b] : offsets[b + 1]]
        offsets  [B + 1]  int64, starts at 0, ends at P
        longest  T, an int: the most events of a row, at least 1
    """

    values: Tensor
    offsets: Tensor
    longest: int

    def __len__(self) -> int:
        return self.offsets.shape[0] - 1

    @property
    def lengths(self) -> Tensor:
        """Events of each row, [B] int64."""
        return self.offsets.diff()

    def row_of_event(self) -> Tensor:
        """The row that each event belongs to, [P] int64, ascending.

        Example:
            >>> History(torch.zeros(3, 1), torch.tensor([0, 2, 2, 3]), 2).row_of_event()
            tensor([0, 0, 2])
        """
        rows = torch.arange(len(self), device=self.offsets.device)
        return rows.repeat_interleave(self.lengths, output_size=self.values.shape[0])

    def padded(self) -> tuple[Tensor, Tensor]:
        """Values [B, T, D], zero after a row's last event, and mask [B, T], True where events are.

        Example:
            >>> values, mask = History(
            ...     torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([0, 2, 2, 3]), 2
            ... ).padded()
            >>> values.squeeze(2).tolist()
            [[1.0, 2.0], [0.0, 0.0], [3.0, 0.0]]
        """
        steps = torch.arange(self.longest, device=self.offsets.device)
        mask = steps < self.lengths.unsqueeze(1)
        rows = self.row_of_event()
        at = torch.arange(self.values.shape[0], device=rows.device) - self.offsets[rows]
        empty = self.values.new_zeros(len(self), self.longest, self.values.shape[1])
        return empty.index_put((rows, at), self.values), mask

    def part(self, start: int, stop: int) -> History:
        """Rows `start:stop`; the values are a view."""
        first, last = int(self.offsets[start]), int(self.offsets[stop])
        offsets = self.offsets[start : stop + 1] - first
        return History(self.values[first:last], offsets, self.longest)


@dataclass
class Embedded:
    """The vectors of one batch. A slot is one vector of width D: a field has one slot, or as many
    as its number of lookups under `embedding=unified`.

    Shape:
        fields   [B, F, D]  float32, slots in schema order
        dense    [B, N]     float32 numbers (N = 0 when numerics have vectors of their own)
        linear   [B, F]     float32 first-order weights; None unless the model sets `needs_linear`
        second   [B, F, D]  float32, the same slots from a second table; None unless the model sets
                            `needs_second`
        history  name -> History
        target   history name -> [B, D], the vector of the field that history shares a table with
    """

    fields: Tensor
    dense: Tensor
    linear: Tensor | None = None
    second: Tensor | None = None
    history: dict[str, History] = field(default_factory=dict)
    target: dict[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.fields.shape[0]

    def flat(self) -> Tensor:
        """All slots and dense numbers side by side, [B, F * D + N]: x0 of most papers."""
        flat = self.fields.flatten(1)
        return torch.cat([flat, self.dense], dim=1) if self.dense.shape[1] else flat

    def rows(self, start: int, stop: int) -> Embedded:
        """Rows `start:stop` of every tensor, as views."""
        part = slice(start, stop)
        return Embedded(
            fields=self.fields[part],
            dense=self.dense[part],
            linear=None if self.linear is None else self.linear[part],
            second=None if self.second is None else self.second[part],
            history={name: h.part(start, stop) for name, h in self.history.items()},
            target={k: v[part] for k, v in self.target.items()},
        )

    @classmethod
    def random(
        cls,
        batch: int,
        fields: int,
        dim: int,
        dense: int = 0,
        histories: dict[str, int] | None = None,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> Embedded:
        """Normal vectors of the given sizes, for tests and examples; `histories` is name -> T.

        Example:
            >>> Embedded.random(batch=2, fields=3, dim=4).fields.shape
            torch.Size([2, 3, 4])
        """
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, dtype=dtype)

        history, target = {}, {}
        for name, length in (histories or {}).items():
            lengths = torch.randint(0, length + 1, (batch,), generator=generator)
            offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
            history[name] = History(normal(int(offsets[-1]), dim), offsets, length)
            target[name] = normal(batch, dim)
        return cls(
            fields=normal(batch, fields, dim),
            dense=normal(batch, dense),
            linear=normal(batch, fields),
            second=normal(batch, fields, dim),
            history=history,
            target=target,
        )
