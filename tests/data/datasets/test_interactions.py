"""Your own pairs: which rows count, what is tested, and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from recsys.data.datasets.interactions import interactions
from recsys.data.interactions import Interactions
from recsys.errors import ConfigError, SchemaError


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame(
        {
            "who": [f"p{k}" for k in rng.integers(0, 30, 600)],
            "what": rng.integers(2**40, 2**40 + 50, 600),
            "stars": rng.integers(1, 6, 600),
            "when": rng.permutation(600),
        }
    )
    frame.write_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


def named(data: Interactions, part: str) -> set[tuple[Any, Any]]:
    pairs = getattr(data, part)
    users, items = data.user_ids.to_pylist(), data.item_ids.to_pylist()
    return {(users[u], items[i]) for u, i in zip(pairs.users, pairs.items, strict=True)}


def test_every_row_is_in_one_part(table: Path) -> None:
    data = interactions(path=table, user="who", item="what")
    frame = pl.read_parquet(table)
    whole = set(frame.select("who", "what").rows())
    train, test = named(data, "train"), named(data, "test")
    assert train | test == whole
    assert not train & test
    assert len(test) / len(whole) == pytest.approx(0.2, abs=0.03)
    assert {user for user, _ in train} == set(frame["who"])
    shuffled = table.parent / "shuffled.csv"
    frame.sample(fraction=1.0, shuffle=True, seed=1).write_csv(shuffled)
    again = interactions(path=shuffled, user="who", item="what")
    assert (again.name, again.digest()) == ("shuffled", data.digest())
    other = interactions(path=table, user="who", item="what", split_seed=1)
    assert named(other, "test") != test


def test_with_times_the_latest_are_tested(table: Path) -> None:
    data = interactions(path=table, user="who", item="what", timestamp="when")
    first = pl.read_parquet(table).group_by("who", "what").agg(pl.col("when").min())
    times = {(who, what): when for who, what, when in first.rows()}
    train, test = named(data, "train"), named(data, "test")
    assert train | test == set(times)
    for user in {user for user, _ in test}:
        latest = max(times[pair] for pair in train if pair[0] == user)
        assert latest < min(times[pair] for pair in test if pair[0] == user)
    left, held = data.held_out(0.3, 0)
    assert data.order is not None
    is_left = left.contains(data.train.users, data.train.items)
    for user in np.flatnonzero(held.user_degrees):
        own = data.train.users == user
        assert data.order[own & is_left].max() < data.order[own & ~is_left].min()


def test_ratings_and_cores(table: Path) -> None:
    frame = pl.read_parquet(table).filter(pl.col("stars") >= 4)
    data = interactions(path=table, user="who", item="what", rating="stars", min_rating=4)
    assert named(data, "train") | named(data, "test") == set(frame.select("who", "what").rows())
    data = interactions(
        path=table, user="who", item="what", rating="stars", min_rating=4, min_user=5, min_item=4,
        test_fraction=0.0,
    )  # fmt: skip
    assert data.test is None
    assert data.train.user_degrees.min() >= 5
    assert data.train.item_degrees.min() >= 4
    assert "fewer than 5 items" in data.notes[0]


def test_given_test_rows_and_titles(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item\n1,7\n1,8\n2,7\n")
    (tmp_path / "b.csv").write_text("user,item\n2,8\n9,7\n")
    (tmp_path / "t.csv").write_text("item,name\n8,eight\n7,seven\n")
    data = interactions(
        path=tmp_path / "a.csv", test_path=tmp_path / "b.csv", titles_path=tmp_path / "t.csv",
        title="name",
    )  # fmt: skip
    assert named(data, "test") == {(2, 8)}
    assert "1 users without a training pair" in data.notes[0]
    assert data.titles is not None
    assert data.titles.to_pylist() == ["seven", "eight"]


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"path": None}, r"data\.path is not set"),
        ({"rating": "stars"}, "go together"),
        ({"min_rating": 3}, "go together"),
        ({"test_fraction": 1.0}, r"data\.test_fraction=1\.0"),
        ({"min_user": 0}, "at least 1"),
        ({"timestamp": "when", "test_path": "x"}, "Leave one of them out"),
        ({"user": "whom"}, "whom"),
        ({"rating": "who", "min_rating": 3}, "who holds String"),
        ({"rating": "stars", "min_rating": 9}, "the graph is empty"),
        ({"min_user": 1000}, "no pair is left"),
    ],
)
def test_bad_input(table: Path, keys: dict[str, Any], message: str) -> None:
    with pytest.raises((ConfigError, SchemaError), match=message):
        interactions(**{"path": table, "user": "who", "item": "what", **keys})
