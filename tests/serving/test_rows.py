"""Rows as JSON to columns: what fits is read, what does not is named."""

import json
from typing import Any

import numpy as np
import pytest

from recsys.data.schema import Field, Schema
from recsys.serving.problems import RequestError
from recsys.serving.rows import RowReader

SCHEMA = Schema(
    fields=(
        Field(name="id", kind="categorical", encoding="vocabulary", dtype="int"),
        Field(name="word", kind="categorical", encoding="vocabulary"),
        Field(name="size", kind="categorical", encoding="vocabulary", dtype="float"),
        Field(name="on", kind="categorical", encoding="vocabulary", dtype="bool"),
        Field(name="price", kind="numeric", encoding="standard", dtype="float"),
        Field(name="flag", kind="numeric", encoding="standard", dtype="bool"),
        Field(name="tags", kind="multivalued", encoding="vocabulary", dtype="int"),
    ),
    labels=("click",),
)
ROW: dict[str, Any] = {
    "id": 7, "word": "a", "size": 0.5, "on": True, "price": 1.5, "flag": False, "tags": [1, 2],
}  # fmt: skip
READER = RowReader(SCHEMA, max_rows=3)


def read(*rows: Any) -> dict[str, Any]:
    return READER.read(json.dumps({"rows": rows}).encode()).values


def test_values_come_by_column() -> None:
    nothing = dict.fromkeys(ROW)
    values = read(ROW, nothing)
    assert list(values["id"]) == [7, None]
    assert list(values["word"]) == ["a", None]
    assert list(values["on"]) == [True, None]
    assert list(values["tags"]) == [[1, 2], None]
    np.testing.assert_array_equal(values["price"], [1.5, np.nan])
    np.testing.assert_array_equal(values["flag"], [0, np.nan])


def test_the_order_of_columns_does_not_matter() -> None:
    assert list(read(dict(reversed(ROW.items())))["word"]) == ["a"]


def test_whole_numbers_are_integers() -> None:
    assert list(read({**ROW, "id": 5.0})["id"]) == [5]
    assert list(read({**ROW, "tags": [5.0, None]})["tags"]) == [[5, None]]


@pytest.mark.parametrize("value", [2**64 - 1, -(2**63)])
def test_integers_of_64_bits_fit(value: int) -> None:
    assert list(read({**ROW, "id": value})["id"]) == [value]


def test_a_large_integer_is_a_number() -> None:
    assert read({**ROW, "price": 10**30})["price"][0] == 1e30


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("id", "7", "a string; it must be an integer"),
        ("id", True, "a boolean; it must be an integer"),
        ("id", 1.5, "a number; it must be an integer"),
        ("id", 1e300, "a number; it must be an integer"),
        ("id", 2**64, "an integer of -2**63 to 2**64 - 1"),
        ("id", -(2**63) - 1, "an integer of -2**63 to 2**64 - 1"),
        ("word", 7, "an integer; it must be a string"),
        ("word", ["a"], "a list; it must be a string"),
        ("word", {"a": {}}, "an object; it must be a string"),
        ("size", "0.5", "it must be a number"),
        ("size", 10**400, "it must be a number of -1e300 to 1e300"),
        ("size", -1.1e300, "it must be a number of -1e300 to 1e300"),
        ("on", 1, "it must be a boolean"),
        ("price", "1.5", "it must be a number"),
        ("price", True, "it must be a number"),
        ("price", 10**400, "it must be a number of -1e300 to 1e300"),
        ("price", int(1e300) + 1, "it must be a number of -1e300 to 1e300"),
        ("price", [1.5], "it must be a number"),
        ("tags", 1, "it must be a list"),
        ("tags", ["a"], "it must be an integer in its lists"),
        ("tags", [[1]], "it must be an integer in its lists"),
    ],
)
def test_a_value_that_does_not_fit_is_named(column: str, value: Any, expected: str) -> None:
    with pytest.raises(RequestError) as error:
        read(ROW, {**ROW, column: value})
    assert error.value.status == 422
    assert (error.value.column, error.value.row) == (column, 1)
    assert expected in error.value.detail
    assert f'column "{column}"' in error.value.detail
    assert "in row 1" in error.value.detail
    assert len(error.value.detail) < 250


@pytest.mark.parametrize("text", ["1e999", "-1e999"])
def test_infinity_by_overflow_is_refused(text: str) -> None:
    body = json.dumps({"rows": [{**ROW, "price": "x"}]}).replace('"x"', text)
    with pytest.raises(RequestError, match="-1e300 to 1e300"):
        READER.read(body.encode())


def test_columns_are_those_of_the_model() -> None:
    with pytest.raises(RequestError, match="Did you mean word") as error:
        read({**ROW, "wrod": "a"})
    assert error.value.column == "wrod"
    with pytest.raises(RequestError, match='the label "click"'):
        read({**ROW, "click": 1})
    lacking = {key: value for key, value in ROW.items() if key not in ("id", "word")}
    with pytest.raises(RequestError, match='lacks the column "id" and 1 more') as error:
        read(ROW, lacking)
    assert (error.value.column, error.value.row) == ("id", 1)


@pytest.mark.parametrize("row", [None, 1, "x", [ROW]])
def test_a_row_is_an_object(row: Any) -> None:
    with pytest.raises(RequestError, match="row 0 is"):
        read(row)


def test_a_schema_of_one_column() -> None:
    reader = RowReader(SCHEMA.select(["word"]), 2)
    assert list(reader.read(b'{"rows": [{"word": "x"}]}').values["word"]) == ["x"]
