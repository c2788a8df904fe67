"""From raw files to stores: the same rows, nothing leaked, nothing half-written."""

import dataclasses
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.encode import FeaturePipeline
from recsys.data.infer import infer_schema
from recsys.data.options import DataOptions
from recsys.data.prepare import Prepared, open_prepared, prepare
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import UNSEEN, Schema
from recsys.data.split import LeaveLastOut, RandomSplit, TimeSplit
from recsys.data.store import Store
from recsys.errors import ConfigError, SchemaError


def frame(rows: int = 3000, seed: int = 0) -> pl.DataFrame:
    rng = np.random.default_rng(seed)

    def text(size: int) -> list[str | None]:
        draws = (size * rng.random(rows) ** 3).astype(int)
        return [None if rng.random() < 0.05 else f"v{v}" for v in draws]

    return pl.DataFrame(
        {
            "item": text(300),
            "user": rng.integers(10**15, 10**15 + 80, rows),
            "price": [None if rng.random() < 0.1 else float(v) for v in rng.exponential(9, rows)],
            "age": rng.integers(0, 90, rows).astype(float),
            "item_history": [
                None if rng.random() < 0.1 else [f"v{v}" for v in rng.integers(0, 300, n)]
                for n in rng.integers(0, 6, rows)
            ],
            "ts": rng.permutation(rows),
            "click": rng.integers(0, 2, rows),
        },
    )


FRAME = frame()
AT = {row: pl.col("ts") == FRAME["ts"][row] for row in (55, 777, 1234)}
"""Expressions that are true in one row."""
OPTIONS = DataOptions(min_count=2, fields={"age": {"encoding": "quantile"}})


def raw(source: Source | dict[str, Source] | None = None, **keys: object) -> RawDataset:
    files = source if isinstance(source, dict) else {"all": source or Source.from_frame(FRAME)}
    first = next(iter(files.values()))
    schema = infer_schema(first, "click", group="user", timestamp="ts")
    return RawDataset("clicks", files, schema, **keys)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def check_rows(prepared: Prepared, parts: dict[str, pl.DataFrame]) -> None:
    """Every store equals the saved pipeline applied to its raw rows."""
    assert prepared.stores.keys() == parts.keys()
    for name, rows in parts.items():
        store = prepared.stores[name]
        expected = prepared.pipeline.transform(rows)
        assert len(store) == len(rows)
        np.testing.assert_array_equal(store.ids, expected.ids)
        np.testing.assert_array_equal(store.dense, expected.dense)
        np.testing.assert_array_equal(store.label, expected.label)
        np.testing.assert_array_equal(store.group, expected.group)
        for field, (values, offsets) in expected.ragged.items():
            np.testing.assert_array_equal(store.ragged[field][0], values)
            np.testing.assert_array_equal(store.ragged[field][1], offsets)
        store.verify()


def test_given_files(tmp_path: Path) -> None:
    parts = {"train": FRAME.head(2000), "val": FRAME[2000:2500], "test": FRAME.tail(500)}
    parts["val"] = parts["val"].with_columns(item=pl.lit("only here"))
    files = {}
    for name, rows in parts.items():
        rows.write_parquet(tmp_path / f"{name}.parquet", row_group_size=333)
        files[name] = Source.open(tmp_path / f"{name}.parquet")
    prepared = prepare(raw(files), OPTIONS, tmp_path / "cache")
    check_rows(prepared, parts)
    fitted = FeaturePipeline.fit(files["train"], prepared.pipeline.schema)
    assert fitted.schema == prepared.pipeline.schema  # nothing of val or test was learnt
    assert (prepared.val.ids[:, 0] == UNSEEN).all()
    assert prepared.test.where(0) == f"{tmp_path / 'test.parquet'} row 0"


@pytest.mark.parametrize(
    "split", [RandomSplit((0.6, 0.3, 0.1), 3), TimeSplit("ts"), LeaveLastOut("user", "ts"), None]
)
def test_a_rule_splits_one_table(tmp_path: Path, split: object) -> None:
    prepared = prepare(raw(split=split), OPTIONS, tmp_path)
    positions = {name: np.asarray(store.row) for name, store in prepared.stores.items()}
    every = np.sort(np.concatenate(list(positions.values())))
    np.testing.assert_array_equal(every, np.arange(len(FRAME)))
    check_rows(prepared, {name: FRAME[rows] for name, rows in positions.items()})
    train = FeaturePipeline.fit(
        Source.from_frame(FRAME[positions["train"]]), prepared.pipeline.schema
    )
    assert train.tokens("item").to_pylist() == prepared.pipeline.tokens("item").to_pylist()
    if isinstance(split, TimeSplit):
        times = FRAME["ts"].to_numpy()
        assert times[positions["train"]].max() < times[positions["val"]].min()
        assert times[positions["val"]].max() < times[positions["test"]].min()
    assert prepared.val.where([0, 5]).startswith("<frame> rows ")


