"""Fitting in one pass equals fitting at once, and its provisional codes become the final ones."""

import dataclasses

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from recsys.data.encode import EncodedTable, FeaturePipeline
from recsys.data.fit import Finish, Fitter
from recsys.data.infer import infer_schema
from recsys.data.options import DataOptions, apply_options
from recsys.data.readers import Source
from recsys.data.schema import Field, Schema
from recsys.errors import SchemaError


def frame(rows: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    words = [f"w{int(v)}" for v in 200 * rng.random(rows) ** 2]
    return pl.DataFrame(
        {
            "word": [None if rng.random() < 0.1 else w for w in words],
            "number": [None if rng.random() < 0.1 else float(v) for v in rng.normal(0, 50, rows)],
            "words": [[words[i], words[-i]] for i in range(rows)],
            "count": rng.integers(-5, 5, rows),
            "click": rng.integers(0, 2, rows),
        }
    )


FRAME = frame(4000)
SOURCE = Source.from_frame(FRAME)


def stream(options: DataOptions, rows: int, monkeypatch: pytest.MonkeyPatch) -> tuple:
    monkeypatch.setattr("recsys.data.fit.CHUNK_ROWS", rows)
    schema = apply_options(infer_schema(SOURCE, "click"), options)
    fitter = Fitter(schema)
    chunks = [columns for _, columns in fitter.read(SOURCE)]
    return fitter.finish(), chunks


def encode(finish: Finish, chunks: list) -> list[EncodedTable]:
    return [finish.encode(piece) for columns in chunks for piece in columns.pieces(111)]


@pytest.mark.parametrize("numeric", ["log", "standard", "minmax", "quantile"])
@pytest.mark.parametrize("categorical", ["vocabulary", "hash"])
@pytest.mark.parametrize("rows", [300, 10_000])
def test_finished_chunks_equal_the_saved_pipeline(
    monkeypatch: pytest.MonkeyPatch, numeric: str, categorical: str, rows: int
) -> None:
    options = DataOptions(numeric=numeric, categorical=categorical, hash_size=97, min_count=2)
    finish, chunks = stream(options, rows, monkeypatch)
    assert len(chunks) == -(-len(FRAME) // rows)
    expected = finish.pipeline.transform(FRAME)
    tables = encode(finish, chunks)
    np.testing.assert_array_equal(np.concatenate([t.ids for t in tables]), expected.ids)
    np.testing.assert_array_equal(np.concatenate([t.dense for t in tables]), expected.dense)
    values = np.concatenate([t.ragged["words"][0] for t in tables])
    np.testing.assert_array_equal(values, expected.ragged["words"][0])


def test_threads_change_no_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for workers in (1, 8):
        monkeypatch.setattr("recsys.data.fit.num_workers", lambda workers=workers: workers)
        finish, chunks = stream(DataOptions(), 130, monkeypatch)
        results.append(encode(finish, chunks))
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one.ids, other.ids)
        np.testing.assert_array_equal(one.dense.view(np.int32), other.dense.view(np.int32))


def test_vocabulary_by_value_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    finish, _ = stream(DataOptions(min_count=3), 777, monkeypatch)
    counts = FRAME["word"].drop_nulls().value_counts().filter(pl.col("count") >= 3)
    expected = counts.sort("count", "word", descending=[True, False])
    vocabulary = finish.pipeline.vocabularies["word"]
    assert vocabulary.texts.to_list() == expected["word"].to_list()
    assert vocabulary.counts.to_list() == expected["count"].to_list()


def test_masks_and_shares(monkeypatch: pytest.MonkeyPatch) -> None:
    schema = infer_schema(SOURCE, "click")
    monkeypatch.setattr("recsys.data.fit.CHUNK_ROWS", 500)
    fitter = Fitter(schema)
    keep = np.random.default_rng(1).random(len(FRAME)) < 0.3
    for _ in fitter.read(SOURCE, lambda c: keep[c.start : c.start + c.num_rows]):
        pass
    for _ in fitter.read(SOURCE, False):
        pass
    finish = fitter.finish()
    rows = FRAME.filter(pl.Series(keep))
    alone = FeaturePipeline.fit(Source.from_frame(rows), schema)
    assert finish.pipeline.tokens("word").to_pylist() == alone.tokens("word").to_pylist()
    scale, other = finish.pipeline.scales["number"], alone.scales["number"]
    assert scale.mean == pytest.approx(other.mean, rel=1e-12)
    assert scale.deviation == pytest.approx(other.deviation, rel=1e-12)
    assert finish.missing["word"] == pytest.approx(rows["word"].null_count() / len(rows))
    assert finish.missing["words"] == 0


@pytest.mark.parametrize("masked", [False, True])
def test_a_label_that_no_training_row_has_is_refused(
    monkeypatch: pytest.MonkeyPatch, masked: bool
) -> None:
    monkeypatch.setattr("recsys.data.fit.CHUNK_ROWS", 500)
    late = pl.int_range(pl.len()) >= (3000 if masked else 4000)
    frame = FRAME.with_columns(buy=pl.when(late).then(1), one_class=pl.lit(0))
    source = Source.from_frame(frame)
    schema = infer_schema(source, ["click", "buy", "one_class"])
    fitter = Fitter(schema)
    for _ in fitter.read(source, lambda c: np.arange(c.start, c.start + c.num_rows) < 3000):
        pass
    with pytest.raises(SchemaError, match=r'label "buy" is missing in all 3,000 training rows'):
        fitter.finish()
    if masked:  # one training row with it is enough, of whichever class
        fitter = Fitter(schema)
        for _ in fitter.read(source, lambda c: np.arange(c.start, c.start + c.num_rows) < 3001):
            pass
        missing = fitter.finish().missing
        assert missing["buy"] == pytest.approx(3000 / 3001)
        assert "click" not in missing


def test_a_nested_label_has_a_value_where_its_parent_is_0() -> None:
    source = Source.from_frame(FRAME.with_columns(buy=pl.lit(None, pl.Int64)))
    schema = infer_schema(source, ["click", "buy"])
    with pytest.raises(SchemaError, match=r'label "buy" is missing in all'):
        FeaturePipeline.fit(source, schema)
    FeaturePipeline.fit(source, dataclasses.replace(schema, nested={"buy": "click"}))


def test_a_huge_vocabulary_in_short_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.data.fit.CHUNK_ROWS", 100)
    values = [f"{v:05d}" for v in range(5000)] + ["00007"] * 200
    source = Source.from_frame(pl.DataFrame({"c": values, "click": [0, 1] * 2600}))
    pipeline = FeaturePipeline.fit(source, infer_schema(source, "click"))
    vocabulary = pipeline.vocabularies["c"]
    assert len(vocabulary) == 5000
    assert vocabulary.texts[0] == "00007"
    assert vocabulary.counts.to_list()[:3] == [201, 1, 1]


def test_an_error_in_a_worker_reaches_the_caller_and_stops_reading() -> None:
    bad = FRAME.with_columns(number=pl.lit(float("inf")))
    fitter = Fitter(infer_schema(SOURCE, "click"))
    with pytest.raises(SchemaError, match=r'column "number".*inf'):
        list(fitter.read(Source.from_frame(bad)))


def test_a_hashed_field_needs_a_size() -> None:
    field = Field(name="word", kind="categorical", encoding="hash")
    with pytest.raises(SchemaError, match=r"data\.fields\.word\.hash_size"):
        Fitter(Schema((field,), ("click",)))


def test_the_group_may_be_an_input_too() -> None:
    table = pa.table({"u": [1, 2, 2], "click": [0, 1, 1]})
    source = Source.from_frame(table)
    pipeline = FeaturePipeline.fit(source, infer_schema(source, "click", group="u"))
    out = pipeline.transform(table)
    assert out.ids[:, 0].tolist() == [4, 3, 3]
    assert out.group.tolist() == [1, 2, 2]
