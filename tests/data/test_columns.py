"""One raw column to one array: every type, and every value that is refused."""

from datetime import date

import numpy as np
import pyarrow as pa
import pytest

from recsys.data.columns import (
    MISSING_GROUP,
    HashCoder,
    Lists,
    category_codes,
    dtype_name,
    groups,
    labels,
    list_codes,
    numbers,
    weights,
)
from recsys.data.hashing import hash_text
from recsys.data.readers import Chunk
from recsys.data.schema import MISSING, NUM_RESERVED, Field
from recsys.data.vocabulary import Interner
from recsys.errors import SchemaError


def at(array: pa.Array) -> Chunk:
    """A chunk that begins at row 100 of a file."""
    return Chunk(lambda _: array, len(array), "clicks.parquet", 100, 100)


def category(dtype: str = "string", **keys: object) -> Field:
    return Field(name="c", kind="categorical", encoding="vocabulary", dtype=dtype, **keys)


def codes(array: pa.Array, dtype: str) -> list[int]:
    return category_codes(array, category(dtype), Interner(), at(array)).tolist()


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (pa.array(["b", None, "a", "b"]), "string"),
        (pa.array(["b", None, "a", "b"], pa.large_string()), "string"),
        (pa.array(["b", None, "a", "b"], pa.string_view()), "string"),
        (pa.array(["b", None, "a", "b"]).dictionary_encode(), "string"),
        (pa.array(["b", None, "a", "b"]).dictionary_encode().cast(pa.dictionary(pa.uint8(), pa.string())), "string"),  # noqa: E501
        (pa.array([2**62 + 1, None, 2**62, 2**62 + 1]), "int"),
        (pa.array([2**64 - 1, None, 2**64 - 2, 2**64 - 1], pa.uint64()), "int"),
        (pa.array([7, None, 3, 7], pa.int8()), "int"),
        (pa.array([7.0, None, 3.0, 7.0]), "int"),  # pandas turns nullable integers into floats
        (pa.array([0.5, None, 0.25, 0.5]), "float"),
        (pa.array([True, None, False, True]), "bool"),
        (pa.array([1, None, 0, 1]), "bool"),
        (pa.array([date(2024, 1, 2), None, date(2024, 1, 1), date(2024, 1, 2)]), "string"),
        (pa.array([12, None, 34, 12]), "string"),
    ],
)  # fmt: skip
def test_every_type_keeps_its_distinct_values(array: pa.Array, dtype: str) -> None:
    first, second = NUM_RESERVED, NUM_RESERVED + 1
    assert codes(array, dtype) == [first, MISSING, second, first]
    missing, token = codes(array.slice(1, 2), dtype)
    assert missing == MISSING
    assert token >= NUM_RESERVED


def test_a_dictionary_that_holds_null_is_understood() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1, None]), pa.array(["a", None]))
    assert codes(array, "string") == [NUM_RESERVED, MISSING, MISSING]


def test_all_null_without_a_type() -> None:
    assert codes(pa.nulls(3), "string") == [MISSING] * 3


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (pa.array([1.5]), "int"),
        (pa.array(["x"]), "int"),
        (pa.array(["x"]), "float"),
        (pa.array([{"a": 1}]), "string"),
    ],
)
def test_a_type_that_does_not_fit_names_column_and_file(array: pa.Array, dtype: str) -> None:
    with pytest.raises(SchemaError, match=r'column "c" is declared .*clicks\.parquet'):
        codes(array, dtype)


def test_nan_in_a_category_is_refused_or_missing() -> None:
    array = pa.array([1.0, float("nan"), 2.0])
    with pytest.raises(SchemaError, match=r'"c" has 1 values.*NaN.*parquet rows 101 to 101'):
        codes(array, "float")
    out = category_codes(array, category("float"), Interner(), at(array), nan_as_missing=True)
    assert out.tolist() == [3, MISSING, 4]


