"""One fixed 64-bit hash: the same number for the same value on any machine, for ever.

`mix64` is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014). A text is hashed over its
UTF-8 bytes, eight at a time, little-endian, the last group padded with zeros:

    h = mix64(number of bytes);   h = mix64(h xor group) for each group

Numbers are hashed as their decimal text, so 7 and "7" fall into the same bucket.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

_C1 = np.uint64(0xBF58476D1CE4E5B9)
_C2 = np.uint64(0x94D049BB133111EB)
_STEP = np.uint64(0x9E3779B97F4A7C15)


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
