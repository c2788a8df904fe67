"""Your own table: which rows go where, what is inferred, and what is told when a key is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.datasets.parquet import build
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.data.schema import Kind
from recsys.errors import ConfigError, SchemaError


def clicks(rows: int = 200, start: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(start)
    return pl.DataFrame(
        {
            "user": rng.integers(0, 20, rows),
            "item": [f"i{k}" for k in rng.integers(0, 9, rows)],
            "price": rng.normal(size=rows),
            "at": np.arange(start, start + rows),
            "w": rng.random(rows),
            "clicked": rng.integers(0, 2, rows),
            "bought": rng.integers(0, 2, rows),
        }
    )


@pytest.mark.parametrize("ending", ["parquet", "csv", "arrow"])
def test_one_file_is_split_by_the_options(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"clicks.{ending}"
    write = {"parquet": "write_parquet", "csv": "write_csv", "arrow": "write_ipc"}[ending]
    getattr(clicks(), write)(file)
    raw = build(path=str(file), label="clicked", group="user", timestamp="at", weight="w")
    assert raw.name == "clicks"
    assert {name: source.num_rows for name, source in raw.files.items()} == {"all": 200}
    assert raw.split == "options"
    kinds = {field.name: field.kind for field in raw.schema}
    assert kinds == {
        "user": Kind.CATEGORICAL,
        "item": Kind.CATEGORICAL,
        "price": Kind.NUMERIC,
        "bought": Kind.CATEGORICAL,
    }
    assert raw.schema.labels == ("clicked",)
    assert (raw.schema.group, raw.schema.timestamp, raw.schema.weight) == ("user", "at", "w")

    data = prepare(raw, DataOptions(split="time", test_fraction=0.2), tmp_path / "prepared")
    assert [len(store) for store in (data.train, data.val, data.test)] == [140, 20, 40]


def test_given_files_keep_their_rows(tmp_path: Path) -> None:
    for start, name in ((0, "train"), (1000, "val"), (2000, "test")):
        clicks(100 + start // 100, start).write_parquet(tmp_path / f"{name}.parquet")
    paths = {
        "path": tmp_path / "train.parquet",
        "val_path": tmp_path / "val.parquet",
        "test_path": tmp_path / "test.parquet",
    }
    raw = build(**paths, labels=["clicked", "bought"])
    assert raw.split is None
    data = prepare(raw, DataOptions(), tmp_path / "prepared")
    assert [len(store) for store in (data.train, data.val, data.test)] == [100, 110, 120]
    assert data.train.label.shape == (100, 2)


def test_a_split_that_is_not_given_is_cut_out_of_the_training_rows(tmp_path: Path) -> None:
    clicks(1000).write_parquet(tmp_path / "train.parquet")
    clicks(50, 7).write_parquet(tmp_path / "test.parquet")
    raw = build(
        path=tmp_path / "train.parquet", test_path=tmp_path / "test.parquet", label="clicked"
    )
    data = prepare(raw, DataOptions(val_fraction=0.2), tmp_path / "prepared")
    assert len(data.test) == 50
    assert len(data.train) + len(data.val) == 1000
    assert 150 < len(data.val) < 250


def test_folder_glob_and_list_are_one_table(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    for part in range(3):
        clicks(10, part).write_parquet(folder / f"part-{part}.parquet")
    for path, name in (
        (folder, "logs"),
        (f"{folder}/*.parquet", "logs"),
        ([folder / "part-0.parquet", folder / "part-2.parquet"], "part-0"),
    ):
        raw = build(path=path, label="clicked")
        assert raw.name == name
        assert raw.files["all"].num_rows == (20 if isinstance(path, list) else 30)


def test_csv_types_separator_and_missing_values(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "t.csv").write_text("zip;n;click\n01234;NA;1\n99999;2;0\n")
    raw = build(
        path=tmp_path / "t.csv",
        label="click",
        separator=";",
        null_values=["NA"],
        types={"zip": "string", "n": "float64"},
    )
    rows = raw.files["all"].head(2).to_pylist()
    assert [row["zip"] for row in rows] == ["01234", "99999"]
    assert [row["n"] for row in rows] == [None, 2.0]
    assert len(list((cache / "csv").glob("*.parquet"))) == 1  # converted once


@pytest.mark.parametrize(
    ("keys", "error", "told"),
    [
        ({"path": None}, ConfigError, "data.path is not set"),
        ({"label": None}, ConfigError, "one of data.label and data.labels, got none"),
        ({"labels": ["bought"]}, ConfigError, "got data.label=clicked and data.labels"),
        ({"label": "clickd"}, SchemaError, "Did you mean clicked?"),
        ({"label": "item"}, SchemaError, 'label "item" holds'),
        ({"timestamp": "att"}, SchemaError, "Did you mean at?"),
        ({"types": {"user": "strng"}}, SchemaError, "Did you mean string?"),
    ],
)
def test_wrong_keys_are_told(tmp_path: Path, keys: dict, error: type[Exception], told: str) -> None:
    clicks(20).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(error, match=told.replace("?", r"\?")):
        build(**({"path": tmp_path / "t.parquet", "label": "clicked"} | keys))


def test_test_rows_need_the_label_too(tmp_path: Path) -> None:
    clicks(20).write_parquet(tmp_path / "t.parquet")
    clicks(20).drop("clicked").write_parquet(tmp_path / "u.parquet")
    with pytest.raises(SchemaError, match=r'u\.parquet has no column "clicked"'):
        build(path=tmp_path / "t.parquet", test_path=tmp_path / "u.parquet", label="clicked")


def test_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="absent"):
        build(path=tmp_path / "absent.parquet", label="clicked")
