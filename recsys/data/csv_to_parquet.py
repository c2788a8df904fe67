"""CSV to Parquet, once, by a streaming reader."""

from __future__ import annotations

import csv
import functools
import gzip
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from recsys.errors import SchemaError, did_you_mean

SEPARATORS = {".csv": ",", ".tsv": "\t"}
DATE_ROWS = 200
"""First rows of which every text is tried as a date."""
FIRST_ROWS = 10_000
"""Rows by which types are inferred at first; where a later row does not fit, `INFER_ROWS` are."""
INFER_ROWS = 100_000


def has_suffix(file: Path, suffixes: tuple[str, ...]) -> bool:
    """True when the name ends so; for CSV, with or without `.gz`."""
    ending = file.suffix
    if ending == ".gz":
        ending = Path(file.stem).suffix
        return ending in SEPARATORS and ending in suffixes
    return ending in suffixes


def convert_csv(
    file: Path,
    *,
    names: Sequence[str] | None = None,
    types: dict[str, pa.DataType] | None = None,
    separator: str | None = None,
    null_values: Sequence[str] = ("",),
    cache_dir: Path | None = None,
) -> tuple[Path, Any]:
    """Write a CSV as Parquet, without ever holding it whole.

    Returns:
        The Parquet file, and what must stay alive while it is read (a temporary folder or None).

    Raises:
        SchemaError: The file is empty or cannot be parsed, or its header repeats a name.
    """
    ending = Path(file.stem).suffix if file.suffix == ".gz" else file.suffix
    separator = separator or SEPARATORS[ending]
    header = _header(file, separator)
    if names is None:
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise SchemaError(
                f"{file.name} has these column names twice: {', '.join(twice)}. Rename them."
            )
    elif len(names) != len(header):
        raise SchemaError(
            f"{file.name} has {len(header)} columns, but {len(names)} names were given: "
            f"{', '.join(names)}."
        )
    found = list(names or header)
    for name in types or {}:
        if name not in found:
            raise SchemaError(f'{file.name} has no column "{name}".{did_you_mean(name, found)}')
    stat = file.stat()
    asked = json.dumps([
        str(file.resolve()), stat.st_size, stat.st_mtime_ns, names, separator, list(null_values),
        {name: str(kind) for name, kind in (types or {}).items()},
    ])  # fmt: skip
    keep = None
    if cache_dir is None:
        keep = tempfile.TemporaryDirectory(prefix="recsys-csv-")
        cache_dir = Path(keep.name)
    cache_dir.mkdir(parents=True, exist_ok=True)
    target = cache_dir / f"{file.name}-{hashlib.sha256(asked.encode()).hexdigest()[:16]}.parquet"
    if not target.exists():
        _sink(file, target, names, types or {}, separator, list(null_values))
    return target, keep


def _dates(scan: Callable[..., pl.LazyFrame], known: Mapping[str, Any]) -> dict[str, Any]:
    """Columns that hold dates or times, and their types.

    Trying every text as a date takes longer than all the rest of reading, so only columns are tried
    whose first rows look like dates: digits, parted by a dash, a slash, a point or a colon.
    """
    head = scan(infer_schema=False, n_rows=DATE_ROWS).collect()
    like = pl.col(pl.String).str.contains(r"^\d{1,4}[-/.:]\d{1,2}[-/.:]").any()
    looks = head.select(like).row(0, named=True)
    names = [name for name, yes in looks.items() if yes and name not in known]
    if not names:
        return {}
    others = {name: pl.String for name in head.columns if name not in (*names, *known)}
    tried = scan(
        schema_overrides={**known, **others}, infer_schema_length=INFER_ROWS, try_parse_dates=True
    )
    kinds = tried.collect_schema()
    return {name: kinds[name] for name in names if kinds[name].is_temporal()}


def _header(file: Path, separator: str) -> list[str]:
    """Cells of the first line."""
    opener = gzip.open if file.suffix == ".gz" else open
    try:
        with opener(file, "rt", encoding="utf-8-sig", newline="") as handle:
            header = next(csv.reader(handle, delimiter=separator), None)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error) as error:
        raise SchemaError(f"{file} cannot be read as CSV: {error}.") from error
    if not header:
        raise SchemaError(f"{file} is empty; a CSV needs a line of column names and some rows.")
    return header


def _sink(
    file: Path,
    target: Path,
    names: Sequence[str] | None,
    types: dict[str, pa.DataType],
    separator: str,
    null_values: list[str],
) -> None:
    partial = target.with_suffix(f".tmp-{os.getpid()}")
    plain = target.with_suffix(f".csv-{os.getpid()}")
    empty = {name: pa.array([], kind) for name, kind in types.items()}
    overrides = dict(pl.DataFrame(pa.table(empty)).schema) if types else None
    try:
        if file.suffix == ".gz":
            with gzip.open(file, "rb") as packed, plain.open("wb") as unpacked:
                shutil.copyfileobj(packed, unpacked, 1 << 20)
        scan = functools.partial(
            pl.scan_csv,
            plain if file.suffix == ".gz" else file,
            separator=separator,
            has_header=names is None,
            new_columns=list(names) if names else None,
            null_values=null_values,
        )
        kinds = {**_dates(scan, overrides or {}), **(overrides or {})}
        for rows in (FIRST_ROWS, INFER_ROWS):
            frame = scan(schema_overrides=kinds, infer_schema_length=rows)
            try:
                frame.sink_parquet(partial, compression="lz4")
                break
            except pl.exceptions.ComputeError:
                if rows == INFER_ROWS:
                    raise
        partial.rename(target)
    except (OSError, EOFError, pl.exceptions.PolarsError) as error:
        raise SchemaError(
            f"{file} cannot be read as CSV: {str(error).splitlines()[0]}. Correct the file, or say "
            "what the column is with data.types.<column>=string|int64|float64."
        ) from error
    finally:
        partial.unlink(missing_ok=True)
        plain.unlink(missing_ok=True)