def test_a_time_column_that_is_no_input_is_there_for_row_groups_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    FRAME.write_parquet(tmp_path / "t.parquet", row_group_size=len(FRAME))
    data = raw(Source.open(tmp_path / "t.parquet"), split=TimeSplit("ts"))
    whole = prepare(data, OPTIONS, tmp_path / "whole")
    monkeypatch.setattr("recsys.data.fit.CHUNK_ROWS", 250)  # the row group is cut in pieces
    cut = prepare(data, OPTIONS, tmp_path / "cut")
    np.testing.assert_array_equal(cut.test.row, whole.test.row)


def test_a_validation_part_is_carved_out_of_train(tmp_path: Path) -> None:
    files = {"train": Source.from_frame(FRAME.head(2000)), "test": Source.from_frame(FRAME[2000:])}
    prepared = prepare(raw(files, split="options"), OPTIONS, tmp_path)
    assert len(prepared.train) + len(prepared.val) == 2000
    assert len(prepared.test) == 1000
    with pytest.raises(SchemaError, match="makes test rows, but such a file is given"):
        prepare(raw(files, split=RandomSplit()), OPTIONS, tmp_path)


def test_formats_and_chunks_change_no_byte(tmp_path: Path, monkeypatch: object) -> None:
    FRAME.write_parquet(tmp_path / "a.parquet", row_group_size=3000)
    FRAME.write_ipc(tmp_path / "a.arrow")
    one = prepare(raw(split=RandomSplit()), OPTIONS, tmp_path / "one")
    expected = contents(one.folder)
    for number, path in enumerate(("a.parquet", "a.arrow")):
        for rows in (700, 500_000):
            monkeypatch.setattr("recsys.data.fit.CHUNK_ROWS", rows)
            source = Source.open(tmp_path / path)
            cache = tmp_path / f"{number}-{rows}"
            other = contents(prepare(raw(source, split=RandomSplit()), OPTIONS, cache).folder)
            assert other.keys() == expected.keys()
            for name, data in expected.items():
                # Sums over other chunks may differ in the last bit, and the metadata name files.
                exact = name.endswith(".bin") and "dense" not in name
                if exact or "vocabulary" in name or (rows > 700 and name.endswith("dense.bin")):
                    assert other[name] == data, name


def test_twice_the_same_gives_the_same_bytes(tmp_path: Path) -> None:
    first = prepare(raw(), OPTIONS, tmp_path / "a")
    second = prepare(raw(), OPTIONS, tmp_path / "b")
    assert first.digest == second.digest
    assert contents(first.folder) == contents(second.folder)


def test_a_second_call_opens_and_rebuild_builds(tmp_path: Path) -> None:
    stages: list[str] = []

    def progress(done: int, total: int, stage: str) -> None:
        assert 0 <= done <= total == len(FRAME)
        stages.append(stage)

    first = prepare(raw(notes=("a note",), bayes={"auc": 0.9}), OPTIONS, tmp_path, progress)
    assert stages[0] == "read"
    assert stages[-1] == "write"
    stages.clear()
    second = prepare(raw(notes=("a note",), bayes={"auc": 0.9}), OPTIONS, tmp_path, progress)
    assert stages == []
    assert second.digest == first.digest
    assert second.notes == ("a note",)
    assert second.bayes == {"auc": 0.9}
    assert second.summary == first.summary
    check_rows(second, {n: FRAME[np.asarray(s.row)] for n, s in second.stores.items()})
    prepare(
        raw(notes=("a note",), bayes={"auc": 0.9}),
        dataclasses.replace(OPTIONS, rebuild=True), tmp_path, progress,
    )  # fmt: skip
    assert stages
    reopened = open_prepared(first.folder)
    assert reopened.digest == first.digest


@pytest.mark.parametrize(
    "change",
    [
        {"options": DataOptions(min_count=3)},
        {"options": DataOptions(min_count=2, nan_as_missing=True)},
        {"split": RandomSplit(seed=5)},
        {"frame": FRAME.with_columns(pl.col("age") + 1)},
    ],
)
def test_anything_that_matters_changes_the_digest(tmp_path: Path, change: dict) -> None:
    options = change.get("options", DataOptions(min_count=2))
    source = Source.from_frame(change.get("frame", FRAME))
    first = prepare(raw(split=RandomSplit()), DataOptions(min_count=2), tmp_path)
    other = prepare(raw(source, split=change.get("split", RandomSplit())), options, tmp_path)
    assert first.digest != other.digest


