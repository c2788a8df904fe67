"""Rows in fewer bytes, for models that only predict.

    float16   every number of a row in half precision: 11 significant bits
    int8      each vector as 8-bit codes c between 0 and 255:  w ~ offset + scale * c
    int4      the same with 4-bit codes, 0 to 15

Scale and offset are a vector's own, in half precision. The offset is rounded down and the scale up,
so that the codes span the vector whatever the rounding: no number is further than scale / 2 from
what is read back. First-order weights, one number each, are float16 in every format.

A row is a block of bytes, so that reading it touches one place of memory:

    float16       W halves
    int8, int4    scale, offset of each vector and the first-order weight, as halves | codes
    4-bit codes   byte j holds number j in its low half and number ceil(D / 2) + j in its high one

Source   Row-wise asymmetric quantisation as in Guan et al., "Post-Training 4-bit Quantization on
         Embedding Tables", arXiv:1911.02079, Sec. 2 (its plain form, over the whole range).
Differs  The directed rounding of scale and offset.
Letters  n rows, W numbers of a row, D width of a vector, V vectors of a row (1, or 2 where a model
         has a second table), L numbers that are no vector (0 or 1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.errors import ConfigError, did_you_mean

FORMATS = ("float16", "int8", "int4")
LARGEST = float(np.finfo(np.float16).max)
"""The largest number that any of the formats holds."""
_BITS = {"int8": 8, "int4": 4}
_HALF = 2
"""Bytes of a number in half precision."""


@dataclass(frozen=True)
class CompactRows:
    """How rows of W numbers are written and read.

    Args:
        format: One of `FORMATS`.
        width: W.
        dim: D; 0 for rows without vectors.

    Raises:
        ConfigError: the format does not exist.

    Example:
        >>> rows = CompactRows("int8", width=17, dim=16)
        >>> rows.num_bytes  # 16 codes; scale, offset and first-order weight of two bytes each
        22
        >>> CompactRows("int4", 17, 16).num_bytes, CompactRows("float16", 17, 16).num_bytes
        (14, 34)
    """

    format: str
    width: int
    dim: int

    def __post_init__(self) -> None:
        check_format(self.format)

    @property
    def num_vectors(self) -> int:
        """V, of those that become codes: none under float16, nor of vectors so narrow that their
        codes, scale and offset would take more bytes than halves."""
        codes = self.dim * _BITS.get(self.format, 16) // 8
        return self.width // self.dim if codes + 2 * _HALF < self.dim * _HALF else 0

    @property
    def num_halves(self) -> int:
        """Numbers in half precision at the start of a row."""
        return self.width + self.num_vectors * (2 - self.dim)

    @property
    def bits(self) -> int:
        """Bits of a code."""
        return _BITS.get(self.format, 16)

    @property
    def code_bytes(self) -> int:
        """Bytes of the codes of one vector."""
        return -(-self.dim * self.bits // 8) if self.num_vectors else 0

    @property
    def num_bytes(self) -> int:
        """Bytes of a row."""
        return _HALF * self.num_halves + self.num_vectors * self.code_bytes

    def encode(self, rows: Tensor) -> Tensor:
        """Write rows.

        Shape:
            rows    [n, W] float32, on a CPU
            return  [n, num_bytes] uint8

        Raises:
            ConfigError: a number is not finite, or beyond `LARGEST`.
        """
        values = rows.detach().numpy().astype(np.float64)
        largest = float(np.abs(values).max(initial=0.0))
        if not largest <= LARGEST:
            raise ConfigError(
                f"a number of the tables is {largest:g}; {self.format} holds numbers up to "
                f"{LARGEST:,.0f}. Use tables=float32."
            )
        halves: list[np.ndarray] = []
        codes: list[np.ndarray] = []
        for vector in range(self.num_vectors):
            part = values[:, vector * self.dim : (vector + 1) * self.dim]
            scale, offset = self._grid(part)
            halves += [scale, offset]
            step = np.where(scale > 0, scale, 1.0).astype(np.float64)[:, None]
            numbers = np.rint((part - offset.astype(np.float64)[:, None]) / step)
            codes.append(self._packed(numbers.astype(np.uint8)))
        rest = values[:, self.num_vectors * self.dim :].astype(np.float16)
        head = np.concatenate([np.stack(halves, 1), rest], axis=1) if halves else rest
        head = (
            np.ascontiguousarray(head).view(np.uint8).reshape(len(values), _HALF * self.num_halves)
        )
        out = torch.empty(len(values), self.num_bytes, dtype=torch.uint8)
        np.concatenate([head, *codes], axis=1, out=out.numpy())
        return out

    def _grid(self, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Scale and offset [n] float16 of vectors [n, D]: offset <= all numbers <= offset + (2^bits
        - 1) * scale."""
        low, high = vectors.min(axis=1), vectors.max(axis=1)
        offset = low.astype(np.float16)
        np.nextafter(offset, np.float16(-np.inf), out=offset, where=offset > low)
        wanted = (high - offset) / (2**self.bits - 1)
        scale = wanted.astype(np.float16)
        np.nextafter(scale, np.float16(np.inf), out=scale, where=scale < wanted)
        return scale, offset

    def _packed(self, codes: np.ndarray) -> np.ndarray:
        if self.bits == 8:
            return codes
        half = self.code_bytes
        high = np.zeros((len(codes), half), np.uint8)
        high[:, : self.dim - half] = codes[:, half:]
        return codes[:, :half] | (high << 4)

    def decode(self, stored: Tensor) -> Tensor:
        """Read rows, by operations that any torch has and `torch.export` knows.

        Shape:
            stored  [n, num_bytes] uint8
            return  [n, W] float32
        """
        head = stored[:, : _HALF * self.num_halves].contiguous().view(torch.float16).float()
        if not self.num_vectors:
            return head
        parts = []
        for vector in range(self.num_vectors):
            start = _HALF * self.num_halves + vector * self.code_bytes
            codes = stored[:, start : start + self.code_bytes]
            if self.bits == 4:
                codes = torch.cat([codes & 15, codes >> 4], dim=1)[:, : self.dim]
            scale, offset = head[:, 2 * vector, None], head[:, 2 * vector + 1, None]
            parts.append(torch.addcmul(offset, codes.float(), scale))
        return torch.cat([*parts, head[:, 2 * self.num_vectors :]], dim=1)

    def error_bounds(self, stored: Tensor) -> Tensor:
        """Scale / 2 of every vector, [n, V]: what a number read back can be wrong by (and by the
        last bit of a float32)."""
        head = stored[:, : _HALF * self.num_halves].contiguous().view(torch.float16).float()
        return head[:, 0 : 2 * self.num_vectors : 2] / 2


def check_format(name: str) -> str:
    """Return `name` when it is one of `FORMATS`, else raise ConfigError."""
    if name not in FORMATS:
        raise ConfigError(f'tables="{name}" does not exist.{did_you_mean(name, FORMATS)}')
    return name
