"""Rows of requests get the codes that the feature pipeline gives the same rows as a table."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.encode import EncodedTable, FeaturePipeline
from recsys.data.readers import Source
from recsys.data.schema import Field, Schema
from recsys.models.saved import SavedModel
from recsys.serving.row_encoder import RowEncoder
from recsys.serving.rows import RowColumns, RowReader
from tests.serving.conftest import FIELDS, frame


def columns(pipeline: FeaturePipeline, rows: list[dict[str, Any]]) -> RowColumns:
    reader = RowReader(pipeline.schema, 10_000)
    return reader.read(json.dumps({"rows": rows}).encode())


def same(one: EncodedTable, other: EncodedTable) -> None:
    np.testing.assert_array_equal(one.ids, other.ids)
    assert one.ids.dtype == other.ids.dtype
    np.testing.assert_array_equal(one.dense, other.dense)
    assert one.ragged.keys() == other.ragged.keys()
    for name, (values, offsets) in one.ragged.items():
        np.testing.assert_array_equal(values, other.ragged[name][0])
        np.testing.assert_array_equal(offsets, other.ragged[name][1])


@pytest.mark.parametrize("seed", [0, 1])
def test_codes_are_those_of_the_pipeline(saved: SavedModel, seed: int) -> None:
    pipeline = saved.pipeline
    table = frame(90, seed).select(pipeline.schema.names)
    parts = [columns(pipeline, table.slice(at, 30).to_dicts()) for at in (0, 30, 60)]
    same(RowEncoder(pipeline).encode(parts), pipeline.transform(table))


TEXTS = st.one_of(st.none(), st.text(st.characters(codec="utf-8"), max_size=80), st.just("i3"))
NUMBERS = st.one_of(st.none(), st.floats(-1e30, 1e30), st.sampled_from([0.0, -0.0, 0.25, 1.0]))
ROWS = st.fixed_dictionaries(
    {
        "user": st.one_of(st.none(), st.integers(-(2**63), 2**63 - 1)),
        "item": TEXTS,
        "city": TEXTS,
        "version": NUMBERS,
        "mobile": st.one_of(st.none(), st.booleans()),
        "agent": TEXTS,
        "price": NUMBERS,
        "age": st.one_of(st.none(), st.integers(-(2**53), 2**53)),
        "stay": NUMBERS,
        "share": NUMBERS,
        "tags": st.one_of(st.none(), st.lists(TEXTS, max_size=5)),
        "seen": st.one_of(st.none(), st.lists(TEXTS, max_size=9)),
    }
)
TYPES = {
    "string": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(),
}  # fmt: skip


@settings(max_examples=30, deadline=None, derandomize=True)
@given(rows=st.lists(ROWS, min_size=1, max_size=6))
def test_any_rows_have_the_codes_of_the_pipeline(
    saved: SavedModel, rows: list[dict[str, Any]]
) -> None:
    arrays = {}
    for one in FIELDS:
        kind = TYPES[one.dtype]
        values = [row[one.name] for row in rows]
        arrays[one.name] = pa.array(values, pa.list_(kind) if one.is_ragged else kind)
    found = RowEncoder(saved.pipeline).encode([columns(saved.pipeline, rows)])
    same(found, saved.pipeline.transform(pa.table(arrays)))


@pytest.mark.parametrize("beside", [-5, None, 2**62])
def test_integers_beyond_int64_are_found(beside: int | None) -> None:
    """Ids of 64 bits without sign, alone and beside others that no table could hold with them."""
    ids = pa.array([2**64 - 1, 2**63, 2**62, 2**62, None], pa.uint64())
    fields = (
        Field(name="id", kind="categorical", encoding="vocabulary", dtype="int"),
        Field(name="ids", kind="multivalued", encoding="vocabulary", dtype="int"),
    )
    lists = pa.array([[one] for one in ids.to_pylist()], pa.list_(pa.uint64()))
    table = pa.table({"id": ids, "ids": lists, "y": [0, 1, 0, 1, 0]})
    schema = Schema(fields=fields, labels=("y",))
    pipeline = FeaturePipeline.fit(Source.from_frame(table), schema)
    values = [2**64 - 1, beside, 2**63]
    rows = [{"id": value, "ids": [value]} for value in values]
    found = RowEncoder(pipeline).encode([columns(pipeline, rows)])
    tokens = [None, None, None, *pipeline.tokens("id").to_pylist()[3:]]
    expected = [1 if v is None else tokens.index(v) if v in tokens else 2 for v in values]
    assert found.ids[:, 0].tolist() == expected
    assert found.ragged["ids"][0].tolist() == expected