def test_hash_codes_are_the_fixed_hash() -> None:
    array = pa.array(["a", None, "b"])
    field = Field(name="c", kind="categorical", encoding="hash", hash_size=1000)
    out = category_codes(array, field, HashCoder(1000), at(array))
    expected = (hash_text(pa.array(["a", "b"])) % np.uint64(1000)).astype(int) + NUM_RESERVED
    assert out.tolist() == [expected[0], MISSING, expected[1]]
    field = Field(name="c", kind="categorical", encoding="hash", hash_size=9, dtype="int")
    numbers_too = category_codes(pa.array([7]), field, HashCoder(9), at(array))
    assert numbers_too[0] == int(hash_text(pa.array(["7"]))[0] % np.uint64(9)) + NUM_RESERVED


def history(max_length: int | None = None, kind: str = "history") -> Field:
    return Field(name="h", kind=kind, encoding="vocabulary", max_length=max_length)


@pytest.mark.parametrize("kind", [pa.list_(pa.string()), pa.large_list(pa.string())])
def test_lists_keep_missing_empty_and_null_apart(kind: pa.DataType) -> None:
    array = pa.array([["a", "b"], [], None, ["b", None]], kind)
    for part, values, lengths in (
        (array, [3, 4, MISSING, 4, MISSING], [2, 0, 1, 2]),
        (array.slice(1, 2), [MISSING], [0, 1]),
        (array.slice(3), [3, MISSING], [2]),
    ):
        out = list_codes(part, history(), Interner(), at(part))
        assert out.values.tolist() == values
        assert out.lengths.tolist() == lengths


def test_a_history_keeps_its_last_values_and_a_set_its_first() -> None:
    array = pa.array([["a", "b", "c"], ["c"], None, []])
    last = list_codes(array, history(2), Interner(), at(array))
    first = list_codes(array, history(2, "multivalued"), Interner(), at(array))
    assert last.values.tolist() == [4, 5, 5, MISSING]
    assert first.values.tolist() == [3, 4, 5, MISSING]
    assert last.lengths.tolist() == first.lengths.tolist() == [2, 1, 1, 0]


def test_values_under_null_lists_are_not_read() -> None:
    array = pa.ListArray.from_arrays(
        pa.array([0, 2, 4]), pa.array(["a", "b", "c", "d"]), mask=pa.array([True, False])
    )
    out = list_codes(array, history(), Interner(), at(array))
    assert out.lengths.tolist() == [1, 2]
    assert out.values[0] == MISSING


def test_rows_of_lists_are_picked_in_order() -> None:
    lists = Lists(np.array([1, 2, 3, 4, 5]), np.array([2, 0, 3]))
    picked = lists.take(np.array([2, 1, 0, 2]))
    assert picked.values.tolist() == [3, 4, 5, 1, 2, 3, 4, 5]
    assert picked.lengths.tolist() == [3, 0, 2, 3]


def test_a_list_field_needs_lists() -> None:
    array = pa.array(["a|b"])
    with pytest.raises(SchemaError, match=r'"h" is history, so it must hold lists'):
        list_codes(array, history(), Interner(), at(array))


