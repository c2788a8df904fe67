"""User-item pairs with the ids that people know them by: the data of collaborative filtering.

Letters   U users, I items.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.atomic import atomic_folder
from recsys.data.pairs import Pairs
from recsys.errors import CheckpointError, SchemaError

FORMAT = {"format": "recsys-interactions", "version": 1}
USER, ITEM = "user", "item"
"""Columns of ids; what is known besides of users or items has other names."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """Which user has which item, to learn from and to test on.

    Users and items are coded by their positions in `user_ids` and `item_ids`. An item that only
    the test pairs have is part of the catalogue: no model can know it but by its columns, so that
    every such pair is a miss. A user that only the test pairs have cannot be served at all, and is
    left out and counted.

    Args:
        name: Short name of the data set.
        user_ids: [U] external ids, int64 or string.
        item_ids: [I] external ids, int64 or string.
        train: Pairs to learn from.
        test: Pairs to be found, none of them in `train`; None where nothing is to be tested.
        titles: [I] what to print for an item, string; None where there is nothing but the id.
        notes: Sentences printed with every run.
        order: [E] place of each training pair in time, larger is later; None where it is not known,
            or the test pairs are not later ones.
        user_columns: U rows of what else is known of users, one column each; None for nothing.
        item_columns: I rows likewise.
    """

    name: str
    user_ids: pa.Array
    item_ids: pa.Array
    train: Pairs
    test: Pairs | None = None
    titles: pa.Array | None = None
    notes: tuple[str, ...] = ()
    order: np.ndarray | None = None
    user_columns: pl.DataFrame | None = None
    item_columns: pl.DataFrame | None = None

    def __post_init__(self) -> None:
        if not len(self.train):
            raise SchemaError(
                f"{self.name} has no training pair: the graph is empty. Give a table with at least "
                "one user and item, or a smaller data.min_rating."
            )

    @classmethod
    def of(
        cls,
        name: str,
        train: pl.DataFrame,
        test: pl.DataFrame | None = None,
        titles: pl.DataFrame | None = None,
        notes: tuple[str, ...] = (),
        users: pl.DataFrame | None = None,
        items: pl.DataFrame | None = None,
    ) -> Interactions:
        """Code the ids of some rows; what was repeated, missing or left out becomes a note.

        Args:
            name: Short name of the data set.
            train: Columns `user` and `item`, integers or strings, in any order; `time`, anything
                that can be sorted, where it is known. A pair has its first time.
            test: The same columns.
            titles: Columns `item` and `title`.
            notes: Sentences printed with every run.
            users: Column `user` and what else is known of users, a row each; those without a pair
                are left out.
            items: Column `item` likewise.

        Raises:
            SchemaError: an id column is neither integers nor strings, or not the same in all
                tables, or there is no pair; a user or an item has two rows in its table.
        """
        told = list(notes)
        parts = {"train": train} if test is None else {"train": train, "test": test}
        kinds = {part: _kinds(name, part, frame) for part, frame in parts.items()}
        if len(set(kinds.values())) > 1:
            raise SchemaError(
                f"{name}: user and item ids are {_pair(kinds['train'])} in the training pairs and "
                f"{_pair(kinds['test'])} in the test pairs. Store them with one type."
            )
        kept = {}
        for part, frame in parts.items():
            frame = frame.select("user", "item", *(["time"] if "time" in frame.columns else []))
            kept[part] = frame.drop_nulls(["user", "item"])
            if missing := frame.height - kept[part].height:
                told.append(f"{missing:,} {part} rows without a user or an item are left out")
        if "test" in kept:
            known = kept["test"].join(kept["train"], on="user", how="semi")
            if cold := kept["test"].height - known.height:
                lost = kept["test"].join(kept["train"], on="user", how="anti")["user"].n_unique()
                told.append(
                    f"{cold:,} test rows of {lost:,} users without a training pair are left out"
                )
            kept["test"] = known
        user_ids = kept["train"]["user"].unique().sort()
        item_ids = pl.concat([frame["item"] for frame in kept.values()]).unique().sort()
        coded = {
            part: Pairs.of(
                _codes(frame["user"], user_ids),
                _codes(frame["item"], item_ids),
                len(user_ids),
                len(item_ids),
            )
            for part, frame in kept.items()
        }
        for part, frame in kept.items():
            if repeated := frame.height - len(coded[part]):
                told.append(f"{repeated:,} repeated {part} pairs count once")
        found = coded.get("test")
        if found is not None:
            seen = coded["train"].contains(found.users, found.items)
            if seen.any():
                told.append(f"{int(seen.sum()):,} test pairs are training pairs and are left out")
                found = found.taken(~seen)
            unknown = int((coded["train"].item_degrees[found.items] == 0).sum())
            if unknown:
                miss = "always a miss" if items is None else "a miss unless their columns are read"
                told.append(f"{unknown:,} test pairs are of items without a training pair: {miss}")
        named = None
        if titles is not None:
            table = titles.unique("item", keep="first").select("item", pl.col("title"))
            order = pl.DataFrame({"item": item_ids}).join(
                table, on="item", how="left", maintain_order="left"
            )
            named = order["title"].cast(pl.String).to_arrow().cast(pa.string())
        columns = (
            None if users is None else _columns_of(name, USER, users, user_ids, told),
            None if items is None else _columns_of(name, ITEM, items, item_ids, told),
        )
        return cls(
            name,
            _ids(user_ids),
            _ids(item_ids),
            coded["train"],
            found,
            named,
            tuple(told),
            _first_times(kept["train"], user_ids, item_ids),
            *columns,
        )

    @property
    def num_users(self) -> int:
        """U."""
        return self.train.num_users

    @property
    def num_items(self) -> int:
        """I."""
        return self.train.num_items

    def pairs_of(self, frame: pl.DataFrame) -> tuple[Pairs, tuple[str, ...]]:
        """New pairs of the users and items that are known here, and what was left out of them.

        Args:
            frame: Columns `user` and `item`.

        Raises:
            SchemaError: the ids are of another type, or none of the pairs is known.
        """
        known = {
            "user": pl.Series(self.user_ids.to_pylist()),
            "item": pl.Series(self.item_ids.to_pylist()),
        }
        own = pl.DataFrame({name: ids.head(1) for name, ids in known.items()})
        kinds = _kinds(self.name, "known", own), _kinds(self.name, "new", frame)
        if kinds[0] != kinds[1]:
            raise SchemaError(
                f"the model knows users and items by {_pair(kinds[0])}, but the new pairs have "
                f"{_pair(kinds[1])}. Store them with the same types."
            )
        coded = frame.select(
            pl.Series(name, _codes(frame[name].cast(ids.dtype), ids)) for name, ids in known.items()
        )
        inside = coded.fill_nan(None).drop_nulls() if coded.height else coded
        if not inside.height:
            raise SchemaError(
                f"none of the {frame.height:,} new pairs has a user and an item that the model "
                "knows. Check that the ids are those of training."
            )
        pairs = Pairs.of(
            inside["user"].to_numpy().astype(np.int64),
            inside["item"].to_numpy().astype(np.int64),
            self.num_users,
            self.num_items,
        )
        left_out = frame.height - inside.height
        notes = []
        if left_out:
            notes.append(f"{left_out:,} new pairs of unknown users or items are left out")
        if repeated := inside.height - len(pairs):
            notes.append(f"{repeated:,} repeated new pairs count once")
        return pairs, tuple(notes)

    def digest(self, columns: bool = False) -> str:
        """Of ids and pairs: the same data gives the same text, whatever file it came in.

        Args:
            columns: Of what else is known of users and items as well, for models that read it.
        """
        state = hashlib.sha256()
        for ids in (self.user_ids, self.item_ids):
            for chunk in pa.chunked_array([ids]).to_pylist():
                state.update(str(chunk).encode() + b"\0")
        for pairs in (self.train, self.test):
            if pairs is not None:
                state.update(np.ascontiguousarray(pairs.offsets).tobytes())
                state.update(np.ascontiguousarray(pairs.items).tobytes())
        for frame in (self.user_columns, self.item_columns) if columns else ():
            for column in () if frame is None else frame.get_columns():
                state.update(f"{column.name}\0{column.to_list()}\0".encode())
        return state.hexdigest()[:16]

    def with_test(self, share: float, seed: int) -> Interactions:
        """A random share of every user's training pairs as the test pairs."""
        left, out = self.train.split(share, seed)
        return replace(self, train=left, test=out, order=None)  # what is found is not the latest

    def held_out(self, share: float, seed: int) -> tuple[Pairs, Pairs]:
        """A validation part of the training pairs that is like the test pairs: the latest of every
        user where `order` is given, else random ones.

        Returns:
            What is left, and what was held out.
        """
        return self.train.split(share, seed, self.order)

    def counts(self) -> str:
        """What every number of this data is printed with.

        Example:
            >>> frame = pl.DataFrame({"user": [1, 1, 2], "item": ["a", "b", "a"]})
            >>> Interactions.of("three", frame).counts()
            '2 users, 2 items, 3 train pairs'
        """
        text = (
            f"{self.num_users:,} users, {self.num_items:,} items, {len(self.train):,} train pairs"
        )
        return text if self.test is None else f"{text}, {len(self.test):,} test pairs"

    def save(self, folder: Path) -> None:
        """Write ids, columns and training pairs (not the test pairs) into a new folder, at once or
        not at all: what a saved model needs to name users and items, and to leave out what is
        known."""
        with atomic_folder(folder) as partial:
            pq.write_table(pa.table({"id": self.user_ids}), partial / "users.parquet")
            items = {"id": self.item_ids}
            if self.titles is not None:
                items["title"] = self.titles
            pq.write_table(pa.table(items), partial / "items.parquet")
            pairs = {"user": pa.array(self.train.users), "item": pa.array(self.train.items)}
            pq.write_table(pa.table(pairs), partial / "train.parquet")
            for name, frame in ((USER, self.user_columns), (ITEM, self.item_columns)):
                if frame is not None:
                    frame.write_parquet(partial / f"{name}_columns.parquet")
            card = FORMAT | {"name": self.name, "notes": list(self.notes)}
            (partial / "interactions.json").write_text(json.dumps(card, indent=1))

    @classmethod
    def load(cls, folder: Path) -> Interactions:
        """What `save` wrote.

        Raises:
            CheckpointError: the folder does not hold it.
        """
        try:
            card = json.loads((folder / "interactions.json").read_text())
            if {key: card.get(key) for key in FORMAT} != FORMAT:
                raise CheckpointError(
                    f"{folder} is not of version {FORMAT['version']}. Train the model again."
                )
            users = pq.read_table(folder / "users.parquet")
            items = pq.read_table(folder / "items.parquet")
            pairs = pq.read_table(folder / "train.parquet")
            files = [folder / f"{name}_columns.parquet" for name in (USER, ITEM)]
            columns = [pl.read_parquet(file) if file.exists() else None for file in files]
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder} holds no user-item pairs: {error}") from error
        return cls(
            card["name"],
            users["id"].combine_chunks(),
            items["id"].combine_chunks(),
            Pairs.of(
                pairs["user"].to_numpy(), pairs["item"].to_numpy(), users.num_rows, items.num_rows
            ),
            None,
            items["title"].combine_chunks() if "title" in items.column_names else None,
            tuple(card["notes"]),
            None,
            *columns,
        )


