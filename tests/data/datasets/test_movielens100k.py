"""MovieLens 100K: joined tables, labels by rule, histories that look back only."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recsys.data.datasets import movielens100k
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.data.schema import Kind
from recsys.errors import ConfigError, SchemaError

COUNTS = {"NUM_RATINGS": 4, "NUM_USERS": 2, "NUM_MOVIES": 2}


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    flags = ["0"] * 19
    drama = "|".join([*flags[:8], "1", *flags[9:]])
    (tmp_path / "u.data").write_text("1\t2\t5\t30\n2\t1\t3\t20\n1\t1\t1\t10\n2\t2\t4\t20\n")
    (tmp_path / "u.user").write_text("1|24|M|writer|85711\n2|53|F|other|T8H1N\n")
    (tmp_path / "u.item").write_bytes(
        f"1|Caf\xe9 (1995)|01-Jan-1995||http://x|{drama}\n".encode("latin1")
        + f'2|"Odd|||http://y|{"|".join(flags)}\n'.encode("latin1")
    )
    for name, value in COUNTS.items():
        monkeypatch.setattr(movielens100k, name, value)
    return tmp_path


def table(raw: movielens100k.RawDataset) -> pl.DataFrame:
    return pl.DataFrame(raw.files["all"].head(10**6))


def test_the_real_files(shared: Callable[[str], Path], tmp_path: Path) -> None:
    raw = movielens100k.build(source=shared("ml-100k"))
    frame = table(raw)
    assert frame.height == 100_000
    assert frame["user"].n_unique() == 943
    assert frame["item"].n_unique() == 1_682
    assert int(frame["label"].sum()) == 55_375  # ratings of 4 and 5
    assert set(frame["genres"].explode().unique()) <= set(movielens100k.GENRES)
    assert frame.filter(item=1).row(0, named=True)["genres"] == [
        "Animation",
        "Children's",
        "Comedy",
    ]
    assert frame["year"].null_count() == 9  # ratings of the one movie without a date
    data = prepare(raw, DataOptions(), tmp_path)
    assert sum(len(store) for store in (data.train, data.val, data.test)) == 100_000


def test_rows_are_joined_in_file_order(small: Path) -> None:
    frame = table(movielens100k.build(source=small))
    assert frame["user"].to_list() == [1, 2, 1, 2]
    assert frame["age"].to_list() == [24, 53, 24, 53]
    assert frame["zip"].to_list() == ["85711", "T8H1N", "85711", "T8H1N"]
    assert frame["year"].to_list() == [None, 1995, 1995, None]
    assert frame["genres"].to_list() == [[], ["Drama"], ["Drama"], []]
    assert frame["label"].to_list() == [1, 0, 0, 1]
    titles = movielens100k.movies(small)["title"].to_list()
    assert titles == ["Café (1995)", '"Odd']


def test_label_rules(small: Path) -> None:
    raw = movielens100k.build(source=small, positive=5, negative=2)
    assert table(raw)["rating"].to_list() == [5, 1]
    for positive, negative in ((3, 3), (6, 2), (2, 0)):
        with pytest.raises(ConfigError, match=f"data.positive={positive}"):
            movielens100k.build(source=small, positive=positive, negative=negative)


def test_history_of_the_small_files(small: Path) -> None:
    raw = movielens100k.build(source=small, positive=2, negative=1, history=True)
    assert table(raw)["history"].to_list() == [[], [], [], []]  # what came before was not liked
    (small / "u.data").write_text("1\t2\t5\t30\n2\t1\t3\t20\n1\t1\t4\t10\n2\t2\t4\t20\n")
    raw = movielens100k.build(source=small, history=True)
    assert table(raw)["history"].to_list() == [[1], [], [], []]
    assert raw.schema["history"].kind is Kind.HISTORY
    assert raw.schema["history"].shares == "item"


def test_other_files_are_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(movielens100k, "NUM_USERS", 943)
    with pytest.raises(SchemaError, match="has 2 people, published are 943"):
        movielens100k.build(source=small)
    (small / "u.data").write_text("1\t2\t3\t4\t5\t6\n")
    with pytest.raises(SchemaError, match=r"is not the u\.data of MovieLens"):
        movielens100k.build(source=small)
    (small / "u.item").unlink()
    with pytest.raises(SchemaError, match=r"needs u\.item \(or \.gz\)"):
        movielens100k.movies(small)


def test_pairs_of_the_real_files(shared: Callable[[str], Path]) -> None:
    data = movielens100k.interactions(source=shared("ml-100k"))
    assert data.test is not None
    assert len(data.train) + len(data.test) == 55_375
    assert len(data.test) / 55_375 == pytest.approx(0.2, abs=0.005)
    assert data.titles is not None
    assert "Star Wars (1977)" in data.titles.to_pylist()
    assert data.user_ids.to_pylist()[:2] == [1, 2]
    for keys in ({"positive": 6}, {"test_fraction": 0.0}):
        with pytest.raises(ConfigError, match="data\\."):
            movielens100k.interactions(source=shared("ml-100k"), **keys)  # type: ignore[arg-type]
