"""Counts of columns against plain loops: kinds, parts, missing values, hash buckets, chunks."""

from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest

from recsys.data.columns import Lists
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import MISSING, NUM_RESERVED, Field, Kind
from recsys.data.split import RandomSplit
from recsys.feature_ranking import counts as module
from recsys.feature_ranking.counts import ColumnCounts, count_column
from recsys.feature_ranking.rows import HELD_OUT, NOT_COUNTED, NUM_PARTS, Rows, count_rows
from tests.feature_ranking.planted import dataset

ROWS = 3_000


@pytest.fixture
def frame() -> pl.DataFrame:
    generator = np.random.default_rng(0)
    some = generator.integers(0, 12, ROWS)
    return pl.DataFrame(
        {
            "text": [None if v == 3 else f"v{v}" for v in some],
            "whole": some.astype(np.int64) * 10**12,
            "number": np.where(some == 5, np.nan, generator.normal(size=ROWS)),
            "tags": [[f"t{k}" for k in range(v % 4)] for v in some],
            "click": generator.integers(0, 2, ROWS),
            "weight": generator.random(ROWS).astype(np.float32),
        }
    )


def field(raw: RawDataset, name: str) -> Field:
    return raw.schema[name]


def by_text(column: ColumnCounts, table: np.ndarray) -> dict[str, list[float]]:
    codes = np.flatnonzero(table.sum(axis=tuple(range(1, table.ndim))))
    return dict(zip(column.texts(codes), table[codes].tolist(), strict=True))


