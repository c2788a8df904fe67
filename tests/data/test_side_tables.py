"""Columns of users and items become codes that only training pairs decide."""

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.interactions import Interactions
from recsys.data.pairs import Pairs
from recsys.data.schema import MISSING, UNSEEN
from recsys.data.side_tables import HISTORY, SideTable, SideTables, save_pipelines
from recsys.errors import SchemaError

USERS = pl.DataFrame({"user": [7, 9, 8], "age": [31.0, None, 20.0], "city": ["a", "b", None]})
ITEMS = pl.DataFrame(
    {
        "item": ["x", "y", "z"],
        "tags": [["t", "s"], None, ["only here"]],
        "brand": ["m", "m", "new"],
    },
    schema_overrides={"tags": pl.List(pl.String)},
)


def data() -> Interactions:
    train = pl.DataFrame({"user": [8, 7, 7], "item": ["x", "x", "y"]})
    test = pl.DataFrame({"user": [8], "item": ["z"]})
    return Interactions.of("small", train, test, users=USERS, items=ITEMS)


def test_rows_follow_the_ids_and_the_id_is_a_column() -> None:
    found = data()
    assert found.user_ids.to_pylist() == [7, 8]
    tables = SideTables.fit(found, found.train)
    users, items = tables.users, tables.items
    assert users.pipeline.schema.names == ("user", "age", "city")
    assert items.pipeline.schema.names == ("item", "tags", "brand")
    assert users.rows.ids[:, 1].tolist() == [3, MISSING]
    assert users.rows.dense[:, 0].tolist() == pytest.approx([1.0, -1.0])  # of two known ages
    values, offsets = items.rows.ragged["tags"]
    assert offsets.tolist() == [0, 2, 3, 4]
    assert values[2] == MISSING


def test_what_only_a_test_item_has_is_unseen() -> None:
    found = data()
    items = SideTables.fit(found, found.train).items
    ids = items.rows.ids[:, 0].tolist()
    assert ids[2] == UNSEEN
    assert UNSEEN not in ids[:2]
    assert items.rows.ids[2, 1] == UNSEEN
    assert items.rows.ragged["tags"][0][-1] == UNSEEN
    # A part of the training pairs may know less than all of them.
    fewer = found.train.taken(np.array([True, False, True]))
    assert SideTables.fit(found, fewer).items.rows.ids[1, 0] == UNSEEN


@pytest.mark.parametrize("names", [["brand"], ["tags"], ["item", "tags"], ["tags", "item"]])
def test_some_columns_are_those_of_the_whole(names: list[str]) -> None:
    found = data()
    whole = SideTables.fit(found, found.train).items
    part = whole.select(names)
    assert set(part.pipeline.schema.names) == set(names)
    again = part.pipeline.transform(ITEMS.select(names))
    assert np.array_equal(part.rows.ids, again.ids)
    assert set(part.rows.ragged) == set(again.ragged) == {"tags"} & set(names)
    assert whole.select(None) is whole


@pytest.mark.parametrize(
    ("names", "message"),
    [(["brnad"], 'no field "brnad".*Did you mean brand'), ([], "name some of item, tags, brand")],
)
def test_columns_that_are_not_there_are_refused(names: list[str], message: str) -> None:
    found = data()
    with pytest.raises(SchemaError, match=message):
        SideTables.fit(found, found.train).items.select(names)


def test_a_column_that_training_never_has_is_refused() -> None:
    frame = pl.DataFrame({"item": ["x", "y"], "brand": [None, "m"]})
    with pytest.raises(SchemaError, match='"brand" is null in all 1 training rows'):
        SideTable.fit(frame, np.array([True, False]), "items")


def test_saved_pipelines_encode_the_same(tmp_path: Path) -> None:
    found = data()
    before = SideTables.fit(found, found.train)
    save_pipelines(tmp_path / "p", before.users.pipeline, before.items.pipeline)
    found.save(tmp_path / "data")
    after = SideTables.load(tmp_path / "p", Interactions.load(tmp_path / "data"))
    for name in ("users", "items"):
        one, two = getattr(before, name).rows, getattr(after, name).rows
        assert np.array_equal(one.ids, two.ids)
        assert np.array_equal(one.dense, two.dense)
        for field, (values, offsets) in one.ragged.items():
            assert np.array_equal(values, two.ragged[field][0])
            assert np.array_equal(offsets, two.ragged[field][1])
    with pytest.raises(SchemaError, match="no feature pipeline"):
        SideTables.load(tmp_path / "data", found)


def test_users_may_have_the_items_of_training(tmp_path: Path) -> None:
    found = data()
    before = SideTables.fit(found, found.train, history=True)
    field = before.users.pipeline.schema[HISTORY]
    assert (field.kind, field.max_length) == ("multivalued", None)
    tokens = before.users.pipeline.tokens(HISTORY).to_pylist()
    values, offsets = before.users.rows.ragged[HISTORY]
    assert offsets.tolist() == [0, 2, 3]
    assert [tokens[code] for code in values] == ["x", "y", "x"]
    # Of the pairs that are learnt from, which may be a part.
    fewer = found.train.taken(np.array([True, False, True]))
    assert SideTables.fit(found, fewer, history=True).users.rows.ragged[HISTORY][0].size == 2
    save_pipelines(tmp_path / "p", before.users.pipeline, before.items.pipeline)
    after = SideTables.load(tmp_path / "p", found)
    assert np.array_equal(after.users.rows.ragged[HISTORY][0], values)
    named = USERS.rename({"city": HISTORY})
    rows = pl.DataFrame({"user": [7], "item": ["x"]})
    taken = Interactions.of("x", rows, users=named)
    with pytest.raises(SchemaError, match="rename yours"):
        SideTables.fit(taken, taken.train, history=True)


def test_pairs_alone_have_tables_of_ids() -> None:
    train = Pairs.of(np.array([0, 2]), np.array([1, 1]), num_users=3, num_items=2)
    tables = SideTables.of_ids(train)
    assert tables.users.pipeline.schema.names == ("user",)
    assert tables.users.rows.ids[:, 0].tolist() == [3, UNSEEN, 4]
    assert tables.items.rows.ids[:, 0].tolist() == [UNSEEN, 3]