def test_the_summary_and_the_editable_schema(tmp_path: Path) -> None:
    prepared = prepare(raw(split=RandomSplit((1, 0, 0))), OPTIONS, tmp_path)
    rows = {row["column"]: row for row in prepared.summary}
    assert rows["price"]["missing"] == pytest.approx(FRAME["price"].null_count() / len(FRAME))
    assert rows["item"]["codes"] == prepared.pipeline.schema["item"].size
    lists = FRAME["item_history"]
    empty = (lists.is_null() | (lists.list.len() == 0)).mean()
    assert rows["item_history"]["missing"] == pytest.approx(empty)
    path = prepared.folder / "schema.yaml"
    assert Schema.load(path).names == prepared.pipeline.schema.names
    again = prepare(raw(split=RandomSplit((1, 0, 0))), DataOptions(schema=path), tmp_path / "again")
    assert again.pipeline.schema == prepared.pipeline.schema


def test_several_labels_with_gaps(tmp_path: Path) -> None:
    rows = FRAME.with_columns(buy=pl.when(pl.col("click") == 1).then(pl.col("click")))
    source = Source.from_frame(rows)
    schema = infer_schema(source, ["click", "buy"])
    data = RawDataset("two", {"train": source}, schema)
    prepared = prepare(data, DataOptions(), tmp_path)
    assert prepared.train.label.shape == (len(FRAME), 2)
    missing = np.isnan(prepared.train.label)
    assert not missing[:, 0].any()
    np.testing.assert_array_equal(missing[:, 1], rows["buy"].is_null().to_numpy())
    assert prepared.val is None


def test_nested_labels_are_filled_in_every_split_and_known_to_the_stores(tmp_path: Path) -> None:
    rows = FRAME.with_columns(
        buy=pl.when(click=1).then(pl.col("ts") % 2),
        pay=pl.when(pl.col("click") == 1, pl.col("ts") % 7 == 1).then(pl.col("ts") % 2),
    )
    source = Source.from_frame(rows)
    schema = infer_schema(source, ["click", "buy", "pay"])
    nested = dataclasses.replace(schema, nested={"buy": "click", "pay": "buy"})
    plain, filled = (
        prepare(RawDataset("nested", {"all": source}, one), DataOptions(), tmp_path)
        for one in (schema, nested)
    )
    assert plain.digest != filled.digest
    assert filled.train.schema.parents == (-1, 0, 1)
    assert Schema.load(filled.folder / "schema.yaml") == nested
    for name, store in filled.stores.items():
        click, buy, pay = np.asarray(store.label).T
        assert not np.isnan(buy).any(), name
        np.testing.assert_array_equal(buy, np.nan_to_num(plain.stores[name].label[:, 1]))
        assert (np.nan_to_num(pay[buy == 0], nan=9) == 0).all()
        np.testing.assert_array_equal(click, plain.stores[name].label[:, 0])


def test_a_label_that_only_other_splits_have_is_refused(tmp_path: Path) -> None:
    parts = {"train": FRAME.head(2000), "val": FRAME.tail(1000)}
    files = {
        name: Source.from_frame(part.with_columns(buy=pl.lit(value, pl.Int64)))
        for (name, part), value in zip(parts.items(), (None, 1), strict=True)
    }
    schema = infer_schema(files["train"], ["click", "buy"])
    with pytest.raises(SchemaError, match=r'label "buy" is missing in all 2,000 training rows'):
        prepare(RawDataset("two", files, schema), DataOptions(), tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"click": pl.lit(2)}, r'label "click" is 2 in .*t\.parquet row 0'),
        ({"click": pl.when(AT[1234]).then(None).otherwise("click")},
         r'label "click" is missing in .*t\.parquet row 1234'),
        ({"price": pl.when(AT[777]).then(float("nan")).otherwise("price")},
         r'column "price" has 1 values.*nan, between .*t\.parquet rows 777 to 777.*nan_as_missing'),
        ({"age": pl.when(AT[55]).then(float("inf")).otherwise("age")},
         r'column "age" .*inf, between .*t\.parquet rows 55 to 55'),
        ({"item": pl.lit(None, pl.String)},
         r'column "item" is null in all .* training rows.*data\.fields\.item\.kind=ignore'),
        ({"price": pl.lit(None, pl.Float64)}, r'column "price" is null in all'),
    ],
)  # fmt: skip
def test_bad_values_name_column_file_and_row_and_leave_nothing(
    tmp_path: Path, change: dict, message: str
) -> None:
    FRAME.with_columns(**change).write_parquet(tmp_path / "t.parquet", row_group_size=500)
    data = raw(Source.open(tmp_path / "t.parquet"))
    with pytest.raises(SchemaError, match=message):
        prepare(data, OPTIONS, tmp_path / "cache")
    left = [p.name for p in (tmp_path / "cache").iterdir() if not p.name.endswith(".lock")]
    assert left == []


