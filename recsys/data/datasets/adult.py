"""Adult, or Census Income (UCI, Becker and Kohavi 1996): does a person earn over 50,000 dollars.

32,561 training and 16,281 test rows as published; validation rows are a random share of the
training rows (`data.val_fraction`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from recsys.data.datasets.files import Download, check_count, find, open_folder, read_bytes
from recsys.data.datasets.labels import choose_labels
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.errors import SchemaError

NUMBERS = ("age", "fnlwgt", "education_num", "capital_gain", "capital_loss", "hours_per_week")
COLUMNS = (
    "age", "workclass", "fnlwgt", "education", "education_num", "marital_status", "occupation",
    "relationship", "race", "sex", "capital_gain", "capital_loss", "hours_per_week",
    "native_country", "income",
)  # fmt: skip
FILES = {"train": "adult.data", "test": "adult.test"}
ROWS = {"train": 32_561, "test": 16_281}
POSITIVES = {"train": 7_841, "test": 3_846}
LABELS = {"income": "income", "marital": "marital_status"}
"""Label to the column it is made of, which is then no input."""
_HOME = "https://archive.ics.uci.edu/ml/machine-learning-databases/adult"
DOWNLOADS = (
    Download(f"{_HOME}/adult.data", "adult.data", "5d7c39d7b8804f071cdd1f2a7c460872"),
    Download(f"{_HOME}/adult.test", "adult.test", "35238206dfdf7f1fe215bbb874adecdc"),
)


def build(*, source: str | Path | None = None, labels: Sequence[str] | None = None) -> RawDataset:
    """Read the published split.

    Args:
        source: Folder with `adult.data` and `adult.test`, plain or gzipped; None downloads them.
        labels: `income` (over 50,000 dollars), `marital` (never married), or both; None is income.

    Raises:
        ConfigError: A label is unknown or given twice, or `source` is no folder.
        SchemaError: A file is absent, or its rows or positives are not those published.
    """
    labels = choose_labels("adult", labels, LABELS)
    folder = open_folder("adult", source, DOWNLOADS)
    used = [LABELS[label] for label in labels]
    inputs = [name for name in COLUMNS if name not in ("income", *used)]
    files = {}
    for split, name in FILES.items():
        file = find("adult", folder, name)
        frame = _read(file)
        check_count("adult", f"rows in {file.name}", frame.height, ROWS[split])
        rich = int(frame["income"].sum())
        check_count("adult", f"rows over 50K in {file.name}", rich, POSITIVES[split])
        files[split] = Source.from_frame(frame.select(*inputs, *labels), str(file))
    return RawDataset(
        name="adult",
        files=files,
        schema=Schema(tuple(_field(name) for name in inputs), labels),
        split="options",
    )


def _read(file: Path) -> pl.DataFrame:
    """Lines of 15 values between commas and spaces; labels of the test file end in a dot."""
    try:
        raw = pl.read_csv(
            read_bytes(file),
            has_header=False,
            new_columns=list(COLUMNS),
            infer_schema=False,
            comment_prefix="|",
        )
        text = raw.drop_nulls("income").with_columns(pl.all().str.strip_chars())
        frame = text.with_columns(
            pl.col(NUMBERS).cast(pl.Int64),
            pl.col(pl.String).exclude(*NUMBERS).replace("?", None),
        )
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{file} is not a file of Adult: {error}") from error
    income = frame["income"].str.strip_suffix(".")
    unknown = set(income.unique()) - {">50K", "<=50K"}
    if unknown:
        raise SchemaError(f"{file} has the incomes {sorted(unknown)}; they must be >50K or <=50K.")
    return frame.with_columns(
        income=(income == ">50K").cast(pl.Int8),
        marital=(pl.col("marital_status") == "Never-married").cast(pl.Int8),
    )


def _field(name: str) -> Field:
    if name in NUMBERS:
        return Field(name=name, kind=Kind.NUMERIC, encoding=Encoding.QUANTILE, dtype="int")
    return Field(name=name, kind=Kind.CATEGORICAL, encoding=Encoding.VOCABULARY)
