"""Avazu: the hour taken apart, the sample with its split, the full file with none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from recsys.data.datasets import avazu
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.errors import ConfigError, SchemaError


def lines(rows: int, header: bool) -> str:
    out = [",".join(avazu.COLUMNS)] if header else []
    for row in range(rows):
        hour = f"1410{21 + row % 10}{row % 24:02d}"
        out.append(",".join([f"id{row}", str(row % 2), hour, *(f"{i}" for i in range(21))]))
    return "\n".join(out) + "\n"


def test_the_real_sample(shared: Callable[[str], Path], tmp_path: Path) -> None:
    raw = avazu.build(source=shared("avazu"))
    counts = {name: source.num_rows for name, source in raw.files.items()}
    assert counts == {"train": 8_087, "val": 480, "test": 432}
    assert len(raw.schema) == 24
    for name, rate in (("train", 0.173), ("val", 0.179), ("test", 0.185)):
        click = raw.files[name].head(counts[name], ["click"])["click"].to_numpy()
        assert click.mean() == pytest.approx(rate, abs=0.001)
    data = prepare(raw, DataOptions(), tmp_path)
    assert len(data.train) == 8_087


def test_hours_equal_the_calendar() -> None:
    hours = [14102100, 14102523, 14102607, 14103112, 15010100]
    frame = avazu.with_hours(pl.LazyFrame({"id": ["x"] * 5, "hour": hours})).collect()
    for hour, row in zip(hours, frame.rows(named=True), strict=True):
        time = datetime.strptime(str(hour), "%y%m%d%H")
        assert row["hour_of_day"] == time.hour
        assert row["weekday"] == time.isoweekday()
        assert row["weekend"] == (time.isoweekday() >= 6)
    assert "id" not in frame.columns


def test_a_sample_keeps_its_split(tmp_path: Path) -> None:
    for name, rows in (("train", 30), ("dev", 10), ("test", 5)):
        (tmp_path / f"{name}.csv").write_text(lines(rows, header=name == "train"))
    raw = avazu.build(source=tmp_path, check_rows=False)
    assert {n: s.num_rows for n, s in raw.files.items()} == {"train": 30, "val": 10, "test": 5}
    assert raw.files["test"].head(1).to_pylist()[0]["C21"] == "20"  # text, as every category
    with pytest.raises(SchemaError, match=r"has 30 rows \(train\).*published are 8,087 rows"):
        avazu.build(source=tmp_path)


def test_the_full_file_is_split_by_time(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "train.csv").write_text(lines(240, header=True))
    (tmp_path / "test.csv").write_text("id,hour\n1,14103100\n")  # the challenge's own, unlabelled
    raw = avazu.build(source=tmp_path, check_rows=False)
    assert {n: s.num_rows for n, s in raw.files.items()} == {"all": 240}
    data = prepare(raw, DataOptions(split="time"), tmp_path / "prepared")
    assert len(data.train) == 192
    before = sorted(cache.rglob("*.parquet"))
    avazu.build(source=tmp_path, check_rows=False)
    assert sorted(cache.rglob("*.parquet")) == before  # converted once
    with pytest.raises(SchemaError, match=r"published are 40,428,967 rows \(all\)"):
        avazu.build(source=tmp_path)


def test_other_files_are_refused(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(ConfigError, match="without an account"):
        avazu.build()
    with pytest.raises(SchemaError, match=r"needs train\.csv"):
        avazu.build(source=tmp_path)
    (tmp_path / "train.csv").write_text(lines(3, header=True).replace("14102100", "99999900"))
    with pytest.raises(SchemaError, match="not YYMMDDHH"):
        avazu.build(source=tmp_path, check_rows=False)
    assert not list(cache.rglob("*tmp*"))
