"""Criteo: the sample with its split, the full file with none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.data.datasets import criteo
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.data.schema import Encoding, Kind
from recsys.errors import ConfigError, SchemaError


def lines(rows: int) -> str:
    """Tokens that look like numbers (12e34567), and missing values."""
    out = []
    for row in range(rows):
        numbers = [str(row * i % 7) if (row + i) % 3 else "" for i in range(13)]
        tokens = [f"{row % 5}2e3456{i:02d}" if (row + i) % 9 else "" for i in range(26)]
        out.append("\t".join([str(row % 2), *numbers, *tokens]))
    return "\n".join(out) + "\n"


def test_the_real_sample(shared: Callable[[str], Path], tmp_path: Path) -> None:
    raw = criteo.build(source=shared("criteo"))
    counts = {name: source.num_rows for name, source in raw.files.items()}
    assert counts == {"train": 7_200, "val": 409, "test": 391}
    assert len(raw.schema) == 39
    table = raw.files["train"].head(7_200)
    assert table["label"].to_numpy().mean() == pytest.approx(0.215, abs=0.001)
    # Distinct values of every category, "missing" among them.
    distinct = sum(len(set(table[name].to_pylist())) for name in criteo.CATEGORIES)
    assert distinct == 34_443
    data = prepare(raw, DataOptions(numeric="log"), tmp_path)
    assert len(data.pipeline.schema.dense) == 13


def test_a_sample_keeps_its_split(tmp_path: Path) -> None:
    for name, rows in (("train", 30), ("dev", 10), ("test", 5)):
        (tmp_path / f"{name}.tsv").write_text(lines(rows))
    raw = criteo.build(source=tmp_path, check_rows=False)
    assert {n: s.num_rows for n, s in raw.files.items()} == {"train": 30, "val": 10, "test": 5}
    first = raw.files["train"].head(1).to_pylist()[0]
    assert list(first) == list(criteo.COLUMNS)
    assert (first["C1"], first["C2"], first["I1"]) == (None, "02e345601", None)
    with pytest.raises(SchemaError, match=r"has 30 rows \(train\).*published are 7,200 rows"):
        criteo.build(source=tmp_path)


def test_the_full_file_is_split_by_the_options(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "train.txt").write_text(lines(100))
    raw = criteo.build(source=tmp_path, check_rows=False)
    assert {n: s.num_rows for n, s in raw.files.items()} == {"all": 100}
    data = prepare(raw, DataOptions(), tmp_path / "prepared")
    assert len(data.train) > len(data.val) + len(data.test) > 0
    assert len(list((cache / "criteo").glob("*.parquet"))) == 1
    with pytest.raises(SchemaError, match=r"published are 45,840,617 rows \(all\)"):
        criteo.build(source=tmp_path)


def test_schema() -> None:
    schema = criteo._schema()
    assert schema["I1"].kind is Kind.NUMERIC
    assert schema["I1"].encoding is Encoding.QUANTILE
    assert schema["C26"].kind is Kind.CATEGORICAL


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without an account"):
        criteo.build()
    with pytest.raises(SchemaError, match=r"needs train\.txt"):
        criteo.build(source=tmp_path)
    (tmp_path / "train.txt").write_text("1\t2\t3\n")
    with pytest.raises(SchemaError, match="has 3 columns"):
        criteo.build(source=tmp_path)
