"""Prepared data behind an address: put there once, opened by every machine."""

import dataclasses
from pathlib import Path

import pytest

from recsys.data.loader import Loader
from recsys.data.prepare import open_prepared, prepare
from recsys.data.remote import Place
from recsys.data.shared import fetch_description, is_published, publish
from recsys.errors import SchemaError
from tests.data.object_store import ObjectStore
from tests.data.test_prepare import FRAME, OPTIONS, contents, raw
from tests.data.test_remote import bucket  # noqa: F401

SHARED = dataclasses.replace(OPTIONS, store="s3://b/prepared")


def test_the_first_machine_puts_and_the_others_read(bucket: ObjectStore, tmp_path: Path) -> None:  # noqa: F811
    first = prepare(raw(), SHARED, tmp_path / "first")
    name = first.folder.name
    there = {key.removeprefix(f"b/prepared/{name}/"): data for key, data in bucket.objects.items()}
    assert there == contents(first.folder)
    bucket.sent.clear()
    other = prepare(raw(), SHARED, tmp_path / "other")
    assert sum(n for key, n in bucket.sent.items() if key.endswith(".bin")) == 0
    assert other.pipeline.digest() == first.pipeline.digest()
    assert other.summary == first.summary
    assert other.train.regional
    assert first.train.regional  # they share batches out alike
    batches = [list(Loader(data.train, 100, shuffle=True)) for data in (first, other)]
    for one, same in zip(*batches, strict=True):
        assert one.ids.equal(same.ids)
        assert one.dense.equal(same.dense)
        assert one.label.equal(same.label)
        assert one.group.equal(same.group)
        assert one.ragged["item_history"].values.equal(same.ragged["item_history"].values)
    for store in other.stores.values():
        store.verify()
    bucket.sent.clear()
    prepare(raw(), SHARED, tmp_path / "other").train.gather([0, 5])
    assert not any(key.endswith(".bin") for key in bucket.sent)  # it was fetched already


def test_a_folder_that_all_machines_see(tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, store=str(tmp_path / "shared"))
    first = prepare(raw(), options, tmp_path / "first")
    assert first.folder.parent == tmp_path / "shared"
    assert prepare(raw(), options, tmp_path / "other").folder == first.folder
    assert not (tmp_path / "other").exists()


def test_what_was_prepared_before_is_put_there_too(tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, store="memory://before")
    prepared = prepare(raw(), OPTIONS, tmp_path)
    place = Place.of("memory://before") / prepared.folder.name
    assert not is_published(place)
    prepare(raw(), options, tmp_path)
    assert is_published(place)


def test_an_upload_that_stopped_halfway_counts_as_absent(tmp_path: Path) -> None:
    prepared = prepare(raw(), OPTIONS, tmp_path)
    place = Place.of("memory://half") / "data"
    publish(prepared.folder / "train", place / "train")
    assert not is_published(place)
    with pytest.raises(SchemaError, match=r"memory://half/data.* cannot be reached"):
        fetch_description(place, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
    publish(prepared.folder, place)
    fetch_description(place, tmp_path / "copy")
    assert is_published(place)
    with pytest.raises(SchemaError):
        open_prepared(tmp_path / "copy")  # its rows are far
    assert len(FRAME) == 3000
