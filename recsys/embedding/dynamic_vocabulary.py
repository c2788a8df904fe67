"""The dynamic columns of a lookup: their ids become the codes of tables that are given out row by
row.

A code of such a column, as data is prepared, stands for one value of all that there could be. Here
it becomes a code of the column's table, as those of a fitted vocabulary are: reserved codes stay,
ids that have a row become `NUM_RESERVED` + row, all others UNSEEN. Whatever comes after cannot tell
the difference.

A row that begins is drawn from N(0, std^2) by a counter, not from a generator: from the run's seed,
the table's name, the row and how many ids have had it. The same stream of batches therefore gives
the same rows, wherever it is interrupted.

Letters   B rows of a batch, F coded columns, W storage width, n rows that begin.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from recsys.data.batch import Batch, Ragged
from recsys.data.schema import Encoding, Schema
from recsys.embedding.id_map import IdMap, search
from recsys.embedding.layout import mix64, salt

if TYPE_CHECKING:
    from recsys.embedding.options import EmbeddingOptions

STATE = "vocabulary"
"""`<table>.vocabulary.<name>`: the state of a table's map among its tensors."""


class DynamicVocabulary(nn.Module):
    """One table's ids, and where a batch holds them.

    Args:
        name: Of the table.
        ids: Its map.
        columns: Positions in `Batch.ids`.
        lists: Names in `Batch.ragged`.
        seed: Of the rows' first values.
        init_std: Their deviation.
    """

    known: Tensor
    codes: Tensor

    def __init__(
        self,
        name: str,
        ids: IdMap,
        columns: Sequence[int],
        lists: Sequence[str],
        seed: int,
        init_std: float,
    ) -> None:
        super().__init__()
        self.name, self.ids = name, ids
        self.columns, self.lists = tuple(columns), tuple(lists)
        self.init_std = init_std
        self.seed = torch.tensor([seed], dtype=torch.int64)
        nothing = torch.empty(0, dtype=torch.int64)
        self.register_buffer("known", nothing, persistent=False)
        self.register_buffer("codes", nothing, persistent=False)

    def state(self) -> dict[str, Tensor]:
        """See `IdMap.state`; and the seed, by which later rows are drawn."""
        return {**self.ids.state(), "seed": self.seed}

    def freeze(self) -> None:
        """Write the map down as it is now, for programs that torch exports."""
        self.known, self.codes = (one.to(self.known.device) for one in self.ids.sorted())

    def read(self, ids: Tensor) -> Tensor:
        """Codes of ids of any shape, changing nothing."""
        if torch.compiler.is_exporting():
            return search(ids, self.known, self.codes)
        return self.ids.find(ids)

    def admit(self, batch: Batch) -> tuple[list[Tensor], Tensor]:
        """Codes of the batch's columns, then of its lists, and the rows that begin."""
        parts = [batch.ids[:, column] for column in self.columns]
        parts += [batch.ragged[name].values for name in self.lists]
        codes, fresh = self.ids.admit(torch.cat(parts))
        return list(codes.split([len(part) for part in parts])), fresh

    def drawn(self, rows: Tensor, width: int) -> Tensor:
        """First values of rows, [n, W] float32, by Box and Muller."""
        keys = mix64(mix64(mix64(self.seed ^ salt(self.name)) + rows) + self.ids.generations[rows])
        steps = torch.arange(width)
        first, second = (mix64(keys[:, None] + (2 * steps + k)) for k in (0, 1))
        radius = (-2.0 * _uniform(first).log()).sqrt()
        return (radius * (_uniform(second) * (2 * math.pi)).cos() * self.init_std).float()


def _uniform(bits: Tensor) -> Tensor:
    """In (0, 1], float64."""
    return (((bits >> 11) & ((1 << 53) - 1)) + 1).double() * 2.0**-53


class DynamicVocabularies(nn.Module):
    """All dynamic columns of a lookup.

    Args:
        tables: One per table.
    """

    def __init__(self, tables: Sequence[DynamicVocabulary]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(tables)
        self._admitted: tuple[Batch, Batch] | None = None

    def __iter__(self) -> Iterator[DynamicVocabulary]:
        for table in self.tables:
            assert isinstance(table, DynamicVocabulary)
            yield table

    @classmethod
    def of(cls, schema: Schema, options: EmbeddingOptions) -> DynamicVocabularies:
        """Those that a schema asks for; their seed is that of torch's global generator."""
        owners = [f.name for f in schema if f.encoding is Encoding.DYNAMIC and f.shares is None]
        coded = [field.name for field in schema.coded]
        seed = torch.initial_seed()  # unsigned; tensors know signed integers
        return cls(
            [
                DynamicVocabulary(
                    name,
                    IdMap(options.capacity_of(name), options.min_count, options.evict),
                    [coded.index(name)] if name in coded else [],
                    [f.name for f in schema.ragged if name in (f.name, f.shares)],
                    seed - 2**64 if seed >= 2**63 else seed,
                    options.init_std,
                )
                for name in owners
            ]
        )

    def forward(self, batch: Batch) -> Batch:
        """The batch in codes of the tables; the one that was admitted last is not read again."""
        if self._admitted is not None and self._admitted[0] is batch:
            return self._admitted[1]
        ids, ragged = batch.ids.to(torch.int64, copy=True), dict(batch.ragged)
        for table in self:
            for column in table.columns:
                ids[:, column] = table.read(batch.ids[:, column])
            for name in table.lists:
                ragged[name] = Ragged(table.read(ragged[name].values), ragged[name].offsets)
        return dataclasses.replace(batch, ids=ids, ragged=ragged)

    def admit(self, batch: Batch, width: int) -> list[tuple[str, Tensor, Tensor]]:
        """Give rows to the ids of a training batch that are due one.

        Returns:
            Per table where rows begin its name, the rows [n] and their first values [n, W].
        """
        ids, ragged, born = batch.ids.to(torch.int64, copy=True), dict(batch.ragged), []
        for table in self:
            codes, fresh = table.admit(batch)
            for column in table.columns:
                ids[:, column] = codes.pop(0)
            for name in table.lists:
                ragged[name] = Ragged(codes.pop(0), ragged[name].offsets)
            if len(fresh):
                born.append((table.name, fresh, table.drawn(fresh, width)))
        self._admitted = (batch, dataclasses.replace(batch, ids=ids, ragged=ragged))
        return born

    def tables_state(self) -> dict[str, Tensor]:
        """`<table>.vocabulary.<name>`, views."""
        return {
            f"{table.name}.{STATE}.{name}": tensor
            for table in self
            for name, tensor in table.state().items()
        }

    def rebuild(self) -> None:
        """After the state was written to.

        Raises:
            ValueError: it is not that of a map.
        """
        self._admitted = None
        for table in self:
            table.ids.rebuild()

    def freeze(self) -> None:
        """Write all maps down as they are now, for programs that torch exports."""
        self._admitted = None
        for table in self:
            table.freeze()

    def report(self) -> dict[str, dict[str, int]]:
        """Per table: rows that belong to an id, rows there are, and rows that changed hands."""
        return {
            table.name: {
                "rows": table.ids.num_rows_used,
                "capacity": table.ids.capacity,
                "evicted": table.ids.num_evicted,
            }
            for table in self
        }

    @property
    def num_bytes(self) -> int:
        """Of all maps."""
        return sum(table.ids.num_bytes for table in self)
