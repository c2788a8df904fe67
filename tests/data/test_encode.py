"""The pipeline: codes, numbers, lists, and what reaches it from every kind of table."""

import dataclasses
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.columns import MISSING_GROUP
from recsys.data.encode import EncodedTable, FeaturePipeline
from recsys.data.infer import infer_schema
from recsys.data.options import DataOptions, apply_options
from recsys.data.readers import Source
from recsys.data.schema import MISSING, NUM_RESERVED, UNSEEN, Field, Schema
from recsys.errors import SchemaError

FRAME = pl.DataFrame(
    {
        "item": ["b", "a", "b", None, "c", "b", "a"],
        "age": [1.0, None, 3.0, 5.0, 9.0, 0.0, 2.0],
        "seen": [7, 7, 8, 9, 9, 9, None],
        "item_history": [["a"], [], None, ["a", "c"], ["b", None], ["zz"], ["a", "b", "c"]],
        "tags": [["x"], ["y", "x"], ["x"], None, [], ["y"], ["x"]],
        "user": ["u1", "u2", "u1", None, "u3", "u2", "u1"],
        "w": [1.0, 2.0, 0.5, 1.0, 1.0, 1.0, 1.0],
        "click": [1, 0, 1, 0, 0, 1, 1],
    }
)


def schema(**options: object) -> Schema:
    inferred = infer_schema(Source.from_frame(FRAME), "click", weight="w", group="user")
    return apply_options(inferred, DataOptions(**options))


def fit(frame: pl.DataFrame = FRAME, **options: object) -> FeaturePipeline:
    return FeaturePipeline.fit(Source.from_frame(frame), schema(**options))


def lists(table: EncodedTable, name: str) -> list[list[int]]:
    values, offsets = table.ragged[name]
    return [values[a:b].tolist() for a, b in pairwise(offsets)]


def equal(one: EncodedTable, other: EncodedTable) -> None:
    for key in ("ids", "dense", "label", "weight", "group"):
        a, b = getattr(one, key), getattr(other, key)
        if a is None or b is None:
            assert a is b, key
        else:
            assert a.dtype == b.dtype
            np.testing.assert_array_equal(a, b, err_msg=key)
    assert one.ragged.keys() == other.ragged.keys()
    for name in one.ragged:
        assert lists(one, name) == lists(other, name)


def test_codes_by_hand() -> None:
    pipeline = fit()
    out = pipeline.transform(FRAME)
    # item, with the counts of item_history merged in: a 2+3, b 3+2, c 1+2, zz 1 -> a, b, c, zz
    assert pipeline.tokens("item").to_pylist() == [None, None, None, "a", "b", "c", "zz"]
    assert pipeline.tokens("item_history").to_pylist() == pipeline.tokens("item").to_pylist()
    assert pipeline.tokens("seen").to_pylist() == [None, None, None, 9, 7, 8]
    names = [field.name for field in pipeline.schema.coded]
    assert names == ["item", "seen", "user"]
    assert out.ids[:, 0].tolist() == [4, 3, 4, MISSING, 5, 4, 3]
    assert out.ids[:, 1].tolist() == [4, 4, 5, 3, 3, 3, MISSING]
    assert lists(out, "item_history") == [[3], [], [MISSING], [3, 5], [4, MISSING], [6], [3, 4, 5]]
    assert lists(out, "tags") == [[3], [4, 3], [3], [MISSING], [], [4], [3]]
    assert out.label.tolist() == [1, 0, 1, 0, 0, 1, 1]
    assert out.weight.tolist() == [1, 2, 0.5, 1, 1, 1, 1]
    assert out.group[3] == MISSING_GROUP
    assert out.group[0] == out.group[2] != out.group[1]
    assert {f.name: f.size for f in pipeline.schema if f.is_coded} == {
        "item": 7, "seen": 6, "item_history": 7, "tags": 5, "user": 6,
    }  # fmt: skip
    y = np.log1p(np.array([1.0, 3.0, 5.0, 9.0, 0.0, 2.0]))
    expected = (np.log1p(np.array([1.0, 0, 3, 5, 9, 0, 2])) - y.mean()) / y.std()
    expected[1] = 0
    np.testing.assert_allclose(out.dense[:, 0], expected, rtol=1e-6, atol=1e-7)


