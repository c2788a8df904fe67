"""The inferred schema, and the table that shows it."""

import polars as pl
import pytest

from recsys.data.encode import FeaturePipeline
from recsys.data.infer import check_types, describe, infer_schema
from recsys.data.readers import Source
from recsys.data.schema import Schema
from recsys.errors import SchemaError

FRAME = pl.DataFrame(
    {
        "user_id": [1, 2],
        "name": ["a", "b"],
        "vip": [True, False],
        "price": [0.5, 1.5],
        "day": pl.Series(["2024-01-01", "2024-01-02"]).str.to_date(),
        "tags": [["x"], ["y"]],
        "hist_item": [["p"], ["q"]],
        "click_history": [[1], [2]],
        "item_seq": [["p"], ["q"]],
        "histogram": [[1], [2]],
        "item_id": ["p", "q"],
        "ts": [10, 20],
        "w": [1.0, 2.0],
        "click": [0, 1],
    }
)
SOURCE = Source.from_frame(FRAME)


def test_kinds_by_type_and_name() -> None:
    schema = infer_schema(SOURCE, "click", weight="w", group="user_id", timestamp="ts")
    found = {f.name: (str(f.kind), str(f.encoding), f.dtype, f.shares) for f in schema}
    assert found == {
        "user_id": ("categorical", "vocabulary", "int", None),
        "name": ("categorical", "vocabulary", "string", None),
        "vip": ("categorical", "vocabulary", "bool", None),
        "price": ("numeric", "log", "float", None),
        "day": ("categorical", "vocabulary", "string", None),
        "tags": ("multivalued", "vocabulary", "string", None),
        "hist_item": ("history", "vocabulary", "string", "item_id"),
        "click_history": ("history", "vocabulary", "int", None),
        "item_seq": ("history", "vocabulary", "string", "item_id"),
        "histogram": ("multivalued", "vocabulary", "int", None),
        "item_id": ("categorical", "vocabulary", "string", None),
    }
    assert (schema.labels, schema.weight, schema.group, schema.timestamp) == (
        ("click",), "w", "user_id", "ts",
    )  # fmt: skip


def test_a_history_shares_only_a_table_of_its_own_type() -> None:
    frame = pl.DataFrame({"item": [1], "item_history": [["a"]], "click": [1]})
    schema = infer_schema(Source.from_frame(frame), "click")
    assert schema["item_history"].shares is None


def test_several_labels_and_ignored_columns() -> None:
    schema = infer_schema(SOURCE, ["click", "vip"], ignore=["day", "tags"])
    assert schema.labels == ("click", "vip")
    assert not {"vip", "click", "day", "tags"} & set(schema.names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"label": "clik"}, r'no column "clik"\. Did you mean click\?'),
        ({"label": []}, "no label column was given"),
        ({"label": "click", "weight": "wt"}, 'no column "wt"'),
        ({"label": "click", "group": "usr_id"}, "Did you mean user_id"),
        ({"label": "click", "ignore": FRAME.columns[:-1]}, "no input column"),
    ],
)
def test_wrong_arguments_are_named(arguments: dict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        infer_schema(SOURCE, **arguments)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ("name", 'label "name" holds string; it must be 0 or 1'),
        ("tags", 'label "tags" holds list'),
    ],
)
def test_a_label_that_no_model_can_learn_is_refused_before_reading(label: str, message: str):
    with pytest.raises(SchemaError, match=message):
        check_types(infer_schema(SOURCE, label), SOURCE)


def test_types_that_cannot_be_inputs_are_refused_before_reading() -> None:
    frame = FRAME.with_columns(
        empty=pl.lit(None), struct=pl.struct("user_id"), raw=pl.col("name").cast(pl.Binary)
    )
    source = Source.from_frame(frame)
    for name in ("empty", "struct", "raw"):
        schema = infer_schema(source, "click", ignore={"empty", "struct", "raw"} - {name})
        with pytest.raises(SchemaError, match=rf'column "{name}" .*data\.fields\.{name}\.kind=ign'):
            check_types(schema, source)
    check_types(infer_schema(SOURCE, "click"), SOURCE)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("tags", {"kind": "categorical"}, "holds list.*needs single values"),
        ("name", {"kind": "history"}, "holds string.*needs lists"),
        ("name", {"kind": "numeric", "encoding": "log"}, "holds text, but it is numeric"),
    ],
)
def test_a_kind_that_does_not_fit_the_type_is_refused(
    name: str, change: dict, message: str
) -> None:
    import dataclasses

    schema = infer_schema(SOURCE, "click")
    fields = [dataclasses.replace(f, **change) if f.name == name else f for f in schema]
    with pytest.raises(SchemaError, match=message):
        check_types(schema.replace(fields), SOURCE)


def test_description_names_every_column_once() -> None:
    schema = infer_schema(SOURCE, "click", weight="w", group="user_id", timestamp="ts")
    before = describe(schema, SOURCE)
    assert [row["column"] for row in before] == [*schema.names, "click", "w", "ts"]
    assert {row["codes"] for row in before} == {None}
    pipeline = FeaturePipeline.fit(SOURCE, schema)
    after = {r["column"]: r for r in describe(schema, SOURCE, pipeline, {"price": 0.25})}
    assert after["user_id"]["codes"] == 5
    assert after["price"] == {
        "column": "price", "type": "double", "kind": "numeric", "encoding": "log",
        "codes": None, "missing": 0.25,
    }  # fmt: skip
    assert after["hist_item"]["kind"] == "history of item_id"
    assert after["click"]["kind"] == "label"


def test_an_inferred_schema_survives_its_file(tmp_path: object) -> None:
    schema = infer_schema(SOURCE, "click", weight="w", group="user_id", timestamp="ts")
    schema.save(tmp_path / "schema.yaml")
    assert Schema.load(tmp_path / "schema.yaml") == schema