def _columns_of(
    name: str, side: str, table: pl.DataFrame, ids: pl.Series, told: list[str]
) -> pl.DataFrame:
    """The columns of a table of users or items in the order of ids; null where it has no row."""
    own = pl.DataFrame({side: ids})
    if ids.dtype.is_integer() != table.schema[side].is_integer():
        raise SchemaError(
            f"{name}: {side}s are {ids.dtype} in the pairs, but {table.schema[side]} in their own "
            "table. Store them with one type."
        )
    table = table.with_columns(pl.col(side).cast(ids.dtype)).drop_nulls(side)
    twice = table.filter(pl.col(side).is_duplicated())
    if twice.height:
        raise SchemaError(
            f"{name}: {side} {twice[side][0]!r} has more than one row in the table of {side}s "
            f"({twice[side].n_unique():,} such). Leave one row for each."
        )
    if lacking := own.join(table, on=side, how="anti").height:
        told.append(f"{lacking:,} {side}s have no row in the table of {side}s: nothing is known")
    return own.join(table, on=side, how="left", maintain_order="left").drop(side)


def _first_times(
    frame: pl.DataFrame, user_ids: pl.Series, item_ids: pl.Series
) -> np.ndarray | None:
    """Rank of the first time of each pair, [E] in the order of the pairs, 0 where a row has none;
    None without a column of times."""
    if "time" not in frame.columns:
        return None
    times = frame["time"].rank("dense").fill_null(0).to_numpy().astype(np.int64)
    keys = _codes(frame["user"], user_ids) * len(item_ids) + _codes(frame["item"], item_ids)
    by_key = np.lexsort((times, keys))
    _, first = np.unique(keys[by_key], return_index=True)
    earliest: np.ndarray = times[by_key][first]
    return earliest


def _kinds(name: str, part: str, frame: pl.DataFrame) -> tuple[str, str]:
    found = []
    for column in ("user", "item"):
        kind = frame.schema[column]
        if kind.is_integer():
            found.append("integers")
        elif kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum):
            found.append("strings")
        else:
            raise SchemaError(
                f"{name}: the {column} column of the {part} pairs holds {kind}; ids are integers "
                "or strings. Store it as one of them."
            )
    return found[0], found[1]


def _pair(kinds: tuple[str, str]) -> str:
    return f"{kinds[0]} and {kinds[1]}"


def _codes(values: pl.Series, ids: pl.Series) -> np.ndarray:
    """Positions of values among sorted distinct ids that hold all of them."""
    table = pl.DataFrame({"id": ids, "code": np.arange(len(ids), dtype=np.int64)})
    joined = pl.DataFrame({"id": values}).join(table, on="id", how="left", maintain_order="left")
    return joined["code"].to_numpy()


def _ids(values: pl.Series) -> pa.Array:
    plain = values.cast(pl.Int64) if values.dtype.is_integer() else values.cast(pl.String)
    kind = pa.int64() if values.dtype.is_integer() else pa.string()
    return plain.to_arrow().cast(kind)
