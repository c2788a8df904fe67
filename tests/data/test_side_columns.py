"""Columns of users and items are read where they are, and must be what they are said to be."""

from pathlib import Path

import polars as pl
import pytest

from recsys.data.side_columns import columns_of_log, columns_of_table
from recsys.errors import SchemaError


@pytest.fixture
def log(tmp_path: Path) -> Path:
    frame = pl.DataFrame(
        {
            "who": ["a", "b", "a", None, "c"],
            "age": [3, 4, None, 9, None],
            "tags": [["x", "y"], [], ["x", "y"], ["z"], None],
            "mood": ["good", "bad", "bad", "bad", "good"],
        },
        schema_overrides={"tags": pl.List(pl.String)},
    )
    frame.write_parquet(tmp_path / "log.parquet")
    return tmp_path / "log.parquet"


def test_a_log_has_one_row_for_each_user(log: Path) -> None:
    found = columns_of_log([log], "user", "who", ["tags", "age"])
    assert found.columns == ["user", "tags", "age"]
    assert found.rows() == [("a", ["x", "y"], 3), ("b", [], 4), ("c", None, None)]


def test_several_logs_complete_each_other(log: Path, tmp_path: Path) -> None:
    pl.DataFrame({"who": ["c", "d"], "age": [7, 8]}).write_parquet(tmp_path / "more.parquet")
    found = columns_of_log([log, tmp_path / "more.parquet"], "user", "who", ["age"])
    assert found.rows() == [("a", 3), ("b", 4), ("c", 7), ("d", 8)]


def test_a_column_that_changes_within_a_user_is_none_of_users(log: Path) -> None:
    with pytest.raises(SchemaError, match=r"user 'a' has 'good' and 'bad' \(1 such users\)"):
        columns_of_log([log], "user", "who", ["age", "mood"])


@pytest.mark.parametrize(
    ("names", "message"),
    [(["agee"], 'no column "agee".*Did you mean age'), (["who"], '"who" cannot be one of')],
)
def test_columns_that_cannot_be_read_are_named(log: Path, names: list[str], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        columns_of_log([log], "user", "who", names)


def test_a_table_gives_all_columns_or_some(log: Path) -> None:
    whole = columns_of_table(log, "item", "who", None)
    assert whole.columns == ["item", "age", "tags", "mood"]
    assert whole.height == 5
    assert columns_of_table(log, "item", "who", ["mood"]).columns == ["item", "mood"]
    with pytest.raises(SchemaError, match='no column "whom"'):
        columns_of_table(log, "item", "whom", None)
    pl.DataFrame({"who": [1], "item": [2]}).write_parquet(log)
    with pytest.raises(SchemaError, match='"item" cannot be one of the columns of users'):
        columns_of_table(log, "user", "who", None)
