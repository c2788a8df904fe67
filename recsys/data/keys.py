"""A cache from 64-bit keys to codes, made of whole-array operations.

Short texts are their own keys, so nothing is approximate: a hit is the right code, and whatever the
cache does not hold goes to the index behind it.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
SHORT = 8
"""Longest text, in bytes, that is its own key."""
MAX_BITS = 22
"""The cache has at most 2**MAX_BITS slots of 12 bytes."""


def short_keys(texts: pa.Array) -> np.ndarray | None:
    """Texts of at most eight bytes as unsigned integers [B], distinct texts as distinct numbers.

    Null and the empty text are 0. None when a text is longer or holds a zero byte.

    Example:
        >>> short_keys(pa.array(["a", None, "ba"])).tolist()
        [97, 0, 24930]
    """
    large = pa.types.is_large_string(texts.type)
    _, offsets_buffer, data_buffer = texts.buffers()
    count = len(texts)
    if not count or offsets_buffer is None or data_buffer is None:
        return None
    offsets = np.frombuffer(offsets_buffer, np.int64 if large else np.int32)
    offsets = offsets[texts.offset : texts.offset + count + 1]
    lengths = np.diff(offsets)
    if lengths.max() > SHORT:
        return None
    low, high = int(offsets[0]), int(offsets[-1])
    data = np.zeros(high - low + SHORT, np.uint8)  # spare bytes: every word can be read whole
    data[: high - low] = np.frombuffer(data_buffer, np.uint8)[low:high]
    if not data[: high - low].all():
        return None
    words = np.ndarray(data.size - SHORT + 1, "<u8", data, strides=(1,))[offsets[:-1] - low]
    if lengths.min() < SHORT:
        shift = np.uint64(8) * (np.uint64(SHORT) - lengths.astype(np.uint64))
        words = np.where(lengths == 0, np.uint64(0), (words << shift) >> shift)
    if texts.null_count:  # the bytes under a null may be anything
        words[texts.is_null().to_numpy(zero_copy_only=False)] = 0
    return words


class KeyCache:
    """Direct-mapped cache: a key has one slot, and the last key stored there wins.

    Key 0 is never stored. Not safe for concurrent use.
    """

    def __init__(self, bits: int = 12) -> None:
        self._resize(bits)

    def _resize(self, bits: int) -> None:
        self._bits = bits
        self._keys = np.zeros(1 << bits, np.uint64)
        self._codes = np.zeros(1 << bits, np.int32)

    def _slots(self, keys: np.ndarray) -> np.ndarray:
        return (keys * _MULTIPLIER) >> np.uint64(64 - self._bits)

    def find(self, keys: np.ndarray) -> np.ndarray:
        """Codes [B], 0 where the cache has none."""
        slots = self._slots(keys)
        codes = self._codes[slots]
        codes[self._keys[slots] != keys] = 0
        return codes

    def store(self, keys: np.ndarray, codes: np.ndarray, num_known: int) -> None:
        """Remember codes; grows with the number of codes that exist, which empties it once."""
        bits = min(MAX_BITS, int(num_known).bit_length() + 1)
        if bits > self._bits:
            self._resize(bits)
        slots = self._slots(keys)
        # Of several keys for one slot the same, last one is kept in both arrays.
        self._keys[slots] = keys
        self._codes[slots] = codes
