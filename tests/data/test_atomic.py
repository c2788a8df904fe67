"""Folders and files are whole or absent."""

import os
from pathlib import Path

import numpy as np
import pytest

from recsys.data.atomic import atomic_folder, write_all, write_text_whole


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "f") as partial:
        (partial / "a").write_text("1")
        assert not (tmp_path / "deep" / "f").exists()
    assert (tmp_path / "deep" / "f" / "a").read_text() == "1"
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["f"]


def test_an_error_leaves_the_old_folder(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "f") as partial:
        (partial / "a").write_text("old")

    def fail() -> None:
        with atomic_folder(tmp_path / "f") as partial:
            (partial / "a").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert (tmp_path / "f" / "a").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_a_folder_is_replaced(tmp_path: Path) -> None:
    for text in ("old", "new"):
        with atomic_folder(tmp_path / "f") as partial:
            (partial / text).write_text(text)
    assert [p.name for p in (tmp_path / "f").iterdir()] == ["new"]
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


@pytest.mark.parametrize(
    "data", [b"abc", memoryview(b"abc"), np.arange(6).reshape(2, 3).T, np.empty((0, 4))]
)
def test_every_byte_is_written(tmp_path: Path, data: object) -> None:
    with (tmp_path / "f").open("wb") as handle:
        count = write_all(handle.fileno(), data)
    expected = data.tobytes() if isinstance(data, np.ndarray) else bytes(data)
    assert (tmp_path / "f").read_bytes() == expected
    assert count == len(expected)


def test_text_is_replaced_in_one_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_text_whole(tmp_path / "t", "old")

    def fail(*_: object) -> None:
        raise OSError("no rename")

    monkeypatch.setattr(os, "replace", fail)
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no rename"):
        write_text_whole(tmp_path / "t", "new")
    assert (tmp_path / "t").read_text() == "old"
