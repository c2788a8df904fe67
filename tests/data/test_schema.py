"""The schema: what it refuses, its file, its digest and its differences."""

import copy
import dataclasses
import pickle
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.errors import SchemaError


def category(name: str, **keys: object) -> Field:
    return Field(name=name, kind="categorical", encoding="vocabulary", **keys)


ITEM, USER = category("item"), category("user", dtype="int", min_count=3)
PRICE = Field(name="price", kind="numeric", encoding="log", dtype="float")
AGE = Field(name="age", kind="numeric", encoding="quantile", num_buckets=8)
HIST = Field(name="hist", kind="history", encoding="vocabulary", shares="item", max_length=5)
TAGS = Field(name="tags", kind="multivalued", encoding="hash", hash_size=10)
SCHEMA = Schema(
    (ITEM, PRICE, USER, HIST, AGE, TAGS), ("click", "buy"), weight="w", group="user", timestamp="t"
)


def nest(nested: dict[str, str]) -> Schema:
    return dataclasses.replace(SCHEMA, nested=nested)


def test_columns_by_where_they_go() -> None:
    assert [f.name for f in SCHEMA.coded] == ["item", "user", "age"]
    assert [f.name for f in SCHEMA.dense] == ["price"]
    assert [f.name for f in SCHEMA.ragged] == ["hist", "tags"]
    assert SCHEMA.columns == (
        "item", "price", "user", "hist", "age", "tags", "click", "buy", "w", "t",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Schema((ITEM, ITEM), ("click",)), "names these columns twice: item"),
        (lambda: Schema((ITEM,), ("click", "buy", "buy")), "names these columns twice: buy"),
        (lambda: Schema((ITEM,), ("item",)), "cannot also be input fields: item"),
        (lambda: Schema((PRICE, category("h", shares="price")), ("c",)), "must be categorical"),
        (lambda: Schema((category("h", shares="itm"), ITEM), ("c",)), "Did you mean item"),
        (lambda: category("a", min_count=0), "min_count=0; it must be at least 1"),
        (lambda: dataclasses.replace(PRICE, encoding="hash"), "numeric with encoding hash"),
        (lambda: dataclasses.replace(ITEM, encoding="minmax"), r"data\.fields\.item\.encoding"),
        (lambda: nest({"buy": "clik"}), r"data\.nested\.buy=clik.*Did you mean click"),
        (lambda: nest({"item": "click"}), '"item" is no label'),
        (
            lambda: nest({"buy": "click", "click": "buy"}),
            "in a circle: click needs buy needs click",
        ),
        (lambda: SCHEMA["itm"], 'no field "itm". Did you mean item'),
        (lambda: SCHEMA.select(["itm"]), "Did you mean item"),
    ],
)
def test_what_does_not_fit_is_refused(make: object, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        make()


def test_a_selection_keeps_order_and_brings_shared_tables() -> None:
    assert SCHEMA.select(["age", "hist"]).names == ("item", "hist", "age")
    assert SCHEMA.select(["price"]).labels == SCHEMA.labels


def test_file_round_trip(tmp_path: Path) -> None:
    SCHEMA.save(tmp_path / "s.yaml")
    assert Schema.load(tmp_path / "s.yaml") == SCHEMA
    text = (tmp_path / "s.yaml").read_text()
    assert text.startswith("#")
    assert "min_count: 1\n" not in text  # defaults are left out


fields = st.builds(
    Field,
    name=st.text(min_size=1, max_size=8),
    kind=st.sampled_from([Kind.CATEGORICAL, Kind.MULTIVALUED, Kind.HISTORY]),
    encoding=st.sampled_from([Encoding.VOCABULARY, Encoding.HASH]),
    dtype=st.sampled_from(["string", "int"]),
    min_count=st.integers(1, 9),
    max_size=st.none() | st.integers(1, 9),
    hash_size=st.none() | st.integers(1, 2**40),
    size=st.none() | st.integers(3, 9),
)


@settings(deadline=None)
@given(st.lists(fields, max_size=5, unique_by=lambda f: f.name))
def test_plain_types_give_back_any_schema(some: list[Field]) -> None:
    schema = Schema(tuple(some), ())
    again = Schema.from_dict(schema.to_dict())
    assert again == schema
    assert again.digest() == schema.digest()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"lables": []}, 'unknown schema key "lables". Did you mean labels'),
        ({"fields": [{"name": "a", "knd": "x"}]}, 'unknown key "knd" in field "a". Did you mean k'),
    ],
)
def test_unknown_keys_are_refused(raw: dict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Schema.from_dict(raw)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [\n"])
def test_a_file_that_is_no_schema_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(SchemaError, match=r"s\.yaml"):
        Schema.load(tmp_path / "s.yaml")
    with pytest.raises(SchemaError, match=r"absent\.yaml"):
        Schema.load(tmp_path / "absent.yaml")


def test_digest_sees_every_change() -> None:
    changed = [
        SCHEMA.replace([*SCHEMA.fields[1:], SCHEMA.fields[0]]),
        SCHEMA.replace([dataclasses.replace(ITEM, min_count=2), *SCHEMA.fields[1:]]),
        dataclasses.replace(SCHEMA, weight=None),
        dataclasses.replace(SCHEMA, labels=("buy", "click")),
        nest({"buy": "click"}),
        nest({"click": "buy"}),
    ]
    assert len({s.digest() for s in [SCHEMA, *changed]}) == 7
    assert nest({}).digest() == SCHEMA.digest()
    assert "nested" not in SCHEMA.to_dict()


def test_differences_are_shown_as_lines() -> None:
    assert SCHEMA.diff(SCHEMA) == ""
    other = SCHEMA.replace([dataclasses.replace(ITEM, min_count=2), *SCHEMA.fields[1:]])
    lines = SCHEMA.diff(other).splitlines()
    assert [line[0] for line in lines] == ["-", "+"]
    assert all('"item"' in line for line in lines)
    swapped = SCHEMA.replace([SCHEMA.fields[1], SCHEMA.fields[0], *SCHEMA.fields[2:]])
    assert "another order" in SCHEMA.diff(swapped)


def test_nested_labels_know_their_parents_and_stay_with_the_schema(tmp_path: Path) -> None:
    assert SCHEMA.parents == (-1, -1)
    schema = Schema((ITEM,), ("pay", "click", "cart"), nested={"pay": "cart", "cart": "click"})
    assert schema.parents == (2, -1, 1)
    assert schema.nested == {"pay": "cart", "cart": "click"}
    assert schema.to_dict()["nested"] == {"pay": "cart", "cart": "click"}
    assert schema.replace([USER]).select(["user"]).parents == schema.parents
    schema.save(tmp_path / "s.yaml")
    loaded = Schema.load(tmp_path / "s.yaml")
    assert loaded == schema
    assert hash(loaded) == hash(schema)
    assert pickle.loads(pickle.dumps(schema)) == copy.deepcopy(schema) == schema
    assert schema.diff(loaded) == ""
    lines = SCHEMA.diff(nest({"buy": "click"})).splitlines()
    assert lines == ["+ nested: {'buy': 'click'}"]