def test_nan_as_missing(tmp_path: Path) -> None:
    rows = FRAME.with_columns(price=pl.lit(float("nan"))).with_columns(
        price=pl.when(pl.col("ts") > 50).then(1.5 * pl.col("ts")).otherwise("price")
    )
    prepared = prepare(
        raw(Source.from_frame(rows), split=RandomSplit((1, 0, 0))),
        DataOptions(nan_as_missing=True), tmp_path,
    )  # fmt: skip
    column = [f.name for f in prepared.pipeline.schema.dense].index("price")
    late = rows["ts"].to_numpy() > 50
    assert (prepared.train.dense[~late, column] == 0).all()


def test_a_split_without_training_rows(tmp_path: Path) -> None:
    rows = FRAME.with_columns(ts=pl.lit(1))
    with pytest.raises(SchemaError, match="training split has no rows"):
        prepare(raw(Source.from_frame(rows), split=TimeSplit("ts")), OPTIONS, tmp_path)


def test_options_are_checked_before_reading(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match='no column "prce"'):
        prepare(raw(), DataOptions(fields={"prce": {"kind": "ignore"}}), tmp_path)
    with pytest.raises(ConfigError, match="leave"):
        prepare(raw(), DataOptions(val_fraction=0.9, test_fraction=0.2), tmp_path)


@pytest.mark.parametrize("fail_at", [0, 10, 40, 60, 90])
def test_a_full_disk_leaves_nothing_and_the_next_try_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    real, calls = os.write, []

    def full(descriptor: int, data: object) -> int:
        calls.append(1)
        if len(calls) > fail_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr("recsys.data.fit.CHUNK_ROWS", 500)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space left"):
            prepare(raw(), OPTIONS, tmp_path)
    assert [p for p in tmp_path.iterdir() if not p.name.endswith(".lock")] == []
    assert len(prepare(raw(), OPTIONS, tmp_path).train) > 0


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from test_prepare import OPTIONS, raw
from recsys.data.prepare import prepare

def progress(done, total, stage):
    if stage == sys.argv[3] and done > 0:
        os.kill(os.getpid(), signal.SIGKILL)

prepare(raw(), OPTIONS, Path(sys.argv[2]), progress)
"""


@pytest.mark.parametrize("stage", ["read", "write"])
def test_a_kill_leaves_nothing_that_opens(tmp_path: Path, stage: str) -> None:
    here = str(Path(__file__).parent)
    done = subprocess.run([sys.executable, "-c", KILLED, here, str(tmp_path), stage], check=False)
    assert done.returncode == -signal.SIGKILL
    for path in [tmp_path, *tmp_path.rglob("*")]:
        if path.is_dir():
            with pytest.raises(SchemaError):
                Store.open(path)
            with pytest.raises(SchemaError):
                open_prepared(path)
    prepared = prepare(raw(), OPTIONS, tmp_path)
    visible = [p for p in tmp_path.iterdir() if not p.name.endswith(".lock")]
    assert visible == [prepared.folder]  # what the killed process left is gone


def _prepare_there(folder: Path, queue: object) -> None:
    queue.put(prepare(raw(), OPTIONS, folder).digest)


def test_processes_that_prepare_together_agree(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_prepare_there, args=(tmp_path, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    digests = [queue.get(timeout=100) for _ in workers]
    for worker in workers:
        worker.join()
    assert digests[0] == digests[1]
    assert len([p for p in tmp_path.iterdir() if not p.name.startswith(".")]) == 1


def test_a_damaged_store_is_not_opened(tmp_path: Path) -> None:
    prepared = prepare(raw(), OPTIONS, tmp_path)
    path = prepared.folder / "train" / "ids.bin"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(SchemaError, match=r"ids\.bin has .* truncated.*data\.rebuild=true"):
        prepare(raw(), OPTIONS, tmp_path)
