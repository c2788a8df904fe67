"""Amazon Beauty, Sports and Toys: is this the next thing a person reviews (McAuley et al. 2015).

The 5-core review sequences of S3-Rec (Zhou et al., CIKM 2020, arXiv:2008.07873), repository
RUCAIBox/CIKM2020-S3Rec, folder data; no licence is stated there. Ids are renumbered from 1; times
are not published, only the order.

The protocol is that of Deep Interest Network (Zhou et al., KDD 2018, Section 6.1):

* every position of a person's sequence but the first is predicted from those before it;
* the last position tests, the one before it validates, all earlier ones train;
* each gives two rows of the same history: the next item (label 1), and one drawn uniformly from the
  items that the person reviews nowhere in the sequence (label 0).

The files give an item several attributes: its brand where that is frequent, then its category paths
from top to bottom. The category of an item is the last of them, the end of its last path, as in the
Amazon files of the DIN authors; it is the brand where an item has nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.datasets.files import check_count, find, open_given_folder, read_bytes
from recsys.data.histories import MAX_LENGTH, with_histories
from recsys.data.negatives import draw_untouched
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.errors import ConfigError, SchemaError, did_you_mean


@dataclass(frozen=True)
class Published:
    """Stem of the files, and what they hold."""

    stem: str
    users: int
    items: int
    actions: int


SETS = {
    "beauty": Published("Beauty", 22_363, 12_101, 198_502),
    "sports": Published("Sports_and_Outdoors", 35_598, 18_357, 296_337),
    "toys": Published("Toys_and_Games", 19_412, 11_924, 167_597),
}
POSITIONS = ("all", "last")
MIN_ACTIONS = 4
"""Shorter sequences have no position that trains; the published ones have five or more."""


def build(
    *,
    name: str = "beauty",
    source: str | Path | None = None,
    positions: str = "all",
    user: bool = False,
    history_length: int = MAX_LENGTH,
    seed: int = 0,
) -> RawDataset:
    """Turn review sequences into rows of item, category and the two histories.

    Args:
        name: `beauty`, `sports` or `toys`.
        source: Folder with `<set>.txt` and `<set>_item2attributes.json`, plain or gzipped.
        positions: `all` positions that train, or only the `last` of each person.
        user: Whether the user is an input; it always groups the metrics.
        history_length: Items kept per history, the latest.
        seed: Of the negatives.

    Raises:
        ConfigError: An option is not allowed, or `source` is no folder.
        SchemaError: A file is absent, or its counts are not those published.
    """
    for key, value, allowed in (("name", name, tuple(SETS)), ("positions", positions, POSITIONS)):
        if value not in allowed:
            raise ConfigError(f"data.{key}={value} is not a choice.{did_you_mean(value, allowed)}")
    data = f"amazon_{name}"
    stem = SETS[name].stem
    files = (f"{stem}.txt", f"{stem}_item2attributes.json")
    folder = open_given_folder(data, source, files)
    file = find(data, folder, files[0])
    log = sequences(file)
    for what, found, count in (
        ("people", log["user"].n_unique(), SETS[name].users),
        ("items", log["item"].n_unique(), SETS[name].items),
        ("reviews", log.height, SETS[name].actions),
    ):
        check_count(data, what, found, count)
    kinds = categories(find(data, folder, files[1]))
    log = log.join(kinds, on="item", how="left", maintain_order="left")
    rows = _rows(log, kinds, positions, history_length, seed)
    return RawDataset(
        name=data,
        files={
            split: Source.from_frame(part.drop("split"), f"{file} ({split})")
            for (split,), part in rows.partition_by("split", as_dict=True).items()
        },
        schema=_schema(user, history_length),
    )


def sequences(file: Path) -> pl.DataFrame:
    """Columns user, item and position (from 0), in the order of the file."""
    try:
        lines = [np.array(line.split(), np.int64) for line in read_bytes(file).splitlines() if line]
    except ValueError as error:
        raise SchemaError(f"{file} is no file of sequences: {error}.") from error
    lengths = np.array([len(line) - 1 for line in lines])
    short = np.flatnonzero(lengths < MIN_ACTIONS)
    if short.size or not lines:
        raise SchemaError(
            f"{file} has {short.size} people with fewer than {MIN_ACTIONS} reviews, the first in "
            f"line {short[0] + 1 if short.size else 1}; it must hold `user item item ...` per line."
        )
    return pl.DataFrame(
        {
            "user": np.repeat([line[0] for line in lines], lengths),
            "item": np.concatenate([line[1:] for line in lines]),
            "position": np.concatenate([np.arange(length) for length in lengths]),
        }
    )


def categories(file: Path) -> pl.DataFrame:
    """Columns item and category: the last attribute of each item, null where it has none."""
    try:
        raw = json.loads(read_bytes(file))
        pairs = [(int(item), int(some[-1]) if some else None) for item, some in raw.items()]
    except (ValueError, AttributeError, TypeError, KeyError) as error:
        raise SchemaError(f"{file} is no file of item attributes: {error}.") from error
    return pl.DataFrame(pairs, {"item": pl.Int64, "category": pl.Int64}, orient="row")


def _rows(
    log: pl.DataFrame, kinds: pl.DataFrame, positions: str, history_length: int, seed: int
) -> pl.DataFrame:
    """Two rows for every position that is predicted, in the order of the log."""
    log = with_histories(
        log,
        {"history": "item", "category_history": "category"},
        user="user",
        time="position",
        max_length=history_length,
    )
    left = pl.len().over("user") - 1 - pl.col("position")
    split = pl.when(left == 0).then(pl.lit("test")).when(left == 1).then(pl.lit("val"))
    keep = (left <= 2) if positions == "last" else pl.lit(value=True)
    positive = log.with_columns(split=split.otherwise(pl.lit("train"))).filter(
        (pl.col("position") > 0) & keep
    )
    items = kinds["item"].sort()
    code = {"old": items, "new": pl.Series(range(len(items)), dtype=pl.Int64)}
    codes = log["item"].replace_strict(code["old"], code["new"]).to_numpy()
    users = log["user"].to_numpy()
    drawn = draw_untouched(positive["user"].to_numpy(), users, codes, len(items), seed)
    negative = positive.with_columns(item=items.gather(drawn)).drop("category")
    negative = negative.join(kinds, on="item", how="left", maintain_order="left")
    pairs = [
        part.select(*positive.columns, label=pl.lit(label, pl.Int8))
        for part, label in ((positive, 1), (negative, 0))
    ]
    order = np.arange(2 * positive.height).reshape(2, -1).T.ravel()  # each pair side by side
    return pl.concat(pairs)[order].drop("position")


def _schema(user: bool, history_length: int) -> Schema:
    def field(name: str, kind: Kind, **keys: object) -> Field:
        return Field(name=name, kind=kind, encoding=Encoding.VOCABULARY, dtype="int", **keys)  # type: ignore[arg-type]

    fields = [field("user", Kind.CATEGORICAL)] if user else []
    fields += [field("item", Kind.CATEGORICAL), field("category", Kind.CATEGORICAL)]
    for name, shares in (("history", "item"), ("category_history", "category")):
        fields.append(field(name, Kind.HISTORY, shares=shares, max_length=history_length))
    return Schema(tuple(fields), ("label",), group="user")
