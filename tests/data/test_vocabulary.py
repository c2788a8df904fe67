"""Vocabularies: order of codes, limits, types, and the index that must not be forgotten."""

import gc
import pickle
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.schema import MISSING, NUM_RESERVED, UNSEEN
from recsys.data.vocabulary import Interner, Vocabulary
from recsys.errors import SchemaError


def count(values: list[str], chunk: int = 1000, **limits: int | None) -> tuple[Vocabulary, list]:
    interner = Interner()
    codes = []
    for start in range(0, len(values), chunk):
        part = interner.codes(pa.array(values[start : start + chunk], pa.string()))
        interner.add(part, np.ones(len(part), np.int64))
        codes.append(part)
    options = {"dtype": "string", "min_count": 1, "max_size": None, **limits}
    vocabulary, table = interner.freeze(**options)
    return vocabulary, table[np.concatenate(codes)].tolist() if codes else []


def test_codes_go_by_descending_count_then_by_value() -> None:
    vocabulary, codes = count(["b", "c", "a", "c", "z", "z", "z"])
    assert vocabulary.texts.to_list() == ["z", "c", "a", "b"]
    assert vocabulary.counts.to_list() == [3, 2, 1, 1]
    assert codes == [6, 4, 5, 4, 3, 3, 3]


def test_equal_counts_of_numbers_go_by_number() -> None:
    vocabulary, _ = count(["10", "9", "-1", "18446744073709551615"], dtype="int")
    assert vocabulary.texts.to_list() == ["-1", "9", "10", "18446744073709551615"]


def test_rare_and_surplus_values_become_unseen() -> None:
    values = ["a"] * 5 + ["b"] * 4 + ["c"] * 3 + ["d"]
    vocabulary, codes = count(values, min_count=3, max_size=2)
    assert vocabulary.texts.to_list() == ["a", "b"]
    assert codes == [3] * 5 + [4] * 4 + [UNSEEN] * 4


@settings(deadline=None)
@given(st.lists(st.text(max_size=3), max_size=60), st.integers(1, 20), st.randoms())
def test_codes_do_not_depend_on_the_order_or_chunking(
    values: list[str], chunk: int, rng: random.Random
) -> None:
    vocabulary, codes = count(values, chunk)
    shuffled = list(values)
    rng.shuffle(shuffled)
    again, _ = count(shuffled, 1000)
    assert vocabulary.texts.to_list() == again.texts.to_list()
    counts = Counter(values)
    expected = sorted(counts, key=lambda t: (-counts[t], t.encode()))
    assert vocabulary.texts.to_list() == expected
    assert codes == [expected.index(v) + NUM_RESERVED for v in values]


def test_the_growing_index_survives_garbage_collection() -> None:
    interner = Interner()
    first = interner.codes(pa.array(["a", "b"])).tolist()
    gc.collect()
    assert interner.codes(pa.array(["c", "b", None])).tolist() == [5, first[1], MISSING]


def test_values_seen_outside_training_only_are_unseen() -> None:
    interner = Interner()
    interner.add(interner.codes(pa.array(["a"])), np.array([1]))
    outside = interner.codes(pa.array(["b"]))
    vocabulary, table = interner.freeze("string", 1, None)
    assert vocabulary.texts.to_list() == ["a"]
    assert table[outside].tolist() == [UNSEEN]
    assert table[:NUM_RESERVED].tolist() == [0, MISSING, UNSEEN]


def test_fixed_codes_tell_missing_from_unseen() -> None:
    vocabulary, _ = count(["a", "a", "b"])
    assert vocabulary.size == NUM_RESERVED + 2
    assert vocabulary.codes(pa.array(["b", None, "zz", "a"])).tolist() == [4, MISSING, UNSEEN, 3]
    assert vocabulary.codes(pa.array([], pa.string())).tolist() == []


@pytest.mark.parametrize(
    ("dtype", "values", "tokens"),
    [
        ("string", ["x", "y"], ["x", "y"]),
        ("int", ["-5", "7"], [-5, 7]),
        ("int", ["9223372036854775807", "-9223372036854775808"], None),
        ("int", ["1", "18446744073709551615"], [1, 2**64 - 1]),
        ("bool", ["false", "true"], [False, True]),
        ("float", ["0.5", "1.25"], [0.5, 1.25]),
    ],
)
def test_tokens_come_back_in_their_type(dtype: str, values: list, tokens: list | None) -> None:
    vocabulary, _ = count(values, dtype=dtype)
    found = vocabulary.tokens(dtype).to_pylist()
    assert found[:NUM_RESERVED] == [None] * NUM_RESERVED
    assert found[NUM_RESERVED:] == (tokens or sorted(int(v) for v in values))


def test_saved_and_loaded_is_the_same(tmp_path: Path) -> None:
    vocabulary, _ = count(["b", "a", "a", "ü"])
    vocabulary.save(tmp_path / "v.parquet")
    loaded = Vocabulary.load(tmp_path / "v.parquet")
    assert loaded.texts.to_list() == vocabulary.texts.to_list()
    assert loaded.counts.to_list() == vocabulary.counts.to_list()
    assert loaded.codes(pa.array(["ü"])).tolist() == [5]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "v.parquet").write_bytes(b"PAR1 and nothing")
    with pytest.raises(SchemaError, match=r"v\.parquet is missing or corrupted.*rebuild"):
        Vocabulary.load(tmp_path / "v.parquet")


@pytest.mark.parametrize("length", [2, 8, 12])
def test_long_columns_give_the_same_codes_as_short_ones(length: int) -> None:
    rng = np.random.default_rng(length)
    values = [
        None if rng.random() < 0.05 else f"{int(9000 * rng.random() ** 3):0{length}d}"
        for _ in range(30_000)
    ]
    values[7] = values[20_000] = ""
    long, short = Interner(), Interner()
    results = []
    for interner, chunk in ((long, 10_000), (short, 1000)):
        parts = [
            interner.codes(pa.array(values[i : i + chunk], pa.string()))
            for i in range(0, len(values), chunk)
        ]
        results.append(np.concatenate(parts))
    np.testing.assert_array_equal(results[0], results[1])
    assert (results[0] == MISSING).sum() == values.count(None)


def test_what_interners_learnt_adds_up_in_any_order() -> None:
    rng = np.random.default_rng(0)
    values = [f"v{one}" for one in rng.integers(0, 40, 600) ** 2 // 40]
    whole, _ = count(values)
    parts = []
    for start in (0, 200, 400):
        interner = Interner()
        codes = interner.codes(pa.array(values[start : start + 200]))
        interner.add(codes, np.ones(200, np.int64))
        parts.append((interner.learnt(), codes))
    merged = Interner()
    tables = {index: merged.merge(*parts[index][0]) for index in (2, 0, 1)}
    vocabulary, final = merged.freeze("string", 1, None)
    assert vocabulary.texts.to_list() == whole.texts.to_list()
    assert vocabulary.counts.to_list() == whole.counts.to_list()
    found = np.concatenate([final[tables[i][codes]] for i, (_, codes) in enumerate(parts)])
    np.testing.assert_array_equal(found, whole.codes(pa.array(values)))


def test_a_vocabulary_that_was_used_travels_to_another_process() -> None:
    vocabulary, _ = count(["a", "b", "b"])
    expected = vocabulary.codes(pa.array(["b", "a", "c"]))
    again = pickle.loads(pickle.dumps(vocabulary))
    np.testing.assert_array_equal(again.codes(pa.array(["b", "a", "c"])), expected)
