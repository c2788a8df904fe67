"""Short texts as numbers, and the cache that may forget but never lies."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data import keys
from recsys.data.keys import KeyCache, short_keys

letters = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=4)
short = letters.filter(lambda t: len(t.encode()) <= 8)


@settings(deadline=None)
@given(st.lists(st.none() | short, min_size=1, max_size=40))
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_keys_are_the_bytes(kind: pa.DataType, texts: list[str | None]) -> None:
    array = pa.array(texts, kind)
    found = short_keys(array)
    expected = [int.from_bytes((t or "").encode(), "little") for t in texts]
    if found is None:
        assert not any(texts)  # no bytes at all
        return
    assert found.tolist() == expected
    part = short_keys(array.slice(1))
    if part is not None:
        assert part.tolist() == expected[1:]


def test_long_texts_and_zero_bytes_have_no_key() -> None:
    assert short_keys(pa.array(["123456789"])) is None
    assert short_keys(pa.array(["a", "a\0"])) is None
    assert short_keys(pa.array([], pa.string())) is None
    assert short_keys(pa.array(["12345678"])) is not None


def test_bytes_under_a_null_are_not_seen() -> None:
    array = pa.StringArray.from_buffers(
        2, pa.py_buffer(np.array([0, 2, 4], np.int32)), pa.py_buffer(b"abcd"), pa.py_buffer(b"\x02")
    )
    assert array.to_pylist() == [None, "cd"]
    assert short_keys(array).tolist()[0] == 0


@pytest.mark.parametrize("max_bits", [2, 8, 22])
def test_a_hit_is_always_right(monkeypatch: pytest.MonkeyPatch, max_bits: int) -> None:
    monkeypatch.setattr(keys, "MAX_BITS", max_bits)
    cache = KeyCache(2)
    rng = np.random.default_rng(0)
    universe = rng.integers(1, 2**63, 500).astype(np.uint64)
    hits = 0
    for _ in range(50):
        rows = rng.integers(0, 500, 200)
        found = cache.find(universe[rows])
        known = found > 0
        hits += known.sum()
        np.testing.assert_array_equal(found[known], rows[known] + 3)
        cache.store(universe[rows], (rows + 3).astype(np.int32), 500)
    assert hits > 0
    if max_bits == 22:
        assert hits > 7000
