"""Rows of a request, as JSON objects, to the columns that the feature pipeline reads.

A row has every column of the pipeline, null where it is unknown, and nothing else: a column that is
misspelt or forgotten is an error here, not a slightly worse score.

    field                              JSON
    category of texts                  string
    category of integers               integer, -2**63 to 2**64 - 1
    category of numbers                number, -1e300 to 1e300
    category of booleans               boolean
    numeric                            number, likewise (or boolean, if it was one in training)
    multi-valued, history              list of such values
    any of them                        null

Letters   B rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np

from recsys.data.schema import Field, Kind, Schema
from recsys.errors import did_you_mean
from recsys.serving.json_body import checked_list, kind_of, parse_object
from recsys.serving.problems import RequestError, shown

SMALLEST, LARGEST = -(2**63), 2**64 - 1
"""Integers that a table can hold."""
BOUND = 1e300
"""Numbers are at most so far from 0."""
EXACT = 2**53
"""Numbers up to here that are whole are exactly the integer they stand for."""

_NULL = type(None)
_TYPES: dict[str, frozenset[type]] = {
    "string": frozenset({str, _NULL}),
    "int": frozenset({int, _NULL}),
    "float": frozenset({int, float, _NULL}),
    "bool": frozenset({bool, _NULL}),
}
_NAMES = {"string": "a string", "int": "an integer", "float": "a number", "bool": "a boolean"}


@dataclass(frozen=True)
class RowColumns:
    """Checked columns of some rows.

    Shape:
        values   numeric: float64 [B], NaN for null; lists: B lists or None; else B scalars or None
    """

    num_rows: int
    values: dict[str, Any]


class RowReader:
    """Reads request bodies `{"rows": [{column: value, ...}, ...]}`.

    Args:
        schema: Of the fitted pipeline.
        max_rows: Of one request.
    """

    def __init__(self, schema: Schema, max_rows: int) -> None:
        self.schema = schema
        self.max_rows = max_rows
        self._names = frozenset(schema.names)
        names = schema.names
        get = itemgetter(*names)
        self._values: Callable[[dict[str, Any]], Sequence[Any]] = (
            get if len(names) > 1 else lambda row: (get(row),)
        )
        self._checks = [(one, _check_of(one)) for one in schema]

    def read(self, body: bytes) -> RowColumns:
        """Columns of the rows of a body.

        Raises:
            RequestError: 400 or 422; the message names the column and the row.
        """
        rows = checked_list(parse_object(body, "rows"), "rows", self.max_rows, "rows")
        for position, row in enumerate(rows):
            if type(row) is not dict or row.keys() != self._names:
                raise self._misfit(row, position)
        columns = zip(*map(self._values, rows), strict=True)
        values = {
            one.name: check(column, one)
            for (one, check), column in zip(self._checks, columns, strict=True)
        }
        return RowColumns(len(rows), values)

    def _misfit(self, row: object, position: int) -> RequestError:
        if not isinstance(row, dict):
            return RequestError(
                422,
                f"row {position} is {kind_of(row)}; it must be an object of column: value.",
                row=position,
            )
        for name in row:
            if name in self.schema.labels:
                return RequestError(
                    422,
                    f'row {position} has the label "{name}", which is what is predicted. Leave it '
                    "out.",
                    column=name,
                    row=position,
                )
            if name not in self._names:
                return RequestError(
                    422,
                    f"row {position} has the column {shown(name)}, which the model does not know."
                    f"{did_you_mean(name, self._names)}",
                    column=name,
                    row=position,
                )
        missing = [name for name in self.schema.names if name not in row]
        others = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        return RequestError(
            422,
            f'row {position} lacks the column "{missing[0]}"{others}. Add it, null where it is '
            "unknown.",
            column=missing[0],
            row=position,
        )


_Check = Callable[[Sequence[Any], Field], Any]


def _check_of(one: Field) -> _Check:
    if one.kind is Kind.NUMERIC:
        return _numbers
    return _lists if one.is_ragged else _scalars


def _numbers(column: Sequence[Any], one: Field) -> np.ndarray:
    """[B] float64; null is NaN, which JSON cannot say otherwise."""
    allowed = _TYPES["float"] | (_TYPES["bool"] if one.dtype == "bool" else frozenset())
    if not allowed.issuperset(map(type, column)):
        row = next(i for i, value in enumerate(column) if type(value) not in allowed)
        raise _wrong(one, column[row], row, "a number")
    try:
        found = np.array(column, dtype=np.float64)
        large = bool((np.abs(found) >= BOUND).any())
    except OverflowError:
        large = True
    if large:
        _check_bound(column, one)
    return found


def _check_bound(column: Sequence[float | None], one: Field, row: int | None = None) -> None:
    for at, value in enumerate(column):
        if value is not None and abs(value) > BOUND:  # exact for integers of any length
            raise _wrong(one, value, at if row is None else row, "a number of -1e300 to 1e300")


def _scalars(column: Sequence[Any], one: Field, row: int | None = None) -> Sequence[Any]:
    """Values of a category, B of them; or of one row's list."""
    kinds = set(map(type, column))
    allowed = _TYPES[one.dtype]
    if not kinds <= allowed:
        if one.dtype == "int" and kinds <= allowed | {float}:
            column = [_whole(value) for value in column]  # 5.0 is an integer in JSON Schema
        if not allowed.issuperset(map(type, column)):
            at = next(i for i, value in enumerate(column) if type(value) not in allowed)
            raise _wrong(one, column[at], at if row is None else row, _NAMES[one.dtype])
    if one.dtype == "int":
        for at, value in enumerate(column):
            if value is not None and not SMALLEST <= value <= LARGEST:
                raise _wrong(
                    one, value, at if row is None else row, "an integer of -2**63 to 2**64 - 1"
                )
    elif one.dtype == "float":
        _check_bound(column, one, row)
    return column


def _whole(value: Any) -> Any:
    exact = type(value) is float and value.is_integer() and abs(value) <= EXACT
    return int(value) if exact else value


def _lists(column: Sequence[Any], one: Field) -> Sequence[Any]:
    checked = []
    for row, value in enumerate(column):
        if value is not None and type(value) is not list:
            raise _wrong(one, value, row, "a list")
        checked.append(value if value is None else _scalars(value, one, row))
    return checked


def _wrong(one: Field, value: object, row: int, expected: str) -> RequestError:
    inside = " in its lists" if one.is_ragged and expected != "a list" else ""
    return RequestError(
        422,
        f'column "{one.name}" is {shown(value)} in row {row}, {kind_of(value)}; it must be '
        f"{expected}{inside}, or null.",
        column=one.name,
        row=row,
    )
