"""Your own users and items: any Parquet, CSV or Arrow table with a column of each.

A row is one interaction. With `rating` and `min_rating` only rows of at least that rating count;
with `timestamp` the test part is each user's last rows instead of random ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.interactions import ITEM, USER, Interactions
from recsys.data.readers import Source
from recsys.data.side_columns import columns_of_log, columns_of_table
from recsys.errors import ConfigError, SchemaError


def interactions(
    *,
    path: str | Path | list[str] | None = None,
    user: str = "user",
    item: str = "item",
    test_path: str | Path | list[str] | None = None,
    rating: str | None = None,
    min_rating: float | None = None,
    timestamp: str | None = None,
    test_fraction: float = 0.2,
    split_seed: int = 0,
    min_user: int = 1,
    min_item: int = 1,
    titles_path: str | Path | None = None,
    title: str = "title",
    user_columns: list[str] | None = None,
    item_columns: list[str] | None = None,
    users_path: str | Path | list[str] | None = None,
    items_path: str | Path | list[str] | None = None,
) -> Interactions:
    """Read the columns that are needed, keep every pair once, and hold out the test part.

    Args:
        path: File, folder, glob or list of files.
        user: Column of users, integers or strings.
        item: Column of items, integers or strings.
        test_path: Rows to test on; without it they are cut out of `path`.
        rating: Column of numbers that `min_rating` reads.
        min_rating: Lowest rating that counts as an interaction.
        timestamp: Column of times or numbers: of each user, the latest pairs are tested, and the
            latest before them are the validation part. Of a pair that is there several times the
            first time counts.
        test_fraction: Share of each user's pairs that is tested; 0 tests nothing. A user keeps at
            least one training pair.
        split_seed: Of the random choice, and of that among equal times.
        min_user: Users of fewer pairs are left out, again and again until none is left.
        min_item: Likewise for items.
        titles_path: Table with the column `item` and a title for it.
        title: Column of titles.
        user_columns: What else is known of users, for towers: columns of `users_path` (None: all of
            them), or else of `path`, with one value for all rows of a user.
        item_columns: Likewise of items.
        users_path: Table of users, a row each, with the column `user`.
        items_path: Table of items, a row each, with the column `item`.

    Raises:
        ConfigError: A value is out of range, or one needs another.
        SchemaError: A column is absent or of another type, or has several values for a user or an
            item; nothing is left.
    """
    if path is None:
        raise ConfigError("data.path is not set; give the table: data.path=<file or folder>.")
    if (rating is None) != (min_rating is None):
        raise ConfigError(
            f"data.rating={rating} and data.min_rating={min_rating} go together: the column, and "
            "the lowest value that counts. Set both, or neither."
        )
    if not 0 <= test_fraction < 1:
        raise ConfigError(f"data.test_fraction={test_fraction}; it must be at least 0, below 1.")
    if test_path is not None and timestamp is not None:
        raise ConfigError(
            "data.timestamp orders the rows of data.path to cut a test part out of them, but "
            "data.test_path gives one. Leave one of them out."
        )
    if min(min_user, min_item) < 1:
        raise ConfigError(
            f"data.min_user={min_user} and data.min_item={min_item}; both must be at least 1."
        )
    columns = {"user": user, "item": item, "rating": rating, "time": timestamp}
    frame = _read(path, columns, min_rating)
    given = None if test_path is None else _read(test_path, columns, min_rating)
    found, notes = _core(frame, min_user, min_item)
    titles = None
    if titles_path is not None:
        titles = _read(titles_path, {"item": item, "title": title}, None)
    name = Path(str(path if not isinstance(path, list) else path[0])).stem.rstrip("*") or "pairs"
    if given is None and test_fraction > 0:
        found, given = _cut(found, test_fraction, split_seed)
    logs = [path] if test_path is None else [path, test_path]
    sides = {}
    for side, column, table, names in (
        (USER, user, users_path, user_columns),
        (ITEM, item, items_path, item_columns),
    ):
        if table is not None:
            sides[side] = columns_of_table(table, side, column, names)
        elif names:
            sides[side] = columns_of_log(logs, side, column, names)
    return Interactions.of(name, found, given, titles, notes, sides.get(USER), sides.get(ITEM))


def read_pairs(
    path: str | Path | list[str], user: str = "user", item: str = "item"
) -> pl.DataFrame:
    """Columns user and item of a table, with the ids as they are.

    Raises:
        SchemaError: a column is absent.
    """
    return _read(path, {"user": user, "item": item}, None)


def _read(
    path: str | Path | list[str], columns: dict[str, str | None], min_rating: float | None
) -> pl.DataFrame:
    source = Source.open(path)
    wanted = {ours: theirs for ours, theirs in columns.items() if theirs is not None}
    source.require(list(wanted.values()))
    parts = []
    for batch in source.batches(columns=list(wanted.values())):
        table = batch.table
        frame = pl.DataFrame({ours: pl.from_arrow(table[his]) for ours, his in wanted.items()})
        if min_rating is not None:
            if not frame.schema["rating"].is_numeric():
                raise SchemaError(
                    f"the column {columns['rating']} holds {frame.schema['rating']}, but "
                    "data.min_rating compares numbers. Give another column."
                )
            frame = frame.filter(pl.col("rating") >= min_rating)
        parts.append(frame.drop("rating", strict=False))
    if not parts:
        return pl.DataFrame(schema={ours: pl.Int64 for ours in wanted if ours != "rating"})
    return pl.concat(parts)


def _core(
    frame: pl.DataFrame, min_user: int, min_item: int
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Rows whose user and item have enough different partners."""
    if min_user == min_item == 1:
        return frame, ()
    rows = frame.height
    while True:
        before = frame.height
        for column, other, least in (("user", "item", min_user), ("item", "user", min_item)):
            frame = frame.filter(pl.col(other).n_unique().over(column) >= least)
        if frame.height == before:
            break
    if not frame.height:
        raise SchemaError(
            f"no pair is left with data.min_user={min_user} and data.min_item={min_item}. Lower "
            "them."
        )
    left_out = rows - frame.height
    return frame, (
        f"{left_out:,} rows of users with fewer than {min_user} items or items with fewer than "
        f"{min_item} users are left out",
    )


def _cut(frame: pl.DataFrame, share: float, seed: int) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Of each user floor(share * n + uniform) pairs for the test, at least one for training."""
    timed = "time" in frame.columns
    if timed:
        pairs = frame.group_by("user", "item").agg(pl.col("time").min())
    else:
        pairs = frame.select("user", "item").unique()
    pairs = pairs.drop_nulls().sort("user", "item")
    rng = np.random.default_rng(seed)
    users = pairs.group_by("user", maintain_order=True).agg(n=pl.len())
    sizes = users["n"].to_numpy()
    wanted = np.floor(share * sizes + rng.random(len(sizes))).astype(np.int64)
    users = users.with_columns(wanted=np.minimum(wanted, sizes - 1))
    pairs = pairs.with_columns(order=rng.random(pairs.height))
    pairs = pairs.sort(["user", *(["time"] if timed else []), "order"], descending=False)
    pairs = pairs.with_columns(rank=pl.int_range(pl.len()).over("user"))
    pairs = pairs.join(users, on="user", how="left", maintain_order="left")
    tested = pairs["rank"] >= pairs["n"] - pairs["wanted"]
    return pairs.filter(~tested), pairs.filter(tested)
