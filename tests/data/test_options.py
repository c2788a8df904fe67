"""Options: what they change, in which order, and what they refuse."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from recsys.data.options import DataOptions, apply_options, read_ranking
from recsys.data.schema import Field, Schema
from recsys.data.split import RandomSplit, TimeSplit
from recsys.errors import ConfigError, SchemaError

SCHEMA = Schema(
    fields=(
        Field(name="item", kind="categorical", encoding="vocabulary", min_count=2),
        Field(name="price", kind="numeric", encoding="log", dtype="float"),
        Field(name="hist", kind="history", encoding="vocabulary", shares="item", max_length=50),
        Field(name="user", kind="categorical", encoding="vocabulary", dtype="int"),
    ),
    labels=("click",),
    timestamp="ts",
)


def apply(**options: object) -> Schema:
    return apply_options(SCHEMA, DataOptions(**options))


def test_nothing_asked_changes_nothing() -> None:
    assert apply() == SCHEMA


def test_the_shared_keys_are_exactly_the_options() -> None:
    path = Path(__file__).resolve().parents[2] / "configs" / "data" / "_common.yaml"
    keys = yaml.safe_load(path.read_text())
    defaults = {f.name: getattr(DataOptions(), f.name) for f in dataclasses.fields(DataOptions)}
    assert keys == defaults


def test_general_options_reach_the_kinds_they_are_for() -> None:
    schema = apply(min_count=5, max_size=9, numeric="quantile", num_buckets=7, max_length=3)
    assert [f.min_count for f in schema] == [5, 1, 5, 5]
    assert [f.max_size for f in schema] == [9, None, 9, 9]
    assert [f.num_buckets for f in schema] == [None, 7, None, None]
    assert [f.max_length for f in schema] == [None, None, 3, None]
    hashed = apply(categorical="hash", hash_size=77)
    assert [f.hash_size for f in hashed] == [77, None, 77, 77]
    assert hashed["item"].min_count == 1


def test_a_column_wins_over_the_general_option() -> None:
    schema = apply(
        min_count=5,
        fields={"user": {"min_count": 1, "max_size": 3}, "price": {"encoding": "minmax"}},
    )
    assert (schema["user"].min_count, schema["user"].max_size) == (1, 3)
    assert schema["price"].encoding == "minmax"
    assert schema["item"].min_count == 5


def test_kinds_can_be_changed_both_ways() -> None:
    schema = apply(fields={"price": {"kind": "categorical"}, "user": {"kind": "numeric"}})
    assert (schema["price"].kind, schema["price"].encoding) == ("categorical", "vocabulary")
    assert (schema["user"].kind, schema["user"].encoding) == ("numeric", "log")
    schema = apply(fields={"user": {"kind": "numeric", "encoding": "quantile"}})
    assert schema["user"].num_buckets == 32


def test_ignored_columns_go_and_their_histories_get_their_own_table() -> None:
    schema = apply(fields={"item": {"kind": "ignore"}})
    assert schema.names == ("price", "hist", "user")
    assert schema["hist"].shares is None
    assert DataOptions(fields={"x": {"kind": "ignore"}}).ignored == ("x",)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fields": {"itm": {"min_count": 2}}}, "Did you mean item"),
        ({"fields": {"item": {"min_cont": 2}}}, r"data\.fields\.item\.min_cont.*mean min_count"),
        ({"fields": {"item": {"kind": "categoricl"}}}, "Did you mean categorical"),
        ({"fields": {"item": {"encoding": "hsh"}}}, "Did you mean hash"),
        ({"fields": {"item": {"encoding": "log"}}}, "categorical with encoding log"),
        ({"fields": {"item": {"min_count": 0}}}, "min_count=0"),
        ({"fields": {"hist": {"shares": "itm"}}}, r"hist\.shares=itm: .*Did you mean item"),
        ({"fields": {"hist": {"shares": "ts"}}}, r"shares=ts: there is no such field"),
        ({"fields": {"hist": {"shares": "price"}}}, r"shares=price: that field is numeric"),
        ({"fields": {"hist": {"shares": "user"}, "user": {"kind": "ignore"}}}, "no such field"),
        ({"features": ["itm"]}, "Did you mean item"),
        ({"fields": {n: {"kind": "ignore"} for n in SCHEMA.names}}, "no input column is left"),
    ],
)
def test_wrong_column_options_are_named(options: dict, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        apply(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"categorical": "hsh"}, r"data\.categorical=hsh.*Did you mean hash"),
        ({"numeric": "vocabulary"}, r"data\.numeric=vocabulary"),
        ({"split": "tme"}, "Did you mean time"),
        ({"top": 3}, "needs a ranking"),
        ({"top": 0, "features": ["item"]}, "at least 1"),
        ({"features": "/nowhere/f.csv"}, "cannot be read"),
    ],
)
def test_wrong_choices_are_named(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply(**options)


def test_an_edited_schema_file_replaces_the_inferred_one(tmp_path: Path) -> None:
    edited = SCHEMA.replace(SCHEMA.fields[:2])
    edited.save(tmp_path / "schema.yaml")
    assert apply(schema=tmp_path / "schema.yaml") == edited
    assert apply(schema=str(tmp_path / "schema.yaml"), min_count=7)["item"].min_count == 7


def test_ranked_columns_keep_the_order_of_the_schema_and_the_tables_they_need(
    tmp_path: Path,
) -> None:
    assert apply(features=["user", "hist", "price"]).names == ("item", "price", "hist", "user")
    assert apply(features=["user", "price", "item"], top=2).names == ("price", "user")
    for name, text in (
        ("a.csv", "rank,feature,score\n1,user,0.5\n2,price,0.1\n3,item,0\n"),
        ("b.csv", "user\nprice\nitem\n"),
        ("c.txt", "user\nprice\n\nitem\n"),
        ("d.json", json.dumps(["user", "price", "item"])),
        ("e.json", json.dumps([{"feature": n, "score": 1} for n in ("user", "price", "item")])),
        ("f.json", json.dumps({"user": 3, "price": 2, "item": 1})),
    ):
        (tmp_path / name).write_text(text)
        assert read_ranking(tmp_path / name) == ["user", "price", "item"], name
        assert apply(features=str(tmp_path / name), top=1).names == ("user",)


def test_split_rules() -> None:
    options = DataOptions(val_fraction=0.2, test_fraction=0.3, split_seed=4)
    assert options.split_rule(SCHEMA) == RandomSplit((0.5, 0.2, 0.3), 4)
    assert options.split_rule(SCHEMA, given=["train", "test"]) == RandomSplit((0.8, 0.2, 0.0), 4)
    rule = DataOptions(split="time").split_rule(SCHEMA)
    assert isinstance(rule, TimeSplit)
    assert rule.column == "ts"
    with pytest.raises(ConfigError, match=r"data\.timestamp"):
        DataOptions(split="time").split_rule(dataclasses.replace(SCHEMA, timestamp=None))
    with pytest.raises(ConfigError, match="leave 0 for training"):
        DataOptions(val_fraction=0.5, test_fraction=0.5).split_rule(SCHEMA)