@pytest.mark.parametrize(
    ("array", "values"),
    [
        (pa.array([1, None, 3]), [1, np.nan, 3]),
        (pa.array([1.5, None, -2.0], pa.float32()), [1.5, np.nan, -2]),
        (pa.array([True, False, None]), [1, 0, np.nan]),
        (pa.array(["1.5"]).cast(pa.float64()).dictionary_encode(), [1.5]),
        (pa.array([date(1970, 1, 3)]), [2]),
        (pa.array([1, 2]).cast(pa.timestamp("us")), [1, 2]),
        (pa.nulls(2), [np.nan, np.nan]),
    ],
)
def test_numbers(array: pa.Array, values: list[float]) -> None:
    out = numbers(array, "x", at(array), nan_as_missing=False)
    assert out.dtype == np.float64
    np.testing.assert_array_equal(out, values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_number_that_is_not_finite_names_column_file_and_rows(bad: float) -> None:
    array = pa.array([1.0, bad, None, bad])
    with pytest.raises(
        SchemaError, match=rf'"x" has 2 values.*first {bad}.*clicks\.parquet rows 101 to 103'
    ):
        numbers(array, "x", at(array), nan_as_missing=False)


def test_nan_as_missing_forgives_nan_but_not_infinity() -> None:
    array = pa.array([1.0, float("nan")])
    assert np.isnan(numbers(array, "x", at(array), nan_as_missing=True)[1])
    with pytest.raises(SchemaError, match="inf"):
        numbers(pa.array([float("inf")]), "x", at(array), nan_as_missing=True)


def test_text_is_no_number() -> None:
    with pytest.raises(SchemaError, match=r'"x" in clicks\.parquet holds string'):
        numbers(pa.array(["1"]), "x", at(pa.array(["1"])), nan_as_missing=False)


@pytest.mark.parametrize("values", [[0, 1], [0.0, 1.0], [False, True]])
def test_labels(values: list) -> None:
    array = pa.array(values)
    out = labels(array, "click", at(array), optional=False)
    assert out.dtype == np.float32
    assert out.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([0, 1, 2], r'label "click" is 2 in clicks\.parquet row 102 \(1 such rows'),
        ([0.5], r'label "click" is 0\.5 in clicks\.parquet row 100'),
        ([1.0, float("nan")], r'label "click" is nan in clicks\.parquet row 101'),
        ([1, None], r'label "click" is missing in clicks\.parquet row 101'),
        (["yes"], r'label "click" in clicks\.parquet holds string'),
        ([None], r'label "click" is missing in clicks\.parquet row 100'),
    ],
)
def test_bad_labels_name_value_file_and_row(values: list, message: str) -> None:
    array = pa.array(values)
    with pytest.raises(SchemaError, match=message):
        labels(array, "click", at(array), optional=False)


def test_one_of_several_labels_may_be_missing() -> None:
    array = pa.array([1, None, 0])
    out = labels(array, "buy", at(array), optional=True)
    np.testing.assert_array_equal(out, [1, np.nan, 0])


def test_weights_must_be_there_and_not_negative() -> None:
    array = pa.array([0.0, 2.5])
    assert weights(array, "w", at(array)).tolist() == [0, 2.5]
    for bad in ([-1.0], [None], [float("nan")]):
        array = pa.array(bad, pa.float64())
        with pytest.raises(SchemaError, match=r'weight "w" is .*clicks\.parquet row 100'):
            weights(array, "w", at(array))


def test_groups_are_identities() -> None:
    array = pa.array([5, None, -7, 5])
    assert groups(array, "u", at(array)).tolist() == [5, MISSING_GROUP, -7, 5]
    array = pa.array(["x", None, "y", "x"])
    out = groups(array, "u", at(array))
    assert out.dtype == np.int64
    assert out[0] == out[3] == hash_text(pa.array(["x"])).view(np.int64)[0]
    assert out[1] == MISSING_GROUP
    assert len({*out.tolist()}) == 3
    big = pa.array([2**64 - 1, 2**64 - 2], pa.uint64())
    assert len(set(groups(big, "u", at(big)).tolist())) == 2


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (pa.int8(), "int"), (pa.uint64(), "int"), (pa.float32(), "float"), (pa.bool_(), "bool"),
        (pa.decimal128(9, 2), "float"), (pa.string(), "string"), (pa.date32(), "string"),
        (pa.list_(pa.int64()), "int"), (pa.dictionary(pa.int8(), pa.string()), "string"),
        (pa.struct([("a", pa.int8())]), None), (pa.null(), None), (pa.binary(), None),
    ],
)  # fmt: skip
def test_dtype_names(kind: pa.DataType, name: str | None) -> None:
    assert dtype_name(kind) == name
