"""What an interaction model sees: vectors, never ids.

Letters   B rows, F slots, D embedding width, N dense columns, T history length.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass
class History:
    """A padded sequence of vectors, oldest first.

    Shape:
        values  [B, T, D]  zero at padded positions
        mask    [B, T]     bool, True where there is an event
    """

    values: Tensor
    mask: Tensor


@dataclass
class Embedded:
    """The vectors of one batch. A slot is one vector of width D: a field has one slot, or as many
    as its number of lookups under `embedding=unified`.

    Shape:
        fields   [B, F, D]  float32, slots in schema order
        dense    [B, N]     float32 numbers (N = 0 when numerics have vectors of their own)
        linear   [B, F]     float32 first-order weights; None unless the model sets `needs_linear`
        history  name -> History
        target   history name -> [B, D], the vector of the field that history shares a table with
    """

    fields: Tensor
    dense: Tensor
    linear: Tensor | None = None
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
            history={k: History(h.values[part], h.mask[part]) for k, h in self.history.items()},
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
            lengths = torch.randint(0, length + 1, (batch, 1), generator=generator)
            mask = torch.arange(length) < lengths
            history[name] = History(normal(batch, length, dim) * mask.unsqueeze(-1), mask)
            target[name] = normal(batch, dim)
        return cls(
            fields=normal(batch, fields, dim),
            dense=normal(batch, dense),
            linear=normal(batch, fields),
            history=history,
            target=target,
        )
