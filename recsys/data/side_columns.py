"""Columns that belong to users or items: from a table of them, or from the log of interactions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recsys.data.interactions import ITEM, USER
from recsys.data.readers import Source
from recsys.errors import SchemaError


def columns_of_table(
    path: str | Path | list[str], side: str, id_column: str, names: Sequence[str] | None
) -> pl.DataFrame:
    """The rows of a table of users or items.

    Args:
        path: File, folder, glob or list of files.
        side: user or item.
        id_column: Column of ids.
        names: Columns to keep; None: all.

    Returns:
        Column `side` and the columns, in the order of the table.

    Raises:
        SchemaError: a column is absent, or has the name of an id.
    """
    source = Source.open(path)
    source.require([id_column])
    kept = [one for one in source.columns if one != id_column] if names is None else list(names)
    return _read(source, side, id_column, kept)


def columns_of_log(
    paths: Sequence[str | Path | list[str]], side: str, id_column: str, names: Sequence[str]
) -> pl.DataFrame:
    """What the rows of a log say of their users or items, one row for each.

    A null says nothing: the other rows of the same user or item do.

    Args:
        paths: Of the logs, training and test.
        side: user or item.
        id_column: Column of ids.
        names: Columns that have one value for each id.

    Returns:
        Column `side` and the columns.

    Raises:
        SchemaError: a column is absent, or has two values for one id.
    """
    parts = [_read(Source.open(path), side, id_column, list(names)) for path in paths]
    frame = pl.concat(parts, how="vertical_relaxed").drop_nulls(side)
    found = frame.select(side).unique(maintain_order=True)
    for name in names:
        values = frame.select(side, name).drop_nulls(name).unique(maintain_order=True)
        twice = values.filter(pl.col(side).is_duplicated())
        if twice.height:
            one = twice[side][0]
            first, second = twice.filter(pl.col(side) == one)[name].to_list()[:2]
            raise SchemaError(
                f'the column "{name}" is to be one of {side}s, but {side} {one!r} has {first!r} '
                f"and {second!r} ({twice[side].n_unique():,} such {side}s). Leave it out of "
                f"data.{side}_columns, or make it the same in all rows of a {side}."
            )
        found = found.join(values, on=side, how="left", maintain_order="left")
    return found


def _read(source: Source, side: str, id_column: str, names: list[str]) -> pl.DataFrame:
    taken = [name for name in names if name in (USER, ITEM, id_column)]
    if taken:
        raise SchemaError(
            f'the column "{taken[0]}" cannot be one of the columns of {side}s: `{USER}` and '
            f"`{ITEM}` are the ids, which towers read anyway. Rename it, or leave it out of "
            f"data.{side}_columns."
        )
    source.require([id_column, *names])
    parts = [pl.DataFrame(pl.from_arrow(b.table)) for b in source.batches([id_column, *names])]
    if not parts:
        raise SchemaError(f"{source.files[0][0]} has no row to read the columns of {side}s from.")
    return pl.concat(parts).rename({id_column: side}).select(side, *names)