@pytest.mark.parametrize("name", ["text", "whole"])
def test_categories_by_part_and_class(frame: pl.DataFrame, name: str) -> None:
    raw = dataset(frame.drop("weight"))
    rows = count_rows(raw, "click", rule=RandomSplit((0.7, 0.2, 0.1), 1))
    column = count_column(rows, field(raw, name))
    cell = rows.files[0].cell
    slow: Counter = Counter()
    for value, one in zip(frame[name], cell, strict=True):
        if one != NOT_COUNTED:
            text = "(missing)" if value is None else str(value)
            slow[text, int(one) // 2, int(one) % 2] += 1
    found: Counter = Counter()
    for text, table in by_text(column, column.counts).items():
        for part in range(NUM_PARTS):
            for label in range(2):
                found[text, part, label] += table[part][label]
    assert +found == +slow
    assert column.train.sum() == rows.num_train
    assert column.held_out.sum() == rows.num_held_out


def test_neither_chunks_nor_files_nor_the_kernel_matter(
    frame: pl.DataFrame, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = frame.select("text", "click")
    frame.write_parquet(tmp_path / "whole.parquet", row_group_size=97)
    for index, part in enumerate(frame.iter_slices(1_234)):
        part.write_parquet(tmp_path / f"part-{index}.parquet")
    sources = [
        Source.from_frame(frame),
        Source.open(tmp_path / "whole.parquet"),
        Source.open(str(tmp_path / "part-*.parquet")),
    ]
    found = []
    for native in (True, False):
        if not native:
            monkeypatch.setattr(module, "library", lambda: None)
        for source in sources:
            raw = RawDataset("x", {"train": source}, dataset(frame).schema)
            rows = count_rows(raw, "click", rule=None)
            column = count_column(rows, field(raw, "text"))
            found.append((by_text(column, column.counts), column.digest, column.sample.tolist()))
    assert all(one == found[0] for one in found)


def test_numbers_are_cut_at_their_quantiles(frame: pl.DataFrame) -> None:
    raw = dataset(frame.drop("weight"))
    rows = count_rows(raw, "click", rule=None)
    column = count_column(rows, field(raw, "number"), num_buckets=8)
    size = column.train.sum(axis=1)
    assert size[MISSING] == frame["number"].is_nan().sum()
    buckets = size[NUM_RESERVED:][size[NUM_RESERVED:] > 0]
    assert len(buckets) == 8
    assert buckets.max() - buckets.min() <= 2
    texts = column.texts(np.arange(NUM_RESERVED, NUM_RESERVED + 8))
    assert texts[0].startswith("[-inf, ")
    assert texts[-1].endswith(", inf)")


def test_lists_count_one_over_their_length(frame: pl.DataFrame) -> None:
    raw = dataset(frame.drop("weight"))
    rows = count_rows(raw, "click", rule=None)
    column = count_column(rows, field(raw, "tags"))
    slow: Counter = Counter()
    squares: Counter = Counter()
    for row, label in zip(frame["tags"], frame["click"], strict=True):
        tags = row.to_list() or ["(empty)"]
        for tag in tags:
            slow[tag, label] += 1 / len(tags)
            squares[tag] += 1 / len(tags) ** 2
    assert slow["(empty)", 0] > 100
    found = by_text(column, column.train)
    for (tag, label), weight in slow.items():
        assert found[tag][label] == pytest.approx(weight)
    assert column.squares is not None
    codes = np.flatnonzero(column.squares)
    code = dict(zip(column.texts(codes), codes, strict=True))
    for tag, weight in squares.items():
        assert column.squares[code[tag]] == pytest.approx(weight)
    assert isinstance(column.sample, Lists)


def test_weights_are_added_up(frame: pl.DataFrame) -> None:
    raw = dataset(frame, weight="weight")
    rows = count_rows(raw, "click", rule=None)
    column = count_column(rows, field(raw, "text"))
    found = by_text(column, column.train)
    for (text,), part in frame.with_columns(pl.col("text").fill_null("(missing)")).group_by("text"):
        for label in (0, 1):
            weight = part.filter(pl.col("click") == label)["weight"].cast(pl.Float64).sum()
            assert found[text][label] == pytest.approx(weight)


def test_too_many_values_are_counted_in_buckets(frame: pl.DataFrame) -> None:
    frame = frame.select("click", user=np.arange(ROWS))
    raw = dataset(frame)
    rows = count_rows(raw, "click", rule=None)
    exact = count_column(rows, field(raw, "user"), max_values=ROWS)
    assert not exact.hashed
    assert len(by_text(exact, exact.train)) == ROWS
    hashed = count_column(rows, field(raw, "user"), max_values=100)
    assert hashed.hashed
    assert hashed.train.sum() == ROWS
    assert (hashed.train.sum(axis=1) > 0).sum() <= 100
    assert hashed.texts(np.array([NUM_RESERVED + 7])) == ["bucket 7"]


def test_a_renamed_column_has_the_same_digest(frame: pl.DataFrame) -> None:
    frame = frame.select("whole", "click").with_columns(
        renamed=pl.col("whole").cast(pl.String) + "!", other=pl.col("whole").shuffle(seed=1)
    )
    raw = dataset(frame)
    rows = count_rows(raw, "click", rule=None)
    names = ("whole", "renamed", "other")
    found = {name: count_column(rows, field(raw, name)).digest for name in names}
    assert found["whole"] == found["renamed"] != found["other"]


def test_the_sample_is_the_codes_of_the_sampled_rows(
    frame: pl.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recsys.feature_ranking import rows as rows_module

    monkeypatch.setattr(rows_module, "SAMPLE_ROWS", 500)
    raw = dataset(frame.drop("weight"))
    rows: Rows = count_rows(raw, "click", rule=RandomSplit((0.8, 0.1, 0.1), 0))
    at = rows.files[0].sample
    assert 350 < len(at) < 650
    assert (rows.files[0].cell[at] < HELD_OUT * 2).all()
    assert rows.sample_labels.tolist() == frame["click"].to_numpy()[at].tolist()
    column = count_column(rows, field(raw, "text"))
    texts = column.texts(np.asarray(column.sample))
    assert texts == ["(missing)" if v is None else v for v in frame["text"].to_numpy()[at]]


def test_kinds_of_the_frame(frame: pl.DataFrame) -> None:
    kinds = {one.name: one.kind for one in dataset(frame).schema}
    assert kinds["tags"] is Kind.MULTIVALUED
    assert kinds["number"] is Kind.NUMERIC
