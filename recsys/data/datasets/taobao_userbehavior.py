"""Taobao UserBehavior: is this the next new item that a person views (Zhu et al., KDD 2018).

Alibaba's log of views, carts, favourites and purchases, 25 November to 3 December 2017, from
tianchi.aliyun.com/dataset/649 (with an account; its terms apply). The file has no header: user,
item, category, behaviour, time in seconds. Both the whole file (100,150,807 rows) and its published
first 84,476 rows are known; rows are kept in memory, so the whole file wants a large machine.

The protocol is this recipe's own; no published figure applies:

* rows outside the nine days (China time, UTC+8), a few wrong clocks, are left out;
* a row with label 1 is a view of an item that the person had not viewed before (`repeats=true`:
  any view), after at least one other view;
* beside it stands a row with label 0: the same moment and history, and an item drawn uniformly from
  those of the log that the person never touches in any way, with the category of its first row;
* a history holds the items viewed strictly before that moment, whether new or not;
* the last day tests, the day before validates, the days before train.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.datasets.files import find, open_given_folder, read_bytes
from recsys.data.histories import MAX_LENGTH, with_histories
from recsys.data.negatives import draw_untouched
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.data.split import TimeSplit
from recsys.errors import SchemaError

NAME = "taobao_userbehavior"
FILE = "UserBehavior.csv"
ROWS = (84_476, 100_150_807)
"""Rows of the files that are known: the published head, and the whole."""
COLUMNS = {
    "user": pl.Int64,
    "item": pl.Int64,
    "category": pl.Int64,
    "behaviour": pl.String,
    "timestamp": pl.Int64,
}
BEHAVIOURS = ("pv", "cart", "fav", "buy")
DAY = 86_400
START = 1_511_539_200
"""2017-11-25 00:00 in China, in seconds."""
DAYS = 9


def build(
    *,
    source: str | Path | None = None,
    repeats: bool = False,
    user: bool = False,
    history_length: int = MAX_LENGTH,
    seed: int = 0,
    check_rows: bool = True,
) -> RawDataset:
    """Turn the log into rows of item, category and the two histories.

    Args:
        source: Folder with `UserBehavior.csv`, plain or gzipped.
        repeats: Also label views of an item that the person had viewed before. Such an item stands
            in its own history, and no negative does: a model need only look.
        user: Whether the user is an input; it always groups the metrics.
        history_length: Views kept per history, the latest.
        seed: Of the negatives.
        check_rows: Refuse a file with another number of rows than those known.

    Raises:
        ConfigError: `source` is no folder, or an option is not allowed.
        SchemaError: The file is absent, or is not this log.
    """
    file = find(NAME, open_given_folder(NAME, source, (FILE,)), FILE)
    log = read_log(file)
    if check_rows and log.height not in ROWS:
        raise SchemaError(
            f"data={NAME} has {log.height:,} rows in {file}; known are "
            f"{' and '.join(f'{rows:,}' for rows in ROWS)}. Download it again, or set "
            "data.check_rows=false for rows of your own choice."
        )
    log = log.filter(pl.col("timestamp").is_between(START, START + DAYS * DAY, closed="left"))
    rows = _rows(log, repeats, history_length, seed)
    return RawDataset(
        name=NAME,
        files={"all": Source.from_frame(rows, str(file))},
        schema=_schema(user, history_length),
        split=TimeSplit("timestamp", cuts=(START + (DAYS - 2) * DAY, START + (DAYS - 1) * DAY)),
    )


def read_log(file: Path) -> pl.DataFrame:
    """Columns user, item, category, behaviour and timestamp, in the order of the file."""
    try:
        log = pl.read_csv(read_bytes(file), has_header=False, schema=COLUMNS)
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{file} is not the Taobao log: {error}") from error
    unknown = set(log["behaviour"].unique()) - set(BEHAVIOURS)
    if unknown:
        raise SchemaError(
            f"{file} has the behaviours {sorted(map(str, unknown))}; known are "
            f"{', '.join(BEHAVIOURS)}."
        )
    return log


def _rows(log: pl.DataFrame, repeats: bool, history_length: int, seed: int) -> pl.DataFrame:
    """Two rows for every view that is predicted, in the order of the log."""
    views = with_histories(
        log.filter(behaviour="pv"),
        {"history": "item", "category_history": "category"},
        user="user",
        time="timestamp",
        max_length=history_length,
    )
    asked = pl.col("history").list.len() > 0
    if not repeats:
        asked &= pl.col("timestamp") == pl.col("timestamp").min().over("user", "item")
    positive = views.filter(asked).drop("behaviour")
    items = log.unique("item", keep="first", maintain_order=True).select("item", "category")
    codes = items.with_row_index("code")
    coded = log.join(codes.select("item", "code"), on="item", how="left", maintain_order="left")
    drawn = draw_untouched(
        positive["user"].to_numpy(),
        log["user"].to_numpy(),
        coded["code"].cast(pl.Int64).to_numpy(),
        items.height,
        seed,
    )
    negative = positive.with_columns(
        item=items["item"].gather(drawn), category=items["category"].gather(drawn)
    )
    pairs = [
        part.with_columns(label=pl.lit(label, pl.Int8))
        for part, label in ((positive, 1), (negative, 0))
    ]
    order = np.arange(2 * positive.height).reshape(2, -1).T.ravel()  # each pair side by side
    return pl.concat(pairs)[order]


def _schema(user: bool, history_length: int) -> Schema:
    def field(name: str, kind: Kind, **keys: object) -> Field:
        return Field(name=name, kind=kind, encoding=Encoding.VOCABULARY, dtype="int", **keys)  # type: ignore[arg-type]

    fields = [field("user", Kind.CATEGORICAL)] if user else []
    fields += [field("item", Kind.CATEGORICAL), field("category", Kind.CATEGORICAL)]
    for name, shares in (("history", "item"), ("category_history", "category")):
        fields.append(field(name, Kind.HISTORY, shares=shares, max_length=history_length))
    return Schema(tuple(fields), ("label",), group="user", timestamp="timestamp")
