"""Criteo Display Advertising Challenge (Kaggle 2014): will an ad be clicked.

13 counts and 26 hashed categories without names, tab separated, missing values empty. The full set
is `train.txt` of the challenge: 45,840,617 rows in time order over a week. A folder with `train`,
`dev` and `test` files of the same form is read as given.
"""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from recsys.data.csv_to_parquet import convert_csv
from recsys.data.datasets.files import cache_folder, check_splits, find, open_folder
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Kind, Schema

NUMBERS = tuple(f"I{i}" for i in range(1, 14))
CATEGORIES = tuple(f"C{i}" for i in range(1, 27))
COLUMNS = ("label", *NUMBERS, *CATEGORIES)
TYPES = {
    "label": pa.int8(),
    **dict.fromkeys(NUMBERS, pa.int64()),
    **dict.fromkeys(CATEGORIES, pa.string()),
}
FULL_ROWS = 45_840_617
SAMPLE_ROWS = {"train": 7_200, "val": 409, "test": 391}


def build(*, source: str | Path | None = None, check_rows: bool = True) -> RawDataset:
    """Read the full set, to be split by `data.split`, or a sample with its split.

    Args:
        source: Folder with `train.txt` (the full set, as the challenge serves it), or with
            `train.tsv`, `dev.tsv` and `test.tsv`, plain or gzipped.
        check_rows: Refuse files that have not the published number of rows.

    Raises:
        SchemaError: A file is absent, or has other columns or another number of rows.
    """
    folder = open_folder("criteo", source, ())
    names = {"train": "train.tsv", "val": "dev.tsv", "test": "test.tsv"}
    given = any((folder / f"train.tsv{end}").is_file() for end in ("", ".gz"))
    if given:
        files = {split: _open(find("criteo", folder, name)) for split, name in names.items()}
        published = SAMPLE_ROWS
    else:
        files = {"all": _open(find("criteo", folder, "train.txt"))}
        published = {"all": FULL_ROWS}
    if check_rows:
        check_splits("criteo", folder, files, published)
    return RawDataset(name="criteo", files=files, schema=_schema())


def _open(file: Path) -> Source:
    cache = cache_folder("criteo")
    if ".txt" not in file.suffixes:
        return Source.open(file, names=COLUMNS, types=TYPES, cache_dir=cache)
    parquet, _ = convert_csv(file, names=COLUMNS, types=TYPES, separator="\t", cache_dir=cache)
    return Source.open(parquet)


def _schema() -> Schema:
    numbers = [
        Field(name=name, kind=Kind.NUMERIC, encoding=Encoding.QUANTILE, dtype="int")
        for name in NUMBERS
    ]
    categories = [
        Field(name=name, kind=Kind.CATEGORICAL, encoding=Encoding.VOCABULARY) for name in CATEGORIES
    ]
    return Schema((*numbers, *categories), ("label",))
