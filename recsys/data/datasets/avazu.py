"""Avazu Click-Through Rate Prediction (Kaggle 2014): will a mobile ad be clicked.

The full set is `train.csv` of the challenge: 40,428,967 rows over eleven days. Every column is a
category. `id` is unique and left out; `hour` (YYMMDDHH) becomes hour of the day, weekday and
weekend, as in BARS, and is the time of `data.split=time`.
"""

from __future__ import annotations

import gzip
from pathlib import Path

import polars as pl
import pyarrow as pa

from recsys.data.atomic import temporary_sibling
from recsys.data.csv_to_parquet import convert_csv
from recsys.data.datasets.files import cache_folder, check_splits, find, open_folder
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.errors import SchemaError

CATEGORIES = (
    "C1", "banner_pos", "site_id", "site_domain", "site_category", "app_id", "app_domain",
    "app_category", "device_id", "device_ip", "device_model", "device_type", "device_conn_type",
    *(f"C{i}" for i in range(14, 22)),
)  # fmt: skip
COLUMNS = ("id", "click", "hour", *CATEGORIES)
TYPES = {
    "click": pa.int8(),
    "hour": pa.int64(),
    **dict.fromkeys(("id", *CATEGORIES), pa.string()),
}
DERIVED = ("hour_of_day", "weekday", "weekend")
FULL_ROWS = 40_428_967
SAMPLE_ROWS = {"train": 8_087, "val": 480, "test": 432}


def build(*, source: str | Path | None = None, check_rows: bool = True) -> RawDataset:
    """Read the full set, to be split by `data.split`, or a sample with its split.

    Args:
        source: Folder with `train.csv` alone (the full set, as the challenge serves it), or with
            `dev.csv` and `test.csv` beside it, plain or gzipped.
        check_rows: Refuse files that have not the published number of rows.

    Raises:
        SchemaError: A file is absent, or has other columns or another number of rows.
    """
    folder = open_folder("avazu", source, ())
    train = _open(find("avazu", folder, "train.csv"))
    # The challenge's own test file has no labels, and no dev file is beside it.
    if any((folder / f"dev.csv{end}").is_file() for end in ("", ".gz")):
        rest = {"val": "dev.csv", "test": "test.csv"}
        files = {"train": train}
        files |= {split: _open(find("avazu", folder, name)) for split, name in rest.items()}
        published = SAMPLE_ROWS
    else:
        files, published = {"all": train}, {"all": FULL_ROWS}
    if check_rows:
        check_splits("avazu", folder, files, published)
    fields = tuple(
        Field(
            name=name,
            kind=Kind.CATEGORICAL,
            encoding=Encoding.VOCABULARY,
            dtype="int" if name in DERIVED else "string",
        )
        for name in (*DERIVED, *CATEGORIES)
    )
    schema = Schema(fields, ("click",), timestamp="hour")
    return RawDataset(name="avazu", files=files, schema=schema)


def _open(file: Path) -> Source:
    """Convert to Parquet and add the parts of the hour, both once and streaming."""
    parquet, _ = convert_csv(
        file,
        names=None if _has_header(file) else COLUMNS,
        types=TYPES,
        separator=",",
        cache_dir=cache_folder("avazu"),
    )
    target = parquet.with_suffix(".hours.parquet")
    if not target.exists():
        partial = temporary_sibling(target)
        try:
            with_hours(pl.scan_parquet(parquet)).sink_parquet(partial)
            partial.rename(target)
        except pl.exceptions.PolarsError as error:
            raise SchemaError(
                f"{file} has a value in `hour` that is not YYMMDDHH: {error}"
            ) from error
        finally:
            partial.unlink(missing_ok=True)
    return Source.open(target)


def with_hours(frame: pl.LazyFrame) -> pl.LazyFrame:
    """Drop `id` and add hour_of_day (0 to 23), weekday (1 Monday to 7) and weekend (0, 1).

    Example:
        >>> with_hours(pl.LazyFrame({"id": ["a"], "hour": [14102512]})).collect().row(0)
        (14102512, 12, 6, 1)
    """
    day = (pl.col("hour") // 100).cast(pl.String).str.to_date("%y%m%d").dt.weekday().cast(pl.Int64)
    return frame.drop("id").with_columns(
        hour_of_day=pl.col("hour") % 100, weekday=day, weekend=(day > 5).cast(pl.Int64)
    )


def _has_header(file: Path) -> bool:
    """The training file has a line of names; the others of the sample have not."""
    opener = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rb") as handle:
        return bytes(handle.readline()).startswith(b"id,")
