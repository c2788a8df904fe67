"""Stores: rows come back exactly, and nothing half-written opens."""

import errno
import json
import os
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.data.encode import EncodedTable
from recsys.data.schema import Field, Schema
from recsys.data.store import Store, StoreWriter
from recsys.errors import SchemaError

NUM_ROWS = 1000


def coded(name: str, size: int = 50, **keys: object) -> Field:
    return Field(name=name, kind="categorical", encoding="vocabulary", size=size, **keys)


SCHEMA = Schema(
    fields=(
        coded("a"),
        coded("b"),
        Field(name="x", kind="numeric", encoding="log"),
        Field(name="h", kind="history", encoding="vocabulary", shares="a", size=50),
        Field(name="t", kind="multivalued", encoding="vocabulary", size=50),
    ),
    labels=("click", "buy"),
    weight="w",
    group="u",
)


def table(rows: int = NUM_ROWS, seed: int = 0) -> EncodedTable:
    rng = np.random.default_rng(seed)

    def lists() -> tuple[np.ndarray, np.ndarray]:
        lengths = rng.integers(0, 5, rows)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return rng.integers(1, 50, offsets[-1]).astype(np.int32), offsets

    return EncodedTable(
        ids=rng.integers(0, 50, (rows, 2)).astype(np.int32),
        dense=rng.normal(size=(rows, 1)).astype(np.float32),
        ragged={"h": lists(), "t": lists()},
        label=rng.integers(0, 2, (rows, 2)).astype(np.float32),
        weight=rng.random(rows).astype(np.float32),
        group=rng.integers(-5, 5, rows),
    )


def write(path: Path, rows: EncodedTable, chunk: int = 300, **keys: object) -> Store:
    with StoreWriter(path, SCHEMA, "train", "d", [("a.csv", 400), ("b.csv", 600)], **keys) as w:
        for start in range(0, len(rows), chunk):
            picked = np.arange(start, min(start + chunk, len(rows)))
            w.append(rows.take(picked), picked * 1 if keys.get("picked") else None)
    return Store.open(path)


def same_rows(batch: object, rows: EncodedTable, index: np.ndarray) -> None:
    np.testing.assert_array_equal(batch.ids, rows.ids[index])
    np.testing.assert_array_equal(batch.dense, rows.dense[index])
    np.testing.assert_array_equal(batch.label, rows.label[index])
    np.testing.assert_array_equal(batch.weight, rows.weight[index])
    np.testing.assert_array_equal(batch.group, rows.group[index])
    np.testing.assert_array_equal(batch.row, index)
    for name, (values, offsets) in rows.ragged.items():
        ragged = batch.ragged[name]
        expected = [values[offsets[i] : offsets[i + 1]].tolist() for i in index]
        cuts = ragged.offsets.tolist()
        found = [ragged.values[a:b].tolist() for a, b in pairwise(cuts)]
        assert found == expected


@pytest.mark.parametrize("chunk", [1, 300, 1000])
def test_rows_come_back_in_any_order(tmp_path: Path, chunk: int) -> None:
    rows = table(200 if chunk == 1 else NUM_ROWS)
    store = write(tmp_path / "s", rows, chunk)
    assert len(store) == store.num_rows == len(rows)
    assert store.schema == SCHEMA
    assert (store.split, store.digest) == ("train", "d")
    rng = np.random.default_rng(1)
    for index in (
        np.arange(len(rows)), rng.permutation(len(rows)), rng.integers(0, len(rows), 50),
        np.array([7]), np.array([], np.int64),
    ):  # fmt: skip
        batch = store.gather(index)
        same_rows(batch, rows, index)
    assert batch.ids.shape == (0, 2)
    assert store.gather(np.array([3])).ids.dtype == torch.int32
    store.verify()


def test_gather_copies_and_the_file_is_never_changed(tmp_path: Path) -> None:
    rows = table()
    store = write(tmp_path / "s", rows)
    store.gather(np.arange(10)).ids.fill_(0)
    store.ids[0] = 0  # copy-on-write memory of this process
    same_rows(Store.open(tmp_path / "s").gather(np.arange(10)), rows, np.arange(10))


def test_arrays_are_mapped_not_read(tmp_path: Path) -> None:
    store = write(tmp_path / "s", table())
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("needs /proc to see memory maps")
    assert str(store.path / "ids.bin") in maps.read_text()


def test_a_position_outside_is_an_index_error(tmp_path: Path) -> None:
    store = write(tmp_path / "s", table())
    for bad in (-1, NUM_ROWS):
        with pytest.raises((IndexError, RuntimeError)):
            store.gather(np.array([bad]))


def test_where_names_file_and_row(tmp_path: Path) -> None:
    store = write(tmp_path / "s", table())
    assert store.where(0) == "a.csv row 0"
    assert store.where(400) == "b.csv row 0"
    assert store.where([405, 401, 999]) == "b.csv rows 1 to 599"
    assert store.where([399, 400]) == "a.csv row 399 to b.csv row 0"
    with pytest.raises(IndexError):
        store.where(1000)


