"""One line per user: what is read, and which files are refused."""

import dataclasses
from pathlib import Path

import pytest

from recsys.data.datasets.adjacency import Published, read_adjacency
from recsys.data.interactions import Interactions
from recsys.errors import SchemaError

SMALL = Published("small", users=3, items=4, train=5, test=2, downloads=())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "train.txt").write_text("0 2 1 \n1 3\n2 0 1\n")
    (tmp_path / "test.txt").write_text("0 0\n1\n2 3\n")
    return tmp_path


def named(data: Interactions) -> dict[str, set[tuple[object, object]]]:
    users, items = data.user_ids.to_pylist(), data.item_ids.to_pylist()
    assert data.test is not None
    return {
        part: {(users[u], items[i]) for u, i in zip(pairs.users, pairs.items, strict=True)}
        for part, pairs in (("train", data.train), ("test", data.test))
    }


def test_lines_become_pairs(folder: Path) -> None:
    assert named(read_adjacency(SMALL, folder)) == {
        "train": {(0, 1), (0, 2), (1, 3), (2, 0), (2, 1)},
        "test": {(0, 0), (2, 3)},
    }


def test_lines_may_be_in_order_of_time(folder: Path) -> None:
    assert read_adjacency(SMALL, folder).order is None
    order = read_adjacency(dataclasses.replace(SMALL, in_time=True), folder).order
    assert order is not None
    assert order.argsort().tolist() == [1, 0, 2, 3, 4]  # user 0 had item 2 before item 1


def test_original_ids_come_back(folder: Path) -> None:
    (folder / "user_list.txt").write_text("org_id remap_id\nu two 2\nzero 0\none 1\n")
    (folder / "item_list.txt").write_text("org_id remap_id\n500 0\n7 1\n6 2\n100 3\n")
    assert named(read_adjacency(SMALL, folder))["train"] == {
        ("zero", 7), ("zero", 6), ("one", 100), ("u two", 500), ("u two", 7),
    }  # fmt: skip


@pytest.mark.parametrize("text", ["org_id remap_id\na 0\nb 1\n", "org_id remap_id\na x\n"])
def test_a_broken_list_of_ids_is_refused(folder: Path, text: str) -> None:
    (folder / "user_list.txt").write_text(text)
    with pytest.raises(SchemaError, match="no list of `org_id remap_id`"):
        read_adjacency(SMALL, folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": 6}, "5 train pairs, published are 6"),
        ({"test": 3}, "2 test pairs, published are 3"),
        ({"users": 4}, "3 users, published are 4"),
        ({"items": 5}, "4 items, published are 5"),
    ],
)
def test_other_counts_are_refused(folder: Path, change: dict[str, int], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        read_adjacency(dataclasses.replace(SMALL, **change), folder)


def test_other_files_are_refused(folder: Path) -> None:
    (folder / "train.txt").write_text("0 one\n")
    with pytest.raises(SchemaError, match="lines `user item item"):
        read_adjacency(SMALL, folder)
    (folder / "train.txt").unlink()
    with pytest.raises(SchemaError, match=r"needs train\.txt"):
        read_adjacency(SMALL, folder)
