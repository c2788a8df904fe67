"""From ids as people give them to positions in a list of known ids."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa

from recsys.data.readers import Source
from recsys.errors import SchemaError, did_you_mean


def as_ids(given: Sequence[int | str] | pa.Array, kind: pa.DataType, what: str) -> pa.Array:
    """Ids of the type that a model knows; whole numbers and their texts stand for each other.

    Args:
        given: [n] ids.
        kind: int64 or string.
        what: For the message, such as `user`.

    Raises:
        SchemaError: one is null, or a text is no number where numbers are known.

    Example:
        >>> as_ids(["7", "8"], pa.int64(), "user").to_pylist()
        [7, 8]
        >>> as_ids([7], pa.string(), "user").to_pylist()
        ['7']
    """
    try:
        array = given if isinstance(given, pa.Array) else pa.array(list(given))
        if pa.types.is_floating(array.type):
            raise pa.ArrowInvalid(f"{array.type} is no type of an id")
        found = array.cast(kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        raise SchemaError(f"ids of {what}s are {kind} here, but these are not: {error}.") from error
    if found.null_count:
        raise SchemaError(f"{found.null_count:,} of the {what}s have no id. Leave them out.")
    return found


def positions_in(known: pa.Array, wanted: pa.Array) -> np.ndarray:
    """Position of each id [n] among known ones, which are there once; int64, -1 of unknown ones.

    Example:
        >>> positions_in(pa.array(["a", "b"]), pa.array(["b", "x"])).tolist()
        [1, -1]
    """
    table = pl.DataFrame({"id": pl.Series(known)}).with_row_index("at")
    asked = pl.DataFrame({"id": pl.Series(wanted.cast(known.type))})
    found = asked.join(table, on="id", how="left", maintain_order="left")["at"]
    return found.cast(pl.Int64).fill_null(-1).to_numpy()


def read_ids(path: str | Path, column: str, kind: pa.DataType, what: str) -> pa.Array:
    """The ids in a column of a table; a table of a single column need not call it so.

    Raises:
        SchemaError: the column is absent, or holds ids of another type.
    """
    source = Source.open(path)
    names = list(source.columns)
    if column not in names and len(names) > 1:
        raise SchemaError(f'{path} has no column "{column}".{did_you_mean(column, names)}')
    name = column if column in names else names[0]
    parts = [as_ids(batch.table[name].combine_chunks(), kind, what)
             for batch in source.batches([name])]  # fmt: skip
    return pa.concat_arrays(parts)