def test_where_follows_picked_rows(tmp_path: Path) -> None:
    rows = table(10)
    files = [("a.csv", 400), ("b.csv", 600)]
    with StoreWriter(tmp_path / "s", SCHEMA, files=files, picked=True) as writer:
        writer.append(rows, np.arange(10) * 100)
    store = Store.open(tmp_path / "s")
    assert store.where(3) == "a.csv row 300"
    assert store.where([4, 9]) == "b.csv rows 0 to 500"


@pytest.mark.parametrize("bad", [50, -1])
@pytest.mark.parametrize("where", ["ids", "h"])
def test_a_code_outside_its_table_is_refused(tmp_path: Path, bad: int, where: str) -> None:
    rows = table()
    if where == "ids":
        rows.ids[5, 1] = bad
    else:
        rows.ragged["h"][0][5] = bad
    name = "b" if where == "ids" else "h"
    with pytest.raises(SchemaError, match=rf'field "{name}" has code {bad}, but .* 50 codes'):
        write(tmp_path / "s", rows)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("change", [-4, 4])
def test_a_file_of_the_wrong_size_does_not_open(tmp_path: Path, change: int) -> None:
    store = write(tmp_path / "s", table())
    path = store.path / "dense.bin"
    data = path.read_bytes()
    path.write_bytes(data[:change] if change < 0 else data + bytes(change))
    with pytest.raises(SchemaError, match=r"dense\.bin has .* bytes, but .* need 4,000"):
        Store.open(store.path)


def test_a_changed_byte_fails_verification(tmp_path: Path) -> None:
    store = write(tmp_path / "s", table())
    path = store.path / "label.bin"
    data = bytearray(path.read_bytes())
    data[17] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(SchemaError, match=r"label\.bin is corrupted"):
        Store.open(store.path).verify()


@pytest.mark.parametrize("name", ["meta.json", "ids.bin", "ragged_1_offsets.bin"])
def test_a_missing_file_does_not_open(tmp_path: Path, name: str) -> None:
    store = write(tmp_path / "s", table())
    (store.path / name).unlink()
    with pytest.raises(SchemaError, match=r"data\.rebuild=true"):
        Store.open(store.path)


def test_another_version_does_not_open(tmp_path: Path) -> None:
    store = write(tmp_path / "s", table())
    meta = json.loads((store.path / "meta.json").read_text())
    (store.path / "meta.json").write_text(json.dumps({**meta, "version": 99}))
    with pytest.raises(SchemaError, match="version 99"):
        Store.open(store.path)


@pytest.mark.parametrize("fail_at", [0, 3, 8, 30])
def test_a_full_disk_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fail_at: int
) -> None:
    real, calls = os.write, []

    def full(descriptor: int, data: object) -> int:
        calls.append(1)
        if len(calls) > fail_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "s", table())
    assert list(tmp_path.iterdir()) == []


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, memoryview(data)[:1000]))
    rows = table()
    store = write(tmp_path / "s", rows)
    same_rows(store.gather(np.arange(NUM_ROWS)), rows, np.arange(NUM_ROWS))


def test_an_error_of_the_caller_leaves_nothing(tmp_path: Path) -> None:
    def stopped() -> None:
        with StoreWriter(tmp_path / "s", SCHEMA) as writer:
            writer.append(table())
            raise KeyError("stop")

    with pytest.raises(KeyError):
        stopped()
    assert list(tmp_path.iterdir()) == []


def test_before_close_nothing_opens_and_after_it_replaces(tmp_path: Path) -> None:
    write(tmp_path / "s", table(seed=1))
    writer = StoreWriter(tmp_path / "s", SCHEMA)
    writer.append(table(seed=2))
    (partial,) = [p for p in tmp_path.iterdir() if p.name != "s"]
    with pytest.raises(SchemaError, match="no complete store"):
        Store.open(partial)
    same_rows(Store.open(tmp_path / "s").gather(np.arange(9)), table(seed=1), np.arange(9))
    writer.close()
    same_rows(Store.open(tmp_path / "s").gather(np.arange(9)), table(seed=2), np.arange(9))
    assert [p.name for p in tmp_path.iterdir()] == ["s"]


def test_rows_without_a_label_are_refused(tmp_path: Path) -> None:
    rows = table()
    bare = EncodedTable(rows.ids, rows.dense, rows.ragged)
    with pytest.raises(SchemaError, match="come without label"):
        write(tmp_path / "s", bare)


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "s", table(), chunk=100)
    write(tmp_path / "t", table(), chunk=777)
    for file in sorted((tmp_path / "s").iterdir()):
        assert file.read_bytes() == (tmp_path / "t" / file.name).read_bytes(), file.name


def test_a_store_without_fields_of_a_kind(tmp_path: Path) -> None:
    schema = Schema(fields=(coded("a"),), labels=("click",))
    rows = EncodedTable(np.ones((4, 1), np.int32), np.empty((4, 0), np.float32), label=np.ones(4))
    with StoreWriter(tmp_path / "s", schema) as writer:
        writer.append(rows)
    batch = Store.open(tmp_path / "s").gather(np.array([2, 0]))
    assert batch.dense.shape == (2, 0)
    assert batch.label.shape == (2,)
    assert batch.weight is None
    assert batch.group is None
    assert batch.ragged == {}
