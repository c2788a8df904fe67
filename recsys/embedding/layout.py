"""Layouts: where in the shared storage the vector of a code lies.

Whatever the layout, the storage is ONE matrix [R, W] whose row 0 is the fixed zero row of padding.
A layout maps field codes to its rows:

    full          one row per code; every field has its own range                  (collisionless)
    hashed        every field has its own, smaller range; codes are hashed into it (hashing trick)
    multiplexed   one range for all; each field hashes into it with its own salt   (Sec. 3)
    unified       multiplexed, and a field takes as many rows as it has lookups    (Sec. 3, 5)

Source   Coleman et al., "Unified Embedding", NeurIPS 2023, arXiv:2305.12102.
Differs  The salt comes from the field's NAME, so that adding or moving a field leaves the rows of
         the others where they are (the authors' layer salts by position). Padding never hashes.
Letters  B rows of a batch, F fields, L lookups (L = F unless unified), R storage rows, W width.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys.data.schema import PADDING, Schema
from recsys.errors import CheckpointError, ConfigError, did_you_mean

LAYOUTS = ("full", "hashed", "multiplexed", "unified")

# The 64-bit finaliser of splitmix64 (Steele et al., OOPSLA 2014), as signed integers: torch has no
# unsigned 64-bit arithmetic, and two's complement multiplication wraps to the same bits.
_MIX_1 = -4658895280553007687  # 0xBF58476D1CE4E5B9
_MIX_2 = -7723592293110705685  # 0x94D049BB133111EB
_GOLDEN = -7046029254386353131  # 0x9E3779B97F4A7C15


def salt(name: str, lookup: int = 0) -> int:
    """A fixed signed 64-bit salt for one lookup of a field; the same on every machine.

    Example:
        >>> salt("user") == salt("user"), salt("user") == salt("item")
        (True, False)
    """
    digest = hashlib.sha256(f"{name}\x00{lookup}".encode()).digest()
    return int.from_bytes(digest[:8], "little", signed=True)


def mix64(values: Tensor) -> Tensor:
    """Mix int64 values so that every input bit reaches every output bit; a bijection.

    Example:
        >>> mix64(torch.tensor([0, 1])).tolist()
        [-2152535657050944081, -7995527694508729151]
    """
    z = values + _GOLDEN
    z = (z ^ _shift(z, 30)) * _MIX_1
    z = (z ^ _shift(z, 27)) * _MIX_2
    return z ^ _shift(z, 31)


def _shift(values: Tensor, bits: int) -> Tensor:
    """Logical right shift (torch shifts signed integers arithmetically)."""
    return (values >> bits) & ((1 << (64 - bits)) - 1)


@dataclass(frozen=True)
class TableSpec:
    """A logical table: the code space of one field and of the histories that share it."""

    name: str
    size: int
    """Number of codes, reserved ones included."""
    lookups: int = 1


class TableRange(NamedTuple):
    """A table as consecutive rows of the one storage that all tables share."""

    name: str
    start: int
    rows: int


def table_specs(schema: Schema, lookups: Mapping[str, int] | None = None) -> tuple[TableSpec, ...]:
    """One table per coded field, in schema order; a field that `shares` adds none."""
    counts = dict(lookups or {})
    specs = []
    for field in schema:
        if not field.is_coded or field.shares is not None:
            continue
        if field.size is None:
            raise ValueError(f'field "{field.name}" has no size; fit the feature pipeline first.')
        specs.append(TableSpec(field.name, field.size, counts.pop(field.name, 1)))
    for name in counts:
        known = [spec.name for spec in specs]
        raise ConfigError(
            f'embedding.lookups names "{name}", which has no table.{did_you_mean(name, known)}'
        )
    return tuple(specs)


def lookups_by_size(schema: Schema, most: int) -> dict[str, int]:
    """Lookups per table that grow with the logarithm of its size, 1 for the smallest up to `most`.

    The paper tunes widths per field; its guide, and ours, is that large vocabularies earn more.
    """
    sizes = {spec.name: max(spec.size, 2) for spec in table_specs(schema)}
    if not sizes:
        return {}
    low, high = math.log(min(sizes.values())), math.log(max(sizes.values()))
    span = max(high - low, 1e-9)
    return {
        name: 1 + round((most - 1) * (math.log(size) - low) / span) for name, size in sizes.items()
    }


class Layout(nn.Module):
    """Maps codes to storage rows. Build one with `Layout.build`.

    Args:
        name: One of `LAYOUTS`.
        tables: Logical tables, in schema order.
        num_rows: Rows of the storage, the padding row included.
        starts: First row of each table's range.
        spans: Number of rows of each table's range.
    """

    def __init__(
        self,
        name: str,
        tables: Sequence[TableSpec],
        num_rows: int,
        starts: Sequence[int],
        spans: Sequence[int],
    ) -> None:
        super().__init__()
        self.name = name
        self.tables = tuple(tables)
        self.num_rows = num_rows
        self.starts = tuple(starts)
        self.spans = tuple(spans)
        self._index = {table.name: i for i, table in enumerate(self.tables)}
        self._salts = [[salt(t.name, k) for k in range(t.lookups)] for t in self.tables]
        self._cache: dict[
            tuple[tuple[str, ...], torch.device], tuple[Tensor | None, Tensor, Tensor, Tensor]
        ] = {}

    @classmethod
    def build(cls, name: str, tables: Sequence[TableSpec], ratio: float = 1.0) -> Layout:
        """Choose ranges.

        Args:
            name: One of `LAYOUTS`.
            tables: Logical tables, in schema order.
            ratio: Rows to spend, as a share of what `full` would use; ignored by `full`.
        """
        if name not in LAYOUTS:
            raise ConfigError(
                f'embedding layout "{name}" does not exist.{did_you_mean(name, LAYOUTS)}'
            )
        if ratio <= 0:
            raise ConfigError(f"embedding.ratio={ratio}; it must be above 0.")
        sizes = [table.size - 1 for table in tables]  # the padding code has the shared row 0
        if name in ("full", "hashed"):
            many = [table.name for table in tables if table.lookups != 1]
            if many:
                raise ConfigError(
                    f"several lookups per field ({', '.join(many)}) need embedding=unified."
                )
            shrink = 1.0 if name == "full" else ratio
            spans = [size if shrink == 1.0 else max(1, round(size * shrink)) for size in sizes]
            starts = [1]
            for span in spans:
                starts.append(starts[-1] + span)
            return cls(name, tables, starts[-1], starts[:-1], spans)
        rows = max(1, round(sum(sizes) * ratio))
        return cls(name, tables, rows + 1, [1] * len(tables), [rows] * len(tables))

    @property
    def num_lookups(self) -> int:
        """Rows that one batch row looks up when every table is read once."""
        return sum(table.lookups for table in self.tables)

    @property
    def shared(self) -> bool:
        """True where all fields read the same rows."""
        return self.name in ("multiplexed", "unified")

    @property
    def ranges(self) -> tuple[TableRange, ...]:
        """The tables that the storage holds: one per logical table, or one, named after the layout,
        that all fields share."""
        if self.shared:
            return (TableRange(self.name, 1, self.num_rows - 1),)
        zipped = zip(self.tables, self.starts, self.spans, strict=True)
        return tuple(TableRange(table.name, start, span) for table, start, span in zipped)

    def range_of(self, name: str) -> TableRange:
        """Where the codes of a logical table lie."""
        return self.ranges[0 if len(self.ranges) == 1 else self._index[name]]

    def table(self, name: str) -> TableSpec:
        """The logical table of that name."""
        return self.tables[self._index[name]]

    def rows(self, codes: Tensor, names: Sequence[str]) -> Tensor:
        """Storage rows of several single-valued fields.

        Shape:
            codes   [B, F] integer codes, one column per entry of `names`
            return  [B, L] int64 rows, lookups of a field side by side
        """
        column, keys, spans, starts = self._constants(tuple(names), codes.device)
        if column is not None:
            codes = codes[:, column]
        if self.name == "full":
            return self._keep_padding(codes.long() + (starts - 1), codes)
        return self._hash(codes, keys, spans, starts)

    def _constants(
        self, names: tuple[str, ...], device: torch.device
    ) -> tuple[Tensor | None, Tensor, Tensor, Tensor]:
        """Per lookup of these fields: the column it reads (None when each reads its own), its salt,
        and the span and start of its range, [L] each. Made once, since every batch asks."""
        found = self._cache.get((names, device))
        if found is None:
            order = [(i, k) for i, n in enumerate(names) for k in range(self.table(n).lookups)]
            which = [self._index[names[i]] for i, _ in order]
            several = len(order) != len(names)
            column = torch.tensor([i for i, _ in order], device=device) if several else None
            salts = [self._salts[w][k] for w, (_, k) in zip(which, order, strict=True)]
            ranges = ([self.spans[w] for w in which], [self.starts[w] for w in which])
            keys, spans, starts = (
                torch.tensor(one, dtype=torch.int64, device=device) for one in (salts, *ranges)
            )
            found = self._cache[names, device] = (column, keys, spans, starts)
        return found

    def rows_of(self, codes: Tensor, name: str, lookup: int = 0) -> Tensor:
        """Storage rows of any shape of codes of one table (histories, multi-valued, export)."""
        table = self._index[name]
        if self.name == "full":
            return self._keep_padding(codes.long() + (self.starts[table] - 1), codes)
        key, span, start = self._salts[table][lookup], self.spans[table], self.starts[table]
        return self._hash(codes, key, span, start)

    def _hash(
        self, codes: Tensor, key: Tensor | int, span: Tensor | int, start: Tensor | int
    ) -> Tensor:
        mixed = mix64(mix64(codes.long()) ^ key)
        return self._keep_padding((mixed & 0x7FFFFFFFFFFFFFFF) % span + start, codes)

    @staticmethod
    def _keep_padding(rows: Tensor, codes: Tensor) -> Tensor:
        return rows.masked_fill_(codes == PADDING, 0)

    def extra_repr(self) -> str:
        return f"{self.name}, tables={len(self.tables)}, rows={self.num_rows:,}"


class PrunedLayout(Layout):
    """A full layout without the rows that a gate dropped: their codes read the zero row.

    Args:
        full: The layout that was trained.
        kept: Table name -> [size - 1] bool, True where the row of code 1, 2, ... is still there.

    Raises:
        CheckpointError: the masks do not belong to these tables.
    """

    def __init__(self, full: Layout, kept: Mapping[str, Tensor]) -> None:
        wanted = {table.name: span for table, span in zip(full.tables, full.spans, strict=True)}
        found = {name: mask.shape[0] for name, mask in kept.items()}
        if full.name != "full" or found != wanted:
            raise CheckpointError(
                f"the rows kept are of the tables {found} (name: rows), but a layout "
                f'"{full.name}" has {wanted}. Export the model again.'
            )
        masks = [kept[table.name].bool().cpu() for table in full.tables]
        spans = [int(mask.sum()) for mask in masks]
        starts = [1]
        for span in spans:
            starts.append(starts[-1] + span)
        super().__init__("pruned", full.tables, starts[-1], starts[:-1], spans)
        self.full = full
        mask = torch.cat([torch.zeros(1, dtype=torch.bool), *masks])
        # Half the bytes of int64; no table on one machine has 2^31 rows.
        numbers = (mask.cumsum(0) * mask).to(torch.int32)
        self.row_of: Tensor
        self.register_buffer("row_of", numbers, persistent=False)

    def rows(self, codes: Tensor, names: Sequence[str]) -> Tensor:
        return self.row_of[self.full.rows(codes, names)].long()

    def rows_of(self, codes: Tensor, name: str, lookup: int = 0) -> Tensor:
        return self.row_of[self.full.rows_of(codes, name, lookup)].long()

    def kept(self) -> dict[str, Tensor]:
        """The masks this layout was made of, by table name."""
        return {
            table.name: self.row_of[start : start + span] != 0
            for table, start, span in zip(
                self.tables, self.full.starts, self.full.spans, strict=True
            )
        }
