"""Find a data set's files in a folder, or fetch them from their official place and verify them."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from recsys.data.atomic import atomic_folder
from recsys.data.readers import Source
from recsys.errors import ConfigError, SchemaError

TIMEOUT_S = 30


@dataclass(frozen=True)
class Download:
    """One file at its official address.

    Args:
        url: Address.
        name: Name it gets.
        md5: Of the file as it is served; None where no checksum was published.
        members: For a ZIP archive: path inside to the name it gets; the archive is not kept.
    """

    url: str
    name: str
    md5: str | None = None
    members: Mapping[str, str] = field(default_factory=dict)


def cache_folder(dataset: str) -> Path:
    """Where a data set is downloaded and converted: `$XDG_CACHE_HOME/recsys/<data set>`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "recsys" / dataset


def open_folder(dataset: str, source: str | Path | None, downloads: Sequence[Download]) -> Path:
    """The folder with a data set's files: the one given, or one that is downloaded once.

    Args:
        dataset: Its name, that of the recipe.
        source: What the user gave as `data.source`.
        downloads: All of its files; none when it cannot be had without an account.

    Raises:
        ConfigError: The folder does not exist, or the official place cannot be reached.
        SchemaError: What was downloaded is not what was published.
    """
    if source is not None:
        folder = Path(source).expanduser()
        if not folder.is_dir():
            raise ConfigError(f"data.source={source} is not a folder; give that of {dataset}.")
        return folder
    folder = cache_folder(dataset) / "files"
    if folder.is_dir():
        return folder
    if not downloads:
        raise ConfigError(
            f"data={dataset} cannot be downloaded without an account. Give the folder that holds "
            "it: data.source=<folder>."
        )
    with atomic_folder(folder) as partial:
        for download in downloads:
            _fetch(dataset, download, partial)
    return folder


def open_given_folder(dataset: str, source: str | Path | None, files: Sequence[str]) -> Path:
    """The folder that the user gave, of a data set without an official address of its files.

    Raises:
        ConfigError: None was given, or it does not exist; the message names the files.
    """
    if source is None:
        raise ConfigError(
            f"data={dataset} is not downloaded. Put {' and '.join(files)} (or .gz) into a folder "
            "and give it: data.source=<folder>."
        )
    return open_folder(dataset, source, ())


def _fetch(dataset: str, download: Download, folder: Path) -> None:
    target = folder / download.name
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with (
            urllib.request.urlopen(download.url, timeout=TIMEOUT_S) as reply,
            target.open("wb") as out,
        ):
            while block := reply.read(1 << 20):
                digest.update(block)
                out.write(block)
    except OSError as error:
        raise ConfigError(
            f"data={dataset}: {download.url} cannot be fetched ({error}). Download it elsewhere "
            "and give the folder: data.source=<folder>."
        ) from error
    if download.md5 is not None and digest.hexdigest() != download.md5:
        raise SchemaError(
            f"data={dataset}: {download.url} has the checksum {digest.hexdigest()}, published is "
            f"{download.md5}. Try again, or give a folder you trust: data.source=<folder>."
        )
    if download.members:
        try:
            with zipfile.ZipFile(target) as archive:
                for inside, name in download.members.items():
                    with archive.open(inside) as member, (folder / name).open("wb") as out:
                        shutil.copyfileobj(member, out)
        except (zipfile.BadZipFile, KeyError) as error:
            raise SchemaError(
                f"data={dataset}: {download.url} is not the archive that was published ({error})."
            ) from error
        target.unlink()


def find(dataset: str, folder: Path, *names: str) -> Path:
    """The first of some files that is there, plain or with `.gz`.

    Raises:
        SchemaError: None of them is there; the message lists what is.
    """
    for name in names:
        for file in (folder / name, folder / f"{name}.gz"):
            if file.is_file():
                return file
    there = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())
    shown = ", ".join(there[:12]) + (", ..." if len(there) > 12 else "")
    raise SchemaError(
        f"data={dataset} needs {' or '.join(names)} (or .gz) in {folder}, which holds "
        f"{shown or 'nothing'}. Set data.source to the folder of the data set."
    )


def read_bytes(file: Path) -> bytes:
    """What a file holds, unpacked when its name ends in `.gz`.

    Raises:
        SchemaError: It cannot be read or unpacked.
    """
    try:
        return gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise SchemaError(f"{file} cannot be read: {error}. Download it again.") from error


def check_count(dataset: str, what: str, found: int, published: int) -> None:
    """Raise a SchemaError when a count is not the published one.

    Example:
        >>> check_count("frappe", "rows of the test split", 28_859, 28_860)
        Traceback (most recent call last):
        recsys.errors.SchemaError: data=frappe has 28,859 rows of the test split, published are ...
    """
    if found != published:
        raise SchemaError(
            f"data={dataset} has {found:,} {what}, published are {published:,}. The file is "
            "incomplete or another version; download it again, or read your own files with "
            "data=parquet."
        )


def check_splits(
    dataset: str, folder: Path, files: Mapping[str, Source], published: Mapping[str, int]
) -> None:
    """Raise a SchemaError when the splits have not the published numbers of rows."""
    found = {split: source.num_rows for split, source in files.items()}
    if found != published:
        raise SchemaError(
            f"data={dataset} has {_counts(found)} in {folder}, published are {_counts(published)}. "
            "Download it again, or set data.check_rows=false for rows of your own choice."
        )


def _counts(rows: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} rows ({split})" for split, count in rows.items())
