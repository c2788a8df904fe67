"""Conditions: what they select, and that nothing else can be said in them."""

import datetime

import polars as pl
import pytest

from recsys.errors import ConfigError, SchemaError
from recsys.retrieval.where import Clause, fulfils, parse

FRAME = pl.DataFrame(
    {
        "id": [1, 2, 3, 4],
        "genre": ["Comedy", "Film Noir", None, "R&D and more"],
        "year": [1995, 1940, 1941, None],
        "price": [1.5, 2.0, None, -3.0],
        "new": [True, False, None, True],
        "tags": [["a", "b"], [], None, ["b"]],
        "two words": ["x", "y", "x", "y"],
        "day": [datetime.date(2020, 1, 1)] * 4,
    }
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("genre=Comedy", [1]),
        ("genre = Film Noir", [2]),
        ("genre!=Comedy", [2, 4]),
        ("genre='R&D and more'", [4]),
        ('genre="Film Noir"', [2]),
        ("year>=1940 and year<1995", [2, 3]),
        ("year<=1940", [2]),
        ("year>1940.5", [1, 3]),
        ("year=1941", [3]),
        ("price>-4 and price<2", [1, 4]),
        ("new=true", [1, 4]),
        ("new!=True", [2]),
        ("tags=b", [1, 4]),
        ("tags!=b", [2]),
        ("tags=a and tags=b", [1]),
        ('"two words"=x and id<3', [1]),
        ("genre>=D", [2, 4]),
        ("genre=''", []),
        ("genre=Drama", []),
    ],
)
def test_rows_that_fulfil(text: str, expected: list[int]) -> None:
    assert FRAME.filter(fulfils(FRAME, text))["id"].to_list() == expected


@pytest.mark.parametrize(
    "text",
    [
        "", "year", "year=", "=1995", "year==1995", "year=1995 and", "and year=1", "year=1 or id=2",
        "year in (1,2)", "__import__('os').system('x')", "genre='Comedy", "year>1 and (id=2)",
        "genre=a=b", "year=1;id=2",
    ],
)  # fmt: skip
def test_what_is_no_condition(text: str) -> None:
    with pytest.raises(ConfigError, match="where="):
        fulfils(FRAME, text)


def test_columns_and_types_are_named() -> None:
    with pytest.raises(SchemaError, match=r'no column "gnre".*Did you mean genre'):
        fulfils(FRAME, "gnre=Comedy")
    with pytest.raises(ConfigError, match=r"year holds Int64, and 'new' is none"):
        fulfils(FRAME, "year>new")
    with pytest.raises(ConfigError, match=r"new holds Boolean, and 'yes' is none"):
        fulfils(FRAME, "new=yes")
    with pytest.raises(ConfigError, match="tags holds lists"):
        fulfils(FRAME, "tags>b")
    with pytest.raises(SchemaError, match="day holds Date"):
        fulfils(FRAME, "day=2020-01-01")


def test_the_last_and_belongs_to_no_value() -> None:
    assert parse("a=x and b=y z and c!=1") == [
        Clause("a", "=", "x"), Clause("b", "=", "y z"), Clause("c", "!=", "1")
    ]  # fmt: skip
    assert parse("a=sand and land=band") == [Clause("a", "=", "sand"), Clause("land", "=", "band")]
