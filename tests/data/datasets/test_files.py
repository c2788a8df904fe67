"""Finding and fetching files: what is verified, and what is told when it fails."""

from __future__ import annotations

import gzip
import hashlib
import zipfile
from pathlib import Path

import polars as pl
import pytest

from recsys.data.datasets.files import (
    Download,
    cache_folder,
    check_count,
    check_splits,
    find,
    open_folder,
    read_bytes,
)
from recsys.data.readers import Source
from recsys.errors import ConfigError, SchemaError


@pytest.fixture
def served(tmp_path: Path) -> Path:
    """A folder that plays the official place, by file addresses."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.txt").write_text("alpha")
    with zipfile.ZipFile(folder / "b.zip", "w") as archive:
        archive.writestr("inner/b.txt", "beta")
    return folder


def md5(file: Path) -> str:
    return hashlib.md5(file.read_bytes()).hexdigest()


def test_downloads_once_verifies_and_unpacks(served: Path, cache: Path) -> None:
    a, b = served / "a.txt", served / "b.zip"
    downloads = (
        Download(a.as_uri(), "a.txt", md5(a)),
        Download(b.as_uri(), "b.zip", md5(b), {"inner/b.txt": "b.txt"}),
    )
    folder = open_folder("demo", None, downloads)
    assert folder == cache / "demo" / "files"
    assert {p.name: p.read_text() for p in folder.iterdir()} == {"a.txt": "alpha", "b.txt": "beta"}
    a.unlink()  # not asked for again
    assert open_folder("demo", None, downloads) == folder


@pytest.mark.parametrize(
    ("download", "error", "told"),
    [
        (("a.txt", "a.txt", "0" * 32), SchemaError, f"published is {'0' * 32}"),
        (("none.txt", "none.txt"), ConfigError, "give the folder: data.source="),
        (("a.txt", "a.zip", None, {"x": "x"}), SchemaError, "not the archive"),
        (("b.zip", "b.zip", None, {"x": "x"}), SchemaError, "not the archive"),
    ],
)
def test_a_failed_download_leaves_nothing(
    served: Path, cache: Path, download: tuple, error: type[Exception], told: str
) -> None:
    name, *rest = download
    good = Download((served / "a.txt").as_uri(), "good.txt")
    bad = Download((served / name).as_uri(), *rest)
    with pytest.raises(error, match=told):
        open_folder("demo", None, (good, bad))
    assert list((cache / "demo").iterdir()) == []


def test_an_unreachable_place_is_named() -> None:
    download = Download("http://127.0.0.1:9/x.zip", "x.zip")  # the discard port: nobody answers
    with pytest.raises(ConfigError, match=r"http://127\.0\.0\.1:9/x\.zip cannot be fetched"):
        open_folder("demo", None, (download,))


def test_what_cannot_be_downloaded_says_so() -> None:
    with pytest.raises(ConfigError, match="without an account"):
        open_folder("demo", None, ())


def test_a_source_must_be_a_folder(tmp_path: Path) -> None:
    assert open_folder("demo", str(tmp_path), ()) == tmp_path
    with pytest.raises(ConfigError, match="is not a folder"):
        open_folder("demo", tmp_path / "absent", ())


def test_cache_folder_follows_the_environment(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder("demo") == cache / "demo"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder("demo") == Path.home() / ".cache" / "recsys" / "demo"


def test_find_takes_the_first_name_plain_or_packed(tmp_path: Path) -> None:
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"packed"))
    assert find("demo", tmp_path, "a.txt", "b.txt") == tmp_path / "b.txt.gz"
    (tmp_path / "a.txt").write_text("plain")
    assert find("demo", tmp_path, "a.txt", "b.txt") == tmp_path / "a.txt"
    with pytest.raises(SchemaError, match=r"needs c\.txt \(or \.gz\).*holds a\.txt, b\.txt\.gz"):
        find("demo", tmp_path, "c.txt")


def test_read_bytes_unpacks_and_refuses_damage(tmp_path: Path) -> None:
    packed = tmp_path / "a.gz"
    packed.write_bytes(gzip.compress(b"some text" * 100))
    assert read_bytes(packed) == b"some text" * 100
    for content in (packed.read_bytes()[:-12], b"no archive", packed.read_bytes()[:30] + b"xx" * 9):
        packed.write_bytes(content)
        with pytest.raises(SchemaError, match=r"a\.gz cannot be read"):
            read_bytes(packed)
    with pytest.raises(SchemaError, match="cannot be read"):
        read_bytes(tmp_path / "absent")


def test_counts_are_compared_exactly() -> None:
    check_count("demo", "rows", 5, 5)
    with pytest.raises(SchemaError, match="has 1,004 rows, published are 1,005"):
        check_count("demo", "rows", 1004, 1005)
    files = {"train": Source.from_frame(pl.DataFrame({"a": [1, 2]}))}
    check_splits("demo", Path("x"), files, {"train": 2})
    with pytest.raises(SchemaError, match=r"has 2 rows \(train\) in x, published are 3 rows"):
        check_splits("demo", Path("x"), files, {"train": 3})
