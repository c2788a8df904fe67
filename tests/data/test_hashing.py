"""The hash is fixed for ever: golden values, and a slow reference."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.hashing import OPEN_SIZE, hash_text, mix64, open_codes, whole_numbers_of

MASK = 2**64 - 1


def slow_mix(z: int) -> int:
    z = (z + 0x9E3779B97F4A7C15) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def slow_hash(text: str) -> int:
    data = text.encode()
    h = slow_mix(len(data))
    for start in range(0, len(data), 8):
        h = slow_mix(h ^ int.from_bytes(data[start : start + 8], "little"))
    return h


def test_golden_values_never_change() -> None:
    texts = pa.array(["", "a", "hello world", "12345678", "日本"])
    assert hash_text(texts).tolist() == [
        16294208416658607535,
        6774081908283191102,
        4218915727126751900,
        9501447833425779875,
        slow_hash("日本"),
    ]
    assert mix64(np.array([0, 2**64 - 1], np.uint64)).tolist() == [
        16294208416658607535,
        slow_mix(2**64 - 1),
    ]


@settings(deadline=None)
@given(st.lists(st.text(max_size=40), max_size=30))
def test_equals_the_formula_byte_by_byte(texts: list[str]) -> None:
    assert hash_text(pa.array(texts, pa.string())).tolist() == [slow_hash(t) for t in texts]


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_slices_hash_as_their_values(kind: pa.DataType) -> None:
    texts = pa.array(["aa", "b", "", "cccccccccccc", "d"], kind)
    assert hash_text(texts.slice(1, 3)).tolist() == hash_text(texts).tolist()[1:4]
    assert hash_text(texts.slice(2, 1)).tolist() == [slow_hash("")]


def test_spreads_evenly_over_few_buckets() -> None:
    buckets = hash_text(pa.array([str(i) for i in range(20_000)])) % np.uint64(100)
    counts = np.bincount(buckets.astype(int), minlength=100)
    chi2 = ((counts - 200) ** 2 / 200).sum()
    assert 50 < chi2 < 160  # 99 degrees of freedom: five deviations each way


def test_one_input_bit_changes_half_of_the_output_bits() -> None:
    values = np.arange(4096, dtype=np.uint64)
    flipped = mix64(values) ^ mix64(values ^ np.uint64(1 << 20))
    bits = np.unpackbits(flipped.view(np.uint8)).mean()
    assert abs(bits - 0.5) < 0.01


def slow_open(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 18 and text == str(int(text)):
        return int(text) + 3
    return slow_hash(text) % (2**62 - 8) + 2**62 + 3


def test_open_codes_against_the_slow_reference() -> None:
    texts = ["", "0", "7", "07", "-1", "+1", "999999999999999999", "1000000000000000000", "1.0"]
    texts += ["a", "u12", " 3", "3\n", "٣", "18446744073709551615", "日本"]
    codes = open_codes(pa.array(texts))
    assert codes.tolist() == [slow_open(text) for text in texts]
    assert len(set(codes.tolist())) == len(texts)
    assert codes.min() >= 3
    assert codes.max() < OPEN_SIZE
    back = [int(t) if slow_open(t) < 2**62 + 3 else -1 for t in texts]
    assert whole_numbers_of(codes).tolist() == back
    assert whole_numbers_of(np.array([0, 1, 2])).tolist() == [-1, -1, -1]
    assert open_codes(pa.array([], pa.string())).tolist() == []


@given(st.lists(st.one_of(st.text(), st.integers(-(10**20), 10**20).map(str)), max_size=30))
@settings(max_examples=100, deadline=None)
def test_open_codes_of_any_text(texts: list[str]) -> None:
    assert open_codes(pa.array(texts, pa.string())).tolist() == [slow_open(text) for text in texts]
