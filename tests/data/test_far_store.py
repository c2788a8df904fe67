"""A far store gives the rows of a near one, and fetches the blocks that it needs."""

import os
from pathlib import Path

import numpy as np
import pytest

from recsys.data import far_store
from recsys.data.far_store import FarStore
from recsys.data.loader import Loader
from recsys.data.prepare import Prepared, prepare
from recsys.data.remote import Place
from recsys.data.shared import publish
from recsys.data.store import Store
from recsys.errors import SchemaError
from tests.data.test_prepare import FRAME, OPTIONS, raw


@pytest.fixture
def near(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prepared:
    monkeypatch.setattr(far_store, "BLOCK_ROWS", 64)
    return prepare(raw(), OPTIONS, tmp_path / "near")


def far(near: Prepared, tmp_path: Path, name: str = "cache") -> FarStore:
    place = Place.of(f"file://{tmp_path}/there")
    if not (tmp_path / "there").exists():
        publish(near.folder, place)
    return FarStore.open_far(place / "train", tmp_path / name)


def test_rows_and_arrays_are_those_of_the_near_store(near: Prepared, tmp_path: Path) -> None:
    store = far(near, tmp_path)
    assert repr(store) == repr(near.train)
    rows = np.random.default_rng(0).integers(0, len(store), 90)
    for some in (rows[:1], rows, rows[:0], np.arange(len(store))):
        one, same = store.gather(some), near.train.gather(some)
        for name in ("ids", "dense", "label", "group", "row"):
            assert getattr(one, name).equal(getattr(same, name)), name
        for field, lists in same.ragged.items():
            assert one.ragged[field].values.equal(lists.values)
            assert one.ragged[field].offsets.equal(lists.offsets)
    with pytest.raises(IndexError):
        store.gather([len(store)])


@pytest.mark.parametrize("name", ["ids", "dense", "label", "group", "row", "ragged"])
def test_a_whole_array_is_whole(near: Prepared, tmp_path: Path, name: str) -> None:
    store = far(near, tmp_path)
    store.gather([3, 700])
    expected, found = getattr(near.train, name), getattr(store, name)
    if name != "ragged":
        np.testing.assert_array_equal(found, expected)
        return
    for field, arrays in expected.items():
        np.testing.assert_array_equal(found[field][0], arrays[0])
        np.testing.assert_array_equal(found[field][1], arrays[1])
    assert store.weight is None


def test_only_the_blocks_of_the_rows_come_and_only_once(near: Prepared, tmp_path: Path) -> None:
    store = far(near, tmp_path)
    store.gather([0, 63, 64])
    assert store._whole.sum() == 2
    once = store.fetched_bytes
    whole = sum(path.stat().st_size for path in (near.folder / "train").glob("*.bin"))
    assert 0 < once < whole / 8
    store.gather([5, 100])
    assert store.fetched_bytes == once
    again = far(near, tmp_path)  # another process, or a later run
    again.gather([0, 63, 64])
    assert again.fetched_bytes == 0
    store.verify()
    assert store.fetched_bytes <= whole + 64 * 8


def test_each_rank_reads_its_part(near: Prepared, tmp_path: Path) -> None:
    whole = len(near.train)
    batches = []
    for rank in range(2):
        store = far(near, tmp_path, f"rank-{rank}")
        store.regional = True
        loader = Loader(store, 200, shuffle=True, rank=rank, world_size=2)
        batches.append([batch.row.numpy() for batch in loader])
        assert store._whole.mean() < 0.75
    plain = Loader(near.train, 200, shuffle=True)
    for one, other, both in zip(*batches, plain, strict=True):
        assert one.max() < other.min()
        np.testing.assert_array_equal(np.concatenate([one, other]), np.sort(both.row.numpy()))
    assert sum(len(one) for ones in batches for one in ones) == whole


def test_what_is_here_in_part_is_no_store(near: Prepared, tmp_path: Path) -> None:
    far(near, tmp_path).gather([1])
    with pytest.raises(SchemaError, match="no complete store"):
        Store.open(tmp_path / "cache")


def test_damage_and_absence_are_said(near: Prepared, tmp_path: Path) -> None:
    store = far(near, tmp_path)
    ids = tmp_path / "there/train/ids.bin"
    data = bytearray(ids.read_bytes())
    data[-1] ^= 1
    ids.write_bytes(bytes(data))
    with pytest.raises(SchemaError, match=r"ids\.bin is corrupted"):
        store.verify()
    other = far(near, tmp_path, "second")
    ids.write_bytes(bytes(data[:100]))
    with pytest.raises(SchemaError, match=r"there/train/ids\.bin cannot be reached.*in place of"):
        other.gather([len(other) - 1])
    os.remove(ids)
    with pytest.raises(SchemaError, match=r"there/train/ids\.bin cannot be reached"):
        far(near, tmp_path, "third").gather([0])
    with pytest.raises(SchemaError, match=r"nowhere.* cannot be reached"):
        FarStore.open_far(Place.of(f"file://{tmp_path}/nowhere"), tmp_path / "fourth")
    assert not (tmp_path / "fourth").exists()
    assert len(FRAME) > len(store)
