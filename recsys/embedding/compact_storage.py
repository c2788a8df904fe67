"""A table of compact rows that is read and never trained.

Letters   R rows, W width, n single rows, m rows in bags, b bags.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recsys.embedding.compact_rows import CompactRows
from recsys.embedding.storage import Storage
from recsys.native import load_kernel

BLOCK_ROWS = 65536
"""Rows encoded or decoded at a time: a whole table may not fit in memory twice."""


@dataclass(frozen=True)
class CompactTables:
    """Makes compact storages, `(num_rows, width) -> Storage`.

    Args:
        format: One of `compact_rows.FORMATS`.
        dim: Width of a vector; 0 where rows hold first-order weights alone.
    """

    format: str
    dim: int

    def __call__(self, num_rows: int, width: int) -> CompactStorage:
        return CompactStorage(num_rows, CompactRows(self.format, width, self.dim))

    def row_bytes(self, width: int) -> int:
        """Bytes of a row."""
        return CompactRows(self.format, width, self.dim).num_bytes


class CompactStorage(Storage):
    """Rows as bytes, see `compact_rows`. On a CPU a kernel reads them; elsewhere, where it cannot
    be built, and where torch traces the model, operations of torch do. Both give the same bits.

    Args:
        num_rows: R, the padding row included.
        rows: How rows are written.
        device: Where the table lies.

    Example:
        >>> storage = CompactStorage(3, CompactRows("int8", width=4, dim=4))
        >>> storage.fill(torch.tensor([[0.0] * 4, [1.0, 2.0, 3.0, 4.0], [0.5] * 4]))
        >>> vectors, _ = storage(torch.tensor([1, 2]))
        >>> vectors.round(decimals=2).tolist()
        [[1.0, 2.0, 3.0, 4.0], [0.5, 0.5, 0.5, 0.5]]
    """

    def __init__(
        self, num_rows: int, rows: CompactRows, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        self.num_rows, self.width = num_rows, rows.width
        self.rows = rows
        self.format = rows.format
        self.stored: Tensor
        table = torch.zeros(num_rows, rows.num_bytes, dtype=torch.uint8, device=device)
        self.register_buffer("stored", table, persistent=False)

    def forward(
        self,
        rows: Tensor,
        bag_rows: Tensor | None = None,
        bag_offsets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        if self._has_kernel(rows):
            vectors = self._read(rows)
            if bag_rows is None or bag_offsets is None:
                return vectors, None
            return vectors, self._read_bags(bag_rows, bag_offsets)
        vectors = self.rows.decode(self.stored.index_select(0, rows))
        if bag_rows is None or bag_offsets is None:
            return vectors, None
        num_bags = bag_offsets.shape[0] - 1
        bags = torch.arange(num_bags, device=rows.device)
        of_row = bags.repeat_interleave(bag_offsets.diff(), output_size=bag_rows.shape[0])
        each = self.rows.decode(self.stored.index_select(0, bag_rows))
        return vectors, each.new_zeros(num_bags, self.width).index_add(0, of_row, each)

    def table(self) -> Tensor:
        """The weights [R, W] as they are read: a copy, in float32."""
        return torch.cat([self.rows.decode(part) for part in self.stored.split(BLOCK_ROWS)])

    def weights(self) -> dict[str, Tensor]:
        return {self.format: self.stored}

    @property
    def device(self) -> torch.device:
        return self.stored.device

    def initialize(self, std: float) -> None:
        """Nothing: rows are filled, never learnt."""

    def fill(self, weights: Tensor) -> None:
        """Take over rows [R, W] float32.

        Raises:
            ConfigError: a number does not fit the format.
        """
        for start in range(0, self.num_rows, BLOCK_ROWS):
            part = slice(start, start + BLOCK_ROWS)
            self.stored[part] = self.rows.encode(weights[part].cpu())

    def _has_kernel(self, rows: Tensor) -> bool:
        if self.stored.device.type != "cpu" or torch.compiler.is_compiling():
            return False
        return type(rows) is Tensor and compact_kernel() is not None

    def _read(self, rows: Tensor) -> Tensor:
        rows = rows.contiguous()
        out = torch.empty(rows.shape[0], self.width)
        self._call("compact_read", rows.shape[0], rows, rows.data_ptr(), out=out)
        return out

    def _read_bags(self, rows: Tensor, offsets: Tensor) -> Tensor:
        rows, offsets = rows.contiguous(), offsets.contiguous()
        num_bags = offsets.shape[0] - 1
        out = torch.empty(num_bags, self.width)
        places = rows.data_ptr(), offsets.data_ptr()
        self._call("compact_read_bags", num_bags, rows, *places, out=out)
        return out

    def _call(self, name: str, count: int, rows: Tensor, *places: int, out: Tensor) -> None:
        one = self.rows
        wrong = getattr(compact_kernel(), name)(
            count, *places, self.stored.data_ptr(), self.num_rows, one.num_bytes, one.width,
            one.dim, one.num_vectors, one.bits, out.data_ptr(), torch.get_num_threads(),
        )  # fmt: skip
        if wrong >= 0:
            raise IndexError(
                f"row {int(rows[wrong])} is outside the table of {self.num_rows} rows."
            )

    def extra_repr(self) -> str:
        return f"rows={self.num_rows:,}, width={self.width}, {self.format}"


@functools.cache
def compact_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    i32, i64, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    for name, places in (("compact_read", 1), ("compact_read_bags", 2)):
        function = getattr(library, name)
        function.argtypes = [i64, *places * [ptr], ptr, *6 * [i64], ptr, i32]
        function.restype = i64
    return library
