"""Rows of a later day, read by the pipeline of an earlier one."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.options import DataOptions
from recsys.data.prepare import Prepared, prepare
from recsys.data.raw import RandomSplit, RawDataset
from recsys.data.readers import Source
from recsys.data.schema import NUM_RESERVED, UNSEEN, Field, Schema
from recsys.errors import SchemaError


def schema(**keys: str) -> Schema:
    return Schema(
        fields=(
            Field(name="user", kind="categorical", encoding="dynamic"),
            Field(name="shop", kind="categorical", encoding="vocabulary"),
            Field(name="price", kind="numeric", encoding=keys.get("price", "standard")),
            Field(name="age", kind="numeric", encoding="quantile", num_buckets=4),
            Field(name="past", kind="history", encoding="dynamic", shares="user", max_length=3),
        ),
        labels=("click",),
    )


def day(number: int, rows: int = 400) -> pl.DataFrame:
    rng = np.random.default_rng(number)
    users = [f"u{u}" for u in rng.integers(10 * number, 10 * number + 20, rows)]
    return pl.DataFrame(
        {
            "user": users,
            "shop": [f"s{s}" for s in rng.integers(number, number + 3, rows)],
            "price": rng.normal(number, 1, rows),
            "age": rng.normal(size=rows) + number,
            "past": [users[i : i + 2] for i in range(rows)],
            "click": rng.integers(0, 2, rows),
        }
    )


def prepared(folder: Path, number: int, before: Prepared | None = None) -> Prepared:
    raw = RawDataset(
        "days",
        {"all": Source.from_frame(day(number))},
        schema(),
        RandomSplit((0.8, 0.1, 0.1), 0),
    )
    given = None if before is None else before.pipeline
    return prepare(raw, DataOptions(), folder, pipeline=given)


def test_the_store_holds_what_the_earlier_pipeline_makes_of_the_rows(tmp_path: Path) -> None:
    first = prepared(tmp_path, 0)
    second = prepared(tmp_path, 1, first)
    assert second.pipeline.digest() == first.pipeline.digest()
    raw = day(1)
    store = second.train
    assert store.row is not None
    expected = first.pipeline.transform(raw[store.row.tolist()])
    np.testing.assert_array_equal(store.ids, expected.ids)
    np.testing.assert_array_equal(store.dense, expected.dense)
    np.testing.assert_array_equal(store.ragged["past"][0], expected.ragged["past"][0])
    shops = [field.name for field in store.schema.coded].index("shop")
    assert (store.ids[:, shops] == UNSEEN).any(), "s3 came on the second day"
    assert (store.ids[:, 0] > NUM_RESERVED + 2**61).all(), "texts are hashed above whole numbers"


def test_other_rows_and_another_pipeline_are_other_data(tmp_path: Path) -> None:
    first = prepared(tmp_path, 0)
    fitted, reused = prepared(tmp_path, 1), prepared(tmp_path, 1, first)
    assert len({first.digest, fitted.digest, reused.digest}) == 3
    assert prepared(tmp_path, 1, first).folder == reused.folder


def test_other_columns_are_refused(tmp_path: Path) -> None:
    first = prepared(tmp_path, 0)
    raw = RawDataset("days", {"train": Source.from_frame(day(1))}, schema(price="log"), None)
    with pytest.raises(SchemaError, match=r"(?s)to go on from.*price.*log"):
        prepare(raw, DataOptions(), tmp_path, pipeline=first.pipeline)