def test_unseen_missing_and_any_column_order() -> None:
    pipeline = fit()
    rows = FRAME.select(reversed(FRAME.columns)).with_columns(
        item=pl.lit("new"), more=pl.lit(1), seen=pl.lit(None, pl.Int64)
    )
    out = pipeline.transform(rows)
    assert set(out.ids[:, 0].tolist()) == {UNSEEN}
    assert set(out.ids[:, 1].tolist()) == {MISSING}


def test_polars_pandas_arrow_and_dict_are_equal() -> None:
    pipeline = fit()
    expected = pipeline.transform(FRAME)
    arrow = FRAME.to_arrow()
    for table in (
        arrow, pa.concat_tables([arrow.slice(0, 3), arrow.slice(3)]), FRAME.to_pandas(),
        FRAME.to_dict(as_series=False), FRAME.with_columns(pl.col("item").cast(pl.Categorical)),
    ):  # fmt: skip
        equal(pipeline.transform(table), expected)
    categorical = FRAME.to_pandas().assign(item=lambda d: d["item"].astype("category"))
    equal(pipeline.transform(categorical), expected)


def test_labels_weight_and_group_are_optional_in_serving() -> None:
    out = fit().transform(FRAME.drop("click", "w"))
    assert out.label is None
    assert out.weight is None
    batch = out.to_batch()
    assert batch.label.isnan().all()
    assert len(batch) == 7
    assert fit().transform(FRAME).to_batch().label.tolist() == [1, 0, 1, 0, 0, 1, 1]


def test_nested_labels_are_filled_wherever_rows_are_encoded() -> None:
    frame = FRAME.with_columns(
        click=pl.Series([1, 0, 1, 0, 0, None, 1]), buy=pl.Series([1, 0, 0, None, None, 1, None])
    )
    source = Source.from_frame(frame)
    plain = infer_schema(source, ["buy", "click"], weight="w", group="user")
    as_it_is = FeaturePipeline.fit(source, plain).transform(frame).label
    np.testing.assert_array_equal(as_it_is[:, 0], [1, 0, 0, np.nan, np.nan, 1, np.nan])
    nested = dataclasses.replace(plain, nested={"buy": "click"})
    pipeline = FeaturePipeline.fit(source, nested)
    out = pipeline.transform(frame)
    np.testing.assert_array_equal(out.label[:, 0], [1, 0, 0, 0, 0, 1, np.nan])
    np.testing.assert_array_equal(out.label[:, 1], as_it_is[:, 1])
    assert pipeline.transform(frame.drop("buy")).label is None
    wrong = frame.with_columns(buy=pl.lit(1))
    for read in (lambda: FeaturePipeline.fit(Source.from_frame(wrong), nested),
                 lambda: pipeline.transform(wrong)):  # fmt: skip
        with pytest.raises(
            SchemaError, match=r'"buy" is 1 where "click" is 0 in .* row 1 \(3 such'
        ):
            read()


def test_no_rows_give_no_rows() -> None:
    out = fit().transform(FRAME.clear())
    assert out.ids.shape == (0, 3)
    assert out.dense.shape == (0, 1)
    assert lists(out, "tags") == []


def test_missing_columns_are_listed_with_suggestions() -> None:
    with pytest.raises(SchemaError, match=r"2 of the 6 columns.*\n- item Did.*\n- age ") as caught:
        fit().transform(FRAME.rename({"item": "itm", "age": "zzz"}))
    assert "Did you mean" in str(caught.value)


