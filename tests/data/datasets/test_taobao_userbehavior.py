"""Taobao log: next new views against items never touched; histories look back only."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recsys.data.datasets import taobao_userbehavior as taobao
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.data.schema import Kind
from recsys.errors import ConfigError, SchemaError

DAY, START = taobao.DAY, taobao.START
LOG = [
    (1, 10, 100, "pv", START + 5),
    (1, 11, 101, "pv", START + 9),
    (1, 12, 100, "buy", START + 10),
    (1, 10, 100, "pv", START + 20),  # viewed before
    (1, 13, 102, "pv", START + 7 * DAY),
    (1, 14, 102, "pv", START + 8 * DAY),
    (2, 15, 103, "pv", START + 3),
    (2, 10, 100, "pv", START + 3),  # the same moment: neither sees the other
    (2, 11, 101, "pv", START + 8 * DAY + 1),
    (2, 16, 101, "pv", START + 9 * DAY),  # after the last day
    (3, 17, 104, "pv", START - 1),  # before the first
    (3, 18, 104, "cart", START + 1),
]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    text = "".join(",".join(map(str, row)) + "\n" for row in LOG)
    (tmp_path / "UserBehavior.csv.gz").write_bytes(gzip.compress(text.encode()))
    return tmp_path


def table(raw: taobao.RawDataset) -> pl.DataFrame:
    return pl.DataFrame(raw.files["all"].head(10**7))


def test_the_real_file(shared: Callable[[str], Path], tmp_path: Path) -> None:
    raw = taobao.build(source=shared("taobao-userbehavior"))
    frame = table(raw)
    assert frame.height == 118_122
    assert frame["label"].sum() == 59_061
    assert frame["user"].n_unique() == 813
    log = taobao.read_log(shared("taobao-userbehavior") / "UserBehavior.csv.gz")
    negatives = frame.filter(label=0)
    assert negatives.join(log, on=["user", "item"], how="semi").height == 0
    # The history, again by a join: every view of the user with a smaller time, the last 50.
    sample = frame.filter(label=1).gather_every(401)
    views = log.filter(pl.col("behaviour") == "pv", pl.col("timestamp") >= START)
    joined = sample.select("user", at="timestamp", to="item").join(
        views.with_row_index("row"), on="user"
    )
    seen = (
        joined.filter(pl.col("timestamp") < pl.col("at"))
        .sort("timestamp", "row")
        .group_by("user", "at", "to")
        .agg(pl.col("item").tail(50).alias("expected"))
    )
    both = sample.join(seen, left_on=["user", "timestamp", "item"], right_on=["user", "at", "to"])
    assert both.height == sample.height > 140
    assert both["history"].to_list() == both["expected"].to_list()
    data = prepare(raw, DataOptions(), tmp_path)
    rows = {split: len(store) for split, store in data.stores.items()}
    assert rows == {"train": 87_000, "val": 15_762, "test": 15_360}


def test_rows_labels_and_histories(small: Path, tmp_path: Path) -> None:
    raw = taobao.build(source=small, check_rows=False)
    frame = table(raw)
    positives = frame.filter(label=1).select("user", "item", "category", "history").rows()
    assert positives == [
        (1, 11, 101, [10]),
        (1, 13, 102, [10, 11, 10]),
        (1, 14, 102, [10, 11, 10, 13]),
        (2, 11, 101, [15, 10]),
    ]
    assert frame["label"].to_list() == [1, 0] * 4
    pairs = frame.rows(named=True)
    category = {item: kind for _, item, kind, _, at in LOG if 0 <= at - START < 9 * DAY}
    touched = {(user, item) for user, item, *_ in LOG}
    for positive, negative in zip(pairs[::2], pairs[1::2], strict=True):
        assert (negative["user"], negative["item"]) not in touched
        assert negative["category"] == category[negative["item"]]
        for key in ("user", "timestamp", "history", "category_history"):
            assert positive[key] == negative[key]
        assert positive["category_history"] == [category[item] for item in positive["history"]]
    data = prepare(raw, DataOptions(), tmp_path / "prepared")
    rows = {split: len(store) for split, store in data.stores.items()}
    assert rows == {"train": 2, "val": 2, "test": 4}


def test_options(small: Path) -> None:
    frame = table(taobao.build(source=small, check_rows=False, repeats=True, history_length=2))
    assert frame.filter(label=1).select("item", "history").rows() == [
        (11, [10]), (10, [10, 11]), (13, [11, 10]), (14, [10, 13]), (11, [15, 10]),
    ]  # fmt: skip
    raw = taobao.build(source=small, check_rows=False, user=True)
    assert raw.schema.names == ("user", "item", "category", "history", "category_history")
    raw = taobao.build(source=small, check_rows=False)
    assert raw.schema.names == ("item", "category", "history", "category_history")
    assert raw.schema.group == "user"
    for name, shares in (("history", "item"), ("category_history", "category")):
        assert raw.schema[name].kind is Kind.HISTORY
        assert raw.schema[name].shares == shares


def test_other_files_are_refused(small: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"has 12 rows in .*; known are 84,476 and 100,150,807"):
        taobao.build(source=small)
    with pytest.raises(ConfigError, match=r"not downloaded. Put UserBehavior\.csv"):
        taobao.build()
    (tmp_path / "UserBehavior.csv").write_text("1,2,3,look,5\n")
    with pytest.raises(SchemaError, match=r"has the behaviours \['look'\]; known are pv"):
        taobao.build(source=small, check_rows=False)
    (tmp_path / "UserBehavior.csv").write_text("user,item\n1,2\n")
    with pytest.raises(SchemaError, match="is not the Taobao log"):
        taobao.build(source=small, check_rows=False)
