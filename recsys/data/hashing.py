"""One fixed 64-bit hash: the same number for the same value on any machine, for ever.

`mix64` is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). A text is hashed over its
UTF-8 bytes, eight at a time, little-endian, the last group padded with zeros:

    h = mix64(number of bytes);   h = mix64(h xor group) for each group

Numbers are hashed as their decimal text, so 7 and "7" fall into the same bucket.

`open_codes` gives every value a code without knowing the others. Whole numbers keep theirs, so that
they never collide and can be read back; among n other texts the chance that any two get one code is
about n^2 / 2^63: one in 900 for 10^8 texts, one in 10 for 10^9.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.schema import NUM_RESERVED

_C1 = np.uint64(0xBF58476D1CE4E5B9)
_C2 = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)

OPEN_SIZE = 2**63 - 1
"""Codes that `open_codes` can give, the reserved ones included: all of int64 that is not negative.
"""
_WHOLE = 2**62
"""Codes set aside for whole numbers; of 18 digits at most, so that no text needs to be parsed."""
_WHOLE_NUMBER = r"^(0|[1-9][0-9]{0,17})$"
_HASHES = np.uint64(2**62 - 8)


def mix64(values: np.ndarray) -> np.ndarray:
    """Mix unsigned 64-bit integers so that every input bit changes half of the output bits.

    Example:
        >>> mix64(np.array([0, 1], dtype=np.uint64)).tolist()
        [16294208416658607535, 10451216379200822465]
    """
    z = values.astype(np.uint64) + _STEP
    z = (z ^ (z >> np.uint64(30))) * _C1
    z = (z ^ (z >> np.uint64(27))) * _C2
    return z ^ (z >> np.uint64(31))


def hash_text(values: pa.Array) -> np.ndarray:
    """Hash texts (no nulls) to unsigned 64-bit integers.

    Example:
        >>> hash_text(pa.array(["", "a"])).tolist() == hash_text(pa.array(["", "a"])).tolist()
        True
    """
    values = values.cast(pa.large_string())
    _, offsets_buffer, data_buffer = values.buffers()
    count = len(values)
    offsets = np.frombuffer(offsets_buffer, np.int64)[values.offset : values.offset + count + 1]
    if not count:
        return np.empty(0, np.uint64)
    low, high = int(offsets[0]), int(offsets[-1])
    data = np.zeros(high - low + 8, np.uint8)  # eight spare bytes: every group can be read whole
    if data_buffer is not None:
        data[: high - low] = np.frombuffer(data_buffer, np.uint8)[low:high]
    starts = offsets[:-1] - low
    lengths = np.diff(offsets)
    groups = np.ndarray(data.size - 7, "<u8", data, strides=(1,))  # unaligned 64-bit reads
    h = mix64(lengths.astype(np.uint64))
    active = np.flatnonzero(lengths > 0)
    done = 0
    while active.size:
        group = groups[starts[active] + done]
        left = np.minimum(lengths[active] - done, 8).astype(np.uint64)
        shift = np.uint64(64) - left * np.uint64(8)
        group = (group << shift) >> shift
        h[active] = mix64(h[active] ^ group)
        done += 8
        active = active[lengths[active] > done]
    return h


def open_codes(texts: pa.Array) -> np.ndarray:
    """A code int64 for each text (no nulls), in [`NUM_RESERVED`, `OPEN_SIZE`).

    A whole number of up to 18 digits, without sign or leading zeros, is its own code plus
    `NUM_RESERVED`; any other text is its hash, above all of those.

    Example:
        >>> open_codes(pa.array(["0", "41", "a"])).tolist()
        [3, 44, 6774081908283191113]
    """
    whole = pc.match_substring_regex(texts, _WHOLE_NUMBER)
    known = whole.to_numpy(zero_copy_only=False)
    codes = np.empty(len(texts), np.int64)
    codes[known] = pc.cast(texts.filter(whole), pa.int64()).to_numpy() + NUM_RESERVED
    if not known.all():
        hashes = hash_text(texts.filter(pc.invert(whole))) % _HASHES
        codes[~known] = hashes.astype(np.int64) + (_WHOLE + NUM_RESERVED)
    return codes


def whole_numbers_of(codes: np.ndarray) -> np.ndarray:
    """The whole numbers that `open_codes` gave these codes for, int64; -1 for other texts' and
    reserved codes.

    Example:
        >>> whole_numbers_of(np.array([3, 44, 6774081908283191113, 2])).tolist()
        [0, 41, -1, -1]
    """
    inside = (codes >= NUM_RESERVED) & (codes < _WHOLE + NUM_RESERVED)
    return np.where(inside, codes - NUM_RESERVED, -1)
