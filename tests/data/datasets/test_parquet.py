"""Your own table: which rows go where, what is inferred, and what is told when a key is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.datasets.parquet import build
from recsys.data.encode import FeaturePipeline
from recsys.data.histories import with_histories
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.data.schema import NUM_RESERVED, Kind
from recsys.data.store import Store
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


LOG = {"histories": {"item_history": "item"}, "group": "user", "timestamp": "at"}


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


def test_labels_that_need_another(tmp_path: Path) -> None:
    frame = clicks(300).with_columns(bought=pl.when(clicked=1).then("bought"))
    frame.write_parquet(tmp_path / "t.parquet")
    names = ["clicked", "bought"]
    raw = build(path=tmp_path / "t.parquet", labels=names, nested={"bought": "clicked"})
    assert raw.schema.parents == (-1, 0)
    data = prepare(raw, DataOptions(val_fraction=0, test_fraction=0), tmp_path / "prepared")
    expected = frame.select(names).fill_null(0).to_numpy()
    np.testing.assert_array_equal(data.train.label, expected)
    with pytest.raises(SchemaError, match=r"data\.nested\.bought=clickd.*Did you mean clicked"):
        build(path=tmp_path / "t.parquet", labels=names, nested={"bought": "clickd"})
    clicks(300).write_parquet(tmp_path / "t.parquet")  # bought without clicked, as well
    raw = build(path=tmp_path / "t.parquet", labels=names, nested={"bought": "clicked"})
    with pytest.raises(
        SchemaError, match=r'"bought" is 1 where "clicked" is 0 in .*t\.parquet row'
    ):
        prepare(raw, DataOptions(), tmp_path / "prepared")


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
        ({"nested": {"bought": "clicked"}}, SchemaError, '"bought" is no label'),
        ({"labels": ["bought"]}, ConfigError, "got data.label=clicked and data.labels"),
        ({"label": "clickd"}, SchemaError, "Did you mean clicked?"),
        ({"timestamp": "att"}, SchemaError, "Did you mean at?"),
        ({"types": {"user": "strng"}}, SchemaError, "Did you mean string?"),
        ({"histories": {"h": "item"}}, ConfigError, "needs data.group and data.timestamp too"),
        ({"histories": {"h": "item"}, "group": "user"}, ConfigError, "needs data.timestamp too"),
        (LOG | {"histories": {"h": "itm"}}, SchemaError, "Did you mean item?"),
        (LOG | {"histories": {"h": "price"}}, SchemaError, '"price" is numeric, but a history'),
        (LOG | {"histories": {"h": "at"}}, SchemaError, '"at" is no input'),
        (LOG | {"histories": {"h": "clicked"}}, SchemaError, '"clicked" is no input'),
        (LOG | {"histories": {"price": "item"}}, SchemaError, '"price" has the name of a column'),
        (LOG | {"history_of": "positive"}, ConfigError, "Did you mean positives?"),
        (LOG | {"history_length": 0}, ConfigError, "data.history_length=0"),
    ],
)
def test_wrong_keys_are_told(tmp_path: Path, keys: dict, error: type[Exception], told: str) -> None:
    clicks(20).write_parquet(tmp_path / "t.parquet")
    with pytest.raises(error, match=told.replace("?", r"\?")):
        build(**({"path": tmp_path / "t.parquet", "label": "clicked"} | keys))


def test_a_label_of_texts_can_rank_columns_but_train_no_model(tmp_path: Path) -> None:
    clicks(20).write_parquet(tmp_path / "t.parquet")
    raw = build(path=tmp_path / "t.parquet", label="item")
    with pytest.raises(SchemaError, match='label "item" holds'):
        prepare(raw, DataOptions(), tmp_path / "cache")


def test_test_rows_need_the_label_too(tmp_path: Path) -> None:
    clicks(20).write_parquet(tmp_path / "t.parquet")
    clicks(20).drop("clicked").write_parquet(tmp_path / "u.parquet")
    with pytest.raises(SchemaError, match=r'u\.parquet has no column "clicked"'):
        build(path=tmp_path / "t.parquet", test_path=tmp_path / "u.parquet", label="clicked")


def test_absent_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="absent"):
        build(path=tmp_path / "absent.parquet", label="clicked")


# --- histories --------------------------------------------------------------------------------


def decoded(store: Store, pipeline: FeaturePipeline, name: str, item: str) -> list[list[str]]:
    """Texts of a history column, by the tokens of its item."""
    tokens = pipeline.tokens(item).to_pylist()
    values, offsets = store.ragged[name]
    return [
        [tokens[code] for code in values[offsets[i] : offsets[i + 1]]] for i in range(len(store))
    ]


@pytest.mark.parametrize("ending", ["parquet", "csv", "csv.gz"])
@pytest.mark.parametrize("history_of", ["all", "positives"])
def test_a_log_gets_histories(tmp_path: Path, ending: str, history_of: str) -> None:
    frame = clicks(3000).sample(fraction=1.0, shuffle=True, seed=0)  # an unsorted file
    if ending == "parquet":
        frame.write_parquet(tmp_path / "log.parquet", row_group_size=700)
    else:
        frame.write_csv(
            tmp_path / f"log.{ending}", compression="gzip" if "gz" in ending else "uncompressed"
        )
    raw = build(
        path=tmp_path / f"log.{ending}", label="clicked", history_of=history_of, history_length=6,
        **LOG,
    )  # fmt: skip
    field = raw.schema["item_history"]
    assert (field.kind, field.shares, field.max_length) == (Kind.HISTORY, "item", 6)
    data = prepare(raw, DataOptions(split="time"), tmp_path / "prepared")
    expected = with_histories(
        frame, {"h": "item"}, user="user", time="at", max_length=6,
        where=pl.col("clicked") == 1 if history_of == "positives" else None,
    )["h"].to_list()  # fmt: skip
    assert max(map(len, expected)) == 6
    for store in data.stores.values():
        found = decoded(store, data.pipeline, "item_history", "item")
        assert found == [expected[row] for row in store.row]
    assert data.test.ragged["item_history"][0].min() >= NUM_RESERVED


def test_all_files_are_one_log(tmp_path: Path) -> None:
    frame = clicks(900)
    frame[:600].write_parquet(tmp_path / "train.parquet")
    frame[600:].write_parquet(tmp_path / "test.parquet")
    raw = build(
        path=tmp_path / "train.parquet", test_path=tmp_path / "test.parquet", label="clicked", **LOG
    )
    data = prepare(raw, DataOptions(val_fraction=0), tmp_path / "prepared")
    expected = with_histories(frame, {"h": "item"}, user="user", time="at")["h"].to_list()
    assert decoded(data.test, data.pipeline, "item_history", "item") == expected[600:]
    assert min(map(len, expected[700:])) > 20  # most of it lies in the training file


def test_two_histories_are_aligned_and_known_by_their_option_not_their_name(tmp_path: Path) -> None:
    frame = clicks(500).with_columns(shop=pl.col("item").str.replace("i", "s"))
    frame.write_parquet(tmp_path / "log.parquet")
    histories = {"before": "item", "shops": "shop"}
    raw = build(path=tmp_path / "log.parquet", label="clicked", **(LOG | {"histories": histories}))
    assert [raw.schema[name].shares for name in histories] == ["item", "shop"]
    data = prepare(raw, DataOptions(max_length=4), tmp_path / "prepared")
    items = decoded(data.train, data.pipeline, "before", "item")
    shops = decoded(data.train, data.pipeline, "shops", "shop")
    assert [[item.replace("i", "s") for item in one] for one in items] == shops
    assert max(map(len, items)) == 4


def test_a_row_without_a_time_is_named(tmp_path: Path) -> None:
    holes = clicks(50).with_columns(at=pl.when(pl.col("at") != 17).then("at"))
    holes.write_parquet(tmp_path / "log.parquet")
    raw = build(path=tmp_path / "log.parquet", label="clicked", **LOG)
    with pytest.raises(SchemaError, match=r'"at" is missing in .*log\.parquet row 17'):
        prepare(raw, DataOptions(), tmp_path / "prepared")


def test_a_list_column_becomes_a_history_of_a_field(tmp_path: Path) -> None:
    frame = with_histories(clicks(500), {"basket": "item"}, user="user", time="at")
    frame.write_parquet(tmp_path / "log.parquet")
    raw = build(path=tmp_path / "log.parquet", label="clicked")
    assert raw.schema["basket"].kind is Kind.MULTIVALUED
    options = DataOptions(fields={"basket": {"kind": "history", "shares": "item"}})
    data = prepare(raw, options, tmp_path / "prepared")
    expected = frame["basket"].to_list()
    found = decoded(data.train, data.pipeline, "basket", "item")
    assert found == [expected[row] for row in data.train.row]
    typo = DataOptions(fields={"basket": {"kind": "history", "shares": "itme"}})
    with pytest.raises(SchemaError, match=r"data\.fields\.basket\.shares=itme.*Did you mean item"):
        prepare(raw, typo, tmp_path / "prepared")
    number = DataOptions(fields={"basket": {"kind": "history", "shares": "price"}})
    with pytest.raises(SchemaError, match="shares=price: that field is numeric"):
        prepare(raw, number, tmp_path / "prepared")
