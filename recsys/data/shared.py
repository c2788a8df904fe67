"""Prepared data that several machines share: put behind an address once, read from it by all."""

from __future__ import annotations

import shutil
from pathlib import Path

from pyarrow import fs as pafs

from recsys.data.atomic import move_into_place, temporary_sibling
from recsys.data.remote import Place, reaching

COPY_BYTES = 1 << 24
LAST = "prepared.json"
"""Written when all else is there: without it, a folder counts as absent."""


def is_published(place: Place) -> bool:
    """Whether prepared data are there, whole.

    Raises:
        SchemaError: the address cannot be reached.
    """
    return (place / LAST).info().type is pafs.FileType.File


def publish(folder: Path, place: Place) -> None:
    """Copy prepared data behind an address, file by file.

    Args:
        folder: What `recsys.data.prepare` wrote.
        place: Folder that is to hold the same.

    Raises:
        SchemaError: the address cannot be reached, or not be written to.
    """
    names = sorted(
        (str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
        key=lambda name: (name == LAST, name),
    )
    for name in names:
        there = place / name
        with reaching(there.address), (folder / name).open("rb") as source:
            if not isinstance(there.filesystem, pafs.S3FileSystem):
                there.filesystem.create_dir(there.path.rpartition("/")[0], recursive=True)
            with there.filesystem.open_output_stream(there.path) as sink:
                while block := source.read(COPY_BYTES):
                    sink.write(block)


def fetch_description(place: Place, folder: Path) -> None:
    """Bring all but the rows: the pipeline, the schema, the summary. Nothing where it is here.

    Args:
        place: Folder with published data.
        folder: Local folder, to hold what comes.
    """
    if (folder / LAST).exists():
        return
    partial = temporary_sibling(folder)
    partial.mkdir(parents=True)
    try:
        (partial / "pipeline").mkdir()
        for one in [place / "schema.yaml", *(place / "pipeline").below(), place / LAST]:
            (partial / one.address.removeprefix(f"{place.address}/")).write_bytes(one.read())
        move_into_place(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
