"""Files with one line per user, `user item item ...`: the published splits of graph recommenders.

The numbers of the papers were made with these very files, so their counts are asserted.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.datasets.files import Download, check_count, find, open_folder, read_bytes
from recsys.data.interactions import Interactions
from recsys.errors import SchemaError

SPLITS = ("train", "test")


@dataclass(frozen=True)
class Published:
    """Name of the recipe, and what its files hold."""

    name: str
    users: int
    items: int
    train: int
    test: int
    downloads: tuple[Download, ...]
    in_time: bool = False
    """Whether the items of a line are in order of time, and the test pairs are each user's last.

    The papers call their splits random, but files may tell otherwise: items that stand close to
    each other in a line are more alike than distant ones, and test items are most like those at
    the line's end. The validation part is then made of each line's last items.
    """


def read_adjacency(published: Published, source: str | Path | None) -> Interactions:
    """The train and test pairs of a folder with `train.txt` and `test.txt`.

    Where `user_list.txt` and `item_list.txt` lie beside them (a header, then `org_id remap_id`),
    users and items get their original ids back; else the ids are those of the files.

    Raises:
        SchemaError: a file is absent, is no such file, or has other counts than the published ones.
    """
    name = published.name
    folder = open_folder(name, source, published.downloads)
    frames = {part: _read_lists(name, find(name, folder, f"{part}.txt")) for part in SPLITS}
    for part, size in (("train", published.train), ("test", published.test)):
        check_count(name, f"{part} pairs", frames[part].height, size)
    for column, size in (("user", published.users), ("item", published.items)):
        names = _original_ids(name, folder / f"{column}_list.txt", size)
        if names is not None:
            frames = {
                part: frame.with_columns(pl.Series(column, names[frame[column].to_numpy()]))
                for part, frame in frames.items()
            }
    if published.in_time:
        frames["train"] = frames["train"].with_row_index("time")
    found = Interactions.of(name, frames["train"], frames["test"])
    check_count(name, "users", found.num_users, published.users)
    check_count(name, "items", found.num_items, published.items)
    return found


def _read_lists(name: str, file: Path) -> pl.DataFrame:
    """Columns user and item, a row per pair."""
    try:
        rows = [np.array(line.split(), np.int64) for line in read_bytes(file).splitlines()]
    except ValueError as error:
        raise SchemaError(
            f"data={name}: {file} is not made of lines `user item item ...` ({error}). Download it "
            "again."
        ) from error
    rows = [row for row in rows if len(row)]
    users = np.repeat(np.array([row[0] for row in rows], np.int64), [len(r) - 1 for r in rows])
    items = np.concatenate([np.array([], np.int64), *(row[1:] for row in rows)])
    return pl.DataFrame({"user": users, "item": items})


def _original_ids(name: str, file: Path, size: int) -> np.ndarray | None:
    """External id of each code, where the file is there."""
    there = [path for path in (file, file.with_suffix(".txt.gz")) if path.is_file()]
    if not there:
        return None
    lines = [line.rsplit(" ", 1) for line in read_bytes(there[0]).decode().splitlines()[1:] if line]
    try:
        codes = np.array([int(code) for _, code in lines])
        if not np.array_equal(np.sort(codes), np.arange(size)):
            raise ValueError(f"its codes are not 0 to {size - 1}")
    except ValueError as error:
        raise SchemaError(
            f"data={name}: {there[0]} is no list of `org_id remap_id` ({error}). Download it "
            "again, or take it away to have the ids of the pairs' own file."
        ) from error
    ids = np.array([text for text, _ in lines])[np.argsort(codes)]
    numbers = all(text.isdigit() and len(text) < 19 for text, _ in lines)
    return ids.astype(np.int64) if numbers else ids