def test_repeated_columns_are_refused() -> None:
    frame = FRAME.to_pandas()
    twice = pd.concat([frame, frame[["item"]]], axis=1)
    with pytest.raises(SchemaError, match="names twice: item"):
        fit().transform(twice)
    with pytest.raises(TypeError, match="rows came as list"):
        fit().transform([1, 2])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"categorical": "hash", "hash_size": 100},
        {"numeric": "quantile", "num_buckets": 3},
        {"numeric": "minmax"},
        {"numeric": "standard", "min_count": 2},
        {"max_size": 1, "max_length": 1},
    ],
)
def test_saved_and_loaded_pipeline_is_the_same(tmp_path: Path, options: dict) -> None:
    pipeline = fit(**options)
    pipeline.save(tmp_path / "p")
    loaded = FeaturePipeline.load(tmp_path / "p")
    assert loaded.schema == pipeline.schema
    equal(loaded.transform(FRAME), pipeline.transform(FRAME))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["p"]


def test_min_count_max_size_and_max_length() -> None:
    pipeline = fit(min_count=2)
    assert pipeline.tokens("user").to_pylist()[NUM_RESERVED:] == ["u1", "u2"]
    out = pipeline.transform(FRAME)
    assert out.ids[4, 2] == UNSEEN  # u3 was seen once
    assert out.ids[3, 2] == MISSING
    assert fit(max_size=1).tokens("user").to_pylist()[NUM_RESERVED:] == ["u1"]
    pipeline = fit(max_length=2)
    last = lists(pipeline.transform(FRAME), "item_history")[6]
    assert pipeline.tokens("item").take(pa.array(last)).to_pylist() == ["b", "c"]


def test_quantiles_are_codes() -> None:
    pipeline = fit(numeric="quantile", num_buckets=3)
    out = pipeline.transform(FRAME)
    assert [f.name for f in pipeline.schema.coded] == ["item", "age", "seen", "user"]
    assert out.dense.shape == (7, 0)
    assert out.ids[:, 1].tolist() == [3, MISSING, 4, 5, 5, 3, 4]
    assert pipeline.transform({**FRAME.to_dict(), "age": [1e9] * 7}).ids[:, 1].tolist() == [5] * 7


def test_hashing_fits_nothing_and_shares_its_table() -> None:
    one = fit(categorical="hash", hash_size=11)
    other = fit(FRAME.head(3).vstack(FRAME.tail(3)), categorical="hash", hash_size=11)
    out = one.transform(FRAME)
    np.testing.assert_array_equal(out.ids, other.transform(FRAME).ids)
    assert lists(out, "item_history")[0] == [out.ids[1, 0]]  # "a" in both
    assert out.ids[3, 0] == MISSING
    assert {f.size for f in one.schema if f.is_coded} == {14}
    with pytest.raises(SchemaError, match="has no tokens"):
        one.tokens("item")


def test_large_tables_get_wide_ids() -> None:
    frame = pl.DataFrame({"c": ["a", "b"], "click": [0, 1]})
    field = Field(name="c", kind="categorical", encoding="hash", hash_size=2**40)
    pipeline = FeaturePipeline.fit(Source.from_frame(frame), Schema((field,), ("click",)))
    ids = pipeline.transform(frame).ids
    assert ids.dtype == np.int64
    assert ids.max() > 2**31


def test_integers_beyond_53_bits_stay_apart() -> None:
    values = [2**63 - 1, 2**63 - 2, 2**63 - 3, 2**53 + 1]
    frame = pl.DataFrame({"c": values, "click": [0, 1, 0, 1]})
    source = Source.from_frame(frame)
    pipeline = FeaturePipeline.fit(source, infer_schema(source, "click"))
    codes = pipeline.transform(frame).ids[:, 0]
    assert pipeline.tokens("c").take(pa.array(codes)).to_pylist() == values


def test_only_training_rows_are_learnt() -> None:
    pipeline = FeaturePipeline.fit(
        Source.from_frame(FRAME), schema(), train=lambda chunk: np.arange(chunk.num_rows) < 3
    )
    assert pipeline.tokens("item").to_pylist()[NUM_RESERVED:] == ["a", "b"]
    head = FeaturePipeline.fit(Source.from_frame(FRAME.head(3)), schema())
    equal(pipeline.transform(FRAME), head.transform(FRAME))


