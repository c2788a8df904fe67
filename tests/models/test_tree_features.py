"""Encoded rows as a matrix, column by column."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.encode import EncodedTable, FeaturePipeline
from recsys.data.readers import Source
from recsys.data.schema import Field, Schema
from recsys.data.store import Store, StoreWriter
from recsys.models.tree_features import TreeFeatures, stored_rows

FIELDS = (
    Field(name="item", kind="categorical", encoding="vocabulary"),
    Field(name="seen", kind="history", encoding="vocabulary", shares="item"),
    Field(name="price", kind="numeric", encoding="standard", dtype="float"),
    Field(name="age", kind="numeric", encoding="quantile", num_buckets=2, dtype="float"),
    Field(name="tags", kind="multivalued", encoding="vocabulary"),
    Field(name="words", kind="multivalued", encoding="hash", hash_size=50),
)


@pytest.fixture
def table() -> tuple[Schema, EncodedTable]:
    frame = pl.DataFrame(
        {
            "item": ["a", "b", None, "a"],
            "seen": [["a", "b", "a"], [], ["b"], ["b", "a"]],
            "price": [1.0, 3.0, None, 2.0],
            "age": [10.0, 20.0, 30.0, None],
            "tags": [["x", "x", "y"], [], ["y", "x"], ["x"]],
            "words": [["u"], ["v", "u"], [], ["w"]],
            "click": [1, 0, 1, 0],
        }
    )
    schema = Schema(fields=FIELDS, labels=("click",))
    pipeline = FeaturePipeline.fit(Source.from_frame(frame), schema)
    return pipeline.schema, pipeline.transform(frame)


def test_columns(table: tuple[Schema, EncodedTable]) -> None:
    schema, rows = table
    features = TreeFeatures(schema, list_tokens=1)
    matrix = features.matrix(rows)
    found = dict(zip(features.names, matrix.T.tolist(), strict=True))
    nan = float("nan")
    expected = {
        "item": [3, 4, 1, 3],  # the most frequent is 3; missing is 1
        "seen.length": [3, 0, 1, 2],
        "seen.last": [3, nan, 4, 3],
        "seen.matches": [2, 0, 0, 1],
        "age": [3, 4, 4, nan],
        "tags.length": [3, 0, 2, 1],
        "tags.first": [3, nan, 4, 3],
        "tags.3": [2, 0, 1, 1],
        "words.length": [1, 2, 0, 1],
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(found[name], values, name)
    np.testing.assert_allclose(found["price"], rows.dense[:, 0])
    assert found["price"][2] == 0.0
    assert found["words.first"][:2] == [rows.ragged["words"][0][0], rows.ragged["words"][0][1]]
    assert features.names == [
        "item", "seen.length", "seen.last", "seen.matches", "price", "age",
        "tags.length", "tags.first", "tags.3", "words.length", "words.first",
    ]  # fmt: skip
    assert [features.names[i] for i in features.categorical] == [
        "item", "seen.last", "tags.first", "words.first",
    ]  # fmt: skip


def test_list_tokens_stop_at_the_vocabulary(table: tuple[Schema, EncodedTable]) -> None:
    names = TreeFeatures(table[0], list_tokens=99).names
    assert [n for n in names if n.startswith("tags.")] == [
        "tags.length", "tags.first", "tags.3", "tags.4",
    ]  # fmt: skip


def test_blocks_of_a_store_are_the_rows(table: tuple[Schema, EncodedTable], tmp_path: Path) -> None:
    schema, rows = table
    with StoreWriter(tmp_path / "store", schema) as writer:
        writer.append(rows)
    store, features = Store.open(tmp_path / "store"), TreeFeatures(schema)
    whole = features.matrix(rows)
    for start, stop in ((0, 4), (1, 3), (3, 4), (2, 2)):
        part = features.matrix(stored_rows(store, start, stop))
        np.testing.assert_array_equal(part, whole[start:stop])
