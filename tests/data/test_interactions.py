"""Ids become codes, and what is odd about the pairs is counted and told."""

from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from recsys.data.interactions import Interactions
from recsys.errors import CheckpointError, SchemaError


def frame(*pairs: tuple[object, object]) -> pl.DataFrame:
    return pl.DataFrame({"user": [u for u, _ in pairs], "item": [i for _, i in pairs]})


def named(data: Interactions, part: str) -> set[tuple[object, object]]:
    pairs = getattr(data, part)
    users, items = data.user_ids.to_pylist(), data.item_ids.to_pylist()
    return {(users[u], items[i]) for u, i in zip(pairs.users, pairs.items, strict=True)}


@pytest.mark.parametrize(
    "users", [["zoe", "ann", "\u00fc \n"], [2**62, -5, 2**31 + 1]], ids=["strings", "large"]
)
def test_external_ids_go_in_and_come_out(users: list[object]) -> None:
    rows = [(users[0], "b"), (users[1], "a"), (users[2], "a"), (users[0], "c")]
    data = Interactions.of("x", frame(*rows), frame((users[1], "b")))
    assert named(data, "train") == set(rows)
    assert named(data, "test") == {(users[1], "b")}
    assert data.user_ids.type in (pa.int64(), pa.string())
    assert data.counts() == "3 users, 3 items, 4 train pairs, 1 test pairs"
    assert data.notes == ()


def test_order_and_repeats_do_not_matter() -> None:
    rows = [(1, 5), (2, 5), (1, 7), (3, 9)]
    data = Interactions.of("x", frame(*rows))
    again = Interactions.of("x", frame(*reversed(rows), rows[0]))
    assert again.digest() == data.digest()
    assert again.notes == ("1 repeated train pairs count once",)
    assert Interactions.of("x", frame(*rows[:3])).digest() != data.digest()


def test_the_validation_part_is_the_latest_where_times_are_known() -> None:
    rows = frame((1, 5), (1, 7), (1, 6), (2, 7), (2, 5), (1, 5), (2, 6))
    times = ["d", "b", "c", "b", "a", "a", None]  # 5 of user 1 came again; 6 of user 2 no one knows
    data = Interactions.of("x", rows.with_columns(time=pl.Series(times)))
    assert data.order is not None
    assert data.order.tolist() == [1, 3, 2, 1, 0, 2]  # (1, 5) (1, 6) (1, 7) (2, 5) (2, 6) (2, 7)
    for seed in range(3):
        left, held = data.held_out(0.5, seed)
        out = {(u, i) for u, i in zip(held.users.tolist(), held.items.tolist(), strict=True)}
        # One or two of three: 6 comes first of user 1, 7 of user 2.
        assert {(0, 1), (1, 2)} <= out
        assert out <= {(0, 1), (0, 2), (1, 2), (1, 0)}
        assert len(left) + len(held) == 6
    assert data.with_test(0.5, 0).order is None  # random pairs are tested, and so held out
    anyhow = Interactions.of("x", rows)
    assert anyhow.order is None
    assert anyhow.digest() == data.digest()


def test_what_cannot_be_served_is_counted() -> None:
    train = frame((1, 10), (1, 11), (2, 10), (None, 10))
    test = frame((1, 10), (1, 12), (2, 11), (3, 10), (3, 11), (2, None))
    data = Interactions.of("x", train, test)
    assert named(data, "test") == {(1, 12), (2, 11)}  # 12 is in no training pair: a sure miss
    assert data.num_items == 3
    assert data.num_users == 2
    assert data.notes == (
        "1 train rows without a user or an item are left out",
        "1 test rows without a user or an item are left out",
        "2 test rows of 1 users without a training pair are left out",
        "1 test pairs are training pairs and are left out",
        "1 test pairs are of items without a training pair: always a miss",
    )


def test_columns_follow_the_ids() -> None:
    rows = frame((1, "b"), (2, "a"), (3, "b"))
    users = pl.DataFrame({"user": [3, 5, 1], "age": [30, 50, 10]})
    items = pl.DataFrame({"item": ["b", "a"], "tags": [["x"], []]})
    data = Interactions.of("x", rows, users=users, items=items)
    assert data.user_columns is not None
    assert data.item_columns is not None
    assert data.user_columns.to_dict(as_series=False) == {"age": [10, None, 30]}
    assert data.item_columns.to_dict(as_series=False) == {"tags": [[], ["x"]]}
    assert data.notes == ("1 users have no row in the table of users: nothing is known",)
    plain = Interactions.of("x", rows)
    assert data.digest() == plain.digest() == plain.digest(columns=True)
    assert data.digest(columns=True) != data.digest()
    other = Interactions.of("x", rows, users=users, items=items.with_columns(tags=pl.lit("x")))
    assert other.digest(columns=True) != data.digest(columns=True)


@pytest.mark.parametrize(
    ("users", "message"),
    [
        (pl.DataFrame({"user": [1, 1], "age": [3, 4]}), "user 1 has more than one row"),
        (pl.DataFrame({"user": ["1"], "age": [3]}), "users are Int64 in the pairs, but String"),
    ],
)
def test_a_table_of_users_must_fit_the_pairs(users: pl.DataFrame, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Interactions.of("x", frame((1, 2)), users=users)


def test_titles_follow_the_items() -> None:
    titles = pl.DataFrame({"item": [11, 10, 99], "title": ["eleven", "ten", "none"]})
    data = Interactions.of("x", frame((1, 10), (1, 11), (2, 12)), titles=titles)
    assert data.titles is not None
    assert data.titles.to_pylist() == ["ten", "eleven", None]


def test_saved_and_loaded(tmp_path: Path) -> None:
    titles = pl.DataFrame({"item": ["a"], "title": ["A"]})
    data = Interactions.of("x", frame((1, "a"), (2, "b")), frame((1, "b")), titles, ("note",))
    data.save(tmp_path / "pairs")
    found = Interactions.load(tmp_path / "pairs")
    assert named(found, "train") == named(data, "train")
    assert found.test is None
    assert found.titles is not None
    assert found.titles.to_pylist() == ["A", None]
    assert (found.name, found.notes) == ("x", ("note",))
    with pytest.raises(CheckpointError, match="no user-item pairs"):
        Interactions.load(tmp_path)
    card = tmp_path / "pairs" / "interactions.json"
    card.write_text(card.read_text().replace("1", "2", 1))
    with pytest.raises(CheckpointError, match="version"):
        Interactions.load(tmp_path / "pairs")


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (frame((1.5, 2)), None, "user column of the train pairs holds Float64"),
        (frame((1, [2])), None, "item column .* List"),
        (frame((1, 2)), frame(("1", 2)), "integers and integers in the training.*strings"),
        (frame((None, 2)).cast(pl.Int64), None, "the graph is empty"),
    ],
)
def test_bad_input(train: pl.DataFrame, test: pl.DataFrame | None, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Interactions.of("x", train, test)
