"""Conditions on the columns of an item table, in a grammar that cannot run anything.

    condition  clause, or clauses joined by and
    clause     column operator value
    operator   =  !=  <  <=  >  >=
    value      text up to the next and, or anything in quotes

A column of lists is = a value that it holds. A row without a value fulfils nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import polars as pl

from recsys.errors import ConfigError, SchemaError, did_you_mean

_CLAUSE = re.compile(
    r"""\s*(?:"(?P<quoted>[^"]+)"|(?P<column>[\w.\-]+))\s*
    (?P<operator><=|>=|!=|=|<|>)\s*
    (?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<bare>[^\s"'<>=](?:[^"'<>=]*?[^\s"'<>=])?))
    \s*(?P<more>\sand\s|$)""",
    re.VERBOSE,
)
_EXAMPLE = "Write column=value, joined by and: genre=Comedy and year>=1990."


@dataclass(frozen=True)
class Clause:
    """One comparison of a column with a value."""

    column: str
    operator: str
    value: str


def parse(text: str) -> list[Clause]:
    """The clauses of a condition.

    Raises:
        ConfigError: it does not follow the grammar; the message says from where on.

    Example:
        >>> parse("genre=Film Noir and year>=1940")
        [Clause(column='genre', operator='=', value='Film Noir'), Clause(column='year', \
operator='>=', value='1940')]
    """
    clauses, at, more = [], 0, True
    while more:
        found = _CLAUSE.match(text, at)
        if found is None:
            raise ConfigError(f"where={text}: cannot read {text[at:]!r}. {_EXAMPLE}")
        parts = found.groupdict()
        value = next(p for p in (parts["double"], parts["single"], parts["bare"]) if p is not None)
        clauses.append(Clause(parts["quoted"] or parts["column"], parts["operator"], value))
        at, more = found.end(), bool(parts["more"])
    return clauses


def fulfils(frame: pl.DataFrame, text: str) -> pl.Series:
    """Which rows of a table fulfil a condition, [rows] bool.

    Raises:
        ConfigError: the condition cannot be read, or a value is not of the column's type.
        SchemaError: there is no such column, or its type cannot be compared.

    Example:
        >>> frame = pl.DataFrame({"year": [1995, 1940, None], "kind": [["a", "b"], ["b"], ["a"]]})
        >>> fulfils(frame, "kind=b and year<1990").to_list()
        [False, True, False]
    """
    every = pl.lit(True)
    for clause in parse(text):
        if clause.column not in frame.columns:
            raise SchemaError(
                f'where={text}: the item table has no column "{clause.column}".'
                f"{did_you_mean(clause.column, frame.columns)}"
            )
        every = every & _expression(clause, frame.schema[clause.column], text).fill_null(False)
    return frame.select(fulfilled=every).to_series()


def _expression(clause: Clause, kind: pl.DataType, text: str) -> pl.Expr:
    column, ordered = pl.col(clause.column), clause.operator not in ("=", "!=")
    if isinstance(kind, pl.List):
        if ordered:
            raise ConfigError(
                f"where={text}: {clause.column} holds lists, which are = or != a value they hold."
            )
        holds = column.list.contains(_value(clause, kind.inner, text))  # type: ignore[arg-type]
        return holds if clause.operator == "=" else ~holds
    value = _value(clause, kind, text)
    made = {
        "=": column == value,
        "!=": column != value,
        "<": column < value,
        "<=": column <= value,
        ">": column > value,
        ">=": column >= value,
    }
    return made[clause.operator]


def _value(clause: Clause, kind: pl.DataType, text: str) -> int | float | bool | str:
    if kind == pl.String or isinstance(kind, pl.Categorical | pl.Enum):
        return clause.value
    try:
        if kind.is_integer() and clause.operator in ("=", "!="):
            return int(clause.value)
        if kind.is_numeric():
            return float(clause.value)
        if kind == pl.Boolean:
            return {"true": True, "false": False}[clause.value.lower()]
    except (ValueError, KeyError):
        raise ConfigError(
            f"where={text}: {clause.column} holds {kind}, and {clause.value!r} is none."
        ) from None
    raise SchemaError(
        f"where={text}: {clause.column} holds {kind}; texts, numbers, true and false, and lists "
        "of them can be compared."
    )