values = st.one_of(st.none(), st.text(max_size=4))
sequences = st.one_of(st.none(), st.lists(values, max_size=4))
rows = st.lists(st.tuples(values, sequences), min_size=1, max_size=30)


@settings(max_examples=60, deadline=None)
@given(rows, st.integers(1, 3))
def test_decoding_gives_back_what_was_frequent_enough(raw: list, min_count: int) -> None:
    frame = pl.DataFrame(
        {"c": [r[0] for r in raw], "l": [r[1] for r in raw], "click": [1] * len(raw)},
        schema={"c": pl.String, "l": pl.List(pl.String), "click": pl.Int8},
    )
    fields = (
        Field(name="c", kind="categorical", encoding="vocabulary", min_count=min_count),
        Field(name="l", kind="history", encoding="vocabulary", shares="c"),
    )
    every = [v for r in raw for v in [r[0], *(r[1] or [])] if v is not None]
    if all(r[0] is None for r in raw) or not any(v is not None for r in raw for v in r[1] or []):
        with pytest.raises(SchemaError, match="is null in all"):
            FeaturePipeline.fit(Source.from_frame(frame), Schema(fields, ("click",)))
        return
    pipeline = FeaturePipeline.fit(Source.from_frame(frame), Schema(fields, ("click",)))
    out = pipeline.transform(frame)
    tokens = pipeline.tokens("c").to_pylist()

    def expected(value: str | None) -> object:
        if value is None:
            return MISSING
        return value if every.count(value) >= min_count else UNSEEN

    def decoded(code: int) -> object:
        return tokens[code] if code >= NUM_RESERVED else code

    assert [decoded(c) for c in out.ids[:, 0]] == [expected(r[0]) for r in raw]
    wanted = [[MISSING] if r[1] is None else [expected(v) for v in r[1]] for r in raw]
    assert [[decoded(c) for c in one] for one in lists(out, "l")] == wanted
    assert out.ids.max(initial=0) < pipeline.schema["c"].size


def test_a_broken_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="holds no feature pipeline"):
        FeaturePipeline.load(tmp_path)
    fit().save(tmp_path / "p")
    path = tmp_path / "p" / "pipeline.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "version": 9}))
    with pytest.raises(SchemaError, match="version 9"):
        FeaturePipeline.load(tmp_path / "p")
    raw["schema"]["fields"][0]["size"] = 99
    path.write_text(json.dumps(raw))
    with pytest.raises(SchemaError, match=r'vocabulary of "item".*has 7 codes.*says 99'):
        FeaturePipeline.load(tmp_path / "p")


def test_an_absent_history_comes_with_the_way_to_make_it() -> None:
    rows = pl.DataFrame({"item": ["a", "b"], "item_history": [[], ["a"]], "click": [0, 1]})
    schema = infer_schema(Source.from_frame(rows), "click")
    pipeline = FeaturePipeline.fit(Source.from_frame(rows), schema)
    told = r"- item_history, a history of item: .*recsys\.data\.histories\.with_histories"
    with pytest.raises(SchemaError, match=told):
        pipeline.transform(rows.drop("item_history"))
    pipeline.require(["other", "item_history", "item"])


def test_digest_tells_pipelines_apart(tmp_path: Path) -> None:
    pipeline = fit()
    digest = pipeline.digest()
    assert fit().digest() == digest
    pipeline.save(tmp_path / "pipeline")
    assert FeaturePipeline.load(tmp_path / "pipeline").digest() == digest
    renamed = FRAME.with_columns(pl.col("item").replace("c", "d"))
    moved = FRAME.with_columns(item=pl.lit("c"))  # now the most frequent: another code
    scaled = FRAME.with_columns(pl.col("age") * 2)
    others = [fit(renamed), fit(moved), fit(scaled), fit(min_count=2)]
    others.append(FeaturePipeline.fit(Source.from_frame(FRAME), schema(), nan_as_missing=True))
    assert len({digest, *(one.digest() for one in others)}) == 1 + len(others)
