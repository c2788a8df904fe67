"""Diabetes in 130 US hospitals (Strack et al., 2014): is a patient readmitted within 30 days.

101,766 stays of 71,518 patients, 11,357 of them followed by another within 30 days. The split is by
patient, since one patient's stays are alike: a tenth of the patients validate and a tenth test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from recsys.data.datasets.files import Download, check_count, find, open_folder, read_bytes
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.data.split import SPLITS
from recsys.errors import SchemaError

FILE = "diabetic_data.csv"
NUM_ROWS, NUM_COLUMNS, NUM_PATIENTS, NUM_POSITIVES = 101_766, 50, 71_518, 11_357
NUMBERS = (
    "time_in_hospital", "num_lab_procedures", "num_procedures", "num_medications",
    "number_outpatient", "number_emergency", "number_inpatient", "number_diagnoses",
)  # fmt: skip
DOWNLOADS = (
    Download(
        "https://archive.ics.uci.edu/static/public/296/"
        "diabetes+130-us+hospitals+for+years+1999-2008.zip",
        "diabetes.zip",
        None,  # the archive is repacked now and then; the counts below are checked
        {FILE: FILE},
    ),
)


def build(*, source: str | Path | None = None, seed: int = 0) -> RawDataset:
    """Read the stays and split them by patient, 8:1:1.

    Args:
        source: Folder with `diabetic_data.csv`, plain or gzipped; None downloads it.
        seed: Of the split.

    Raises:
        SchemaError: The file is absent, or its rows or columns are not those published.
    """
    folder = open_folder("diabetes130", source, DOWNLOADS)
    file = find("diabetes130", folder, FILE)
    frame = _read(file)
    patients = frame["patient_nbr"].unique(maintain_order=True)
    check_count("diabetes130", "patients", len(patients), NUM_PATIENTS)
    order = np.random.Generator(np.random.Philox(seed)).permutation(len(patients))
    # Position of a patient in a random order, in tenths: 0 to 7 train, 8 validate, 9 test.
    part = pl.Series(np.array([0] * 8 + [1, 2])[order * 10 // len(patients)])
    of_row = frame.select("patient_nbr").join(
        pl.DataFrame({"patient_nbr": patients, "part": part}),
        on="patient_nbr",
        maintain_order="left",
    )["part"]
    return RawDataset(
        name="diabetes130",
        files={
            split: Source.from_frame(frame.filter(of_row == code), str(file))
            for code, split in enumerate(SPLITS)
        },
        schema=_schema(frame),
    )


def _read(file: Path) -> pl.DataFrame:
    try:
        raw = pl.read_csv(read_bytes(file), infer_schema=False, null_values="?")
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{file} is not the table of Diabetes 130: {error}") from error
    check_count("diabetes130", f"columns in {file.name}", raw.width, NUM_COLUMNS)
    check_count("diabetes130", f"rows in {file.name}", raw.height, NUM_ROWS)
    try:
        frame = raw.drop("encounter_id").with_columns(
            pl.col("patient_nbr", *NUMBERS).cast(pl.Int64),
            readmitted=(pl.col("readmitted") == "<30").cast(pl.Int8),
        )
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{file} is not the table of Diabetes 130: {error}") from error
    positives = int(frame["readmitted"].sum())
    check_count("diabetes130", "readmissions within 30 days", positives, NUM_POSITIVES)
    return frame


def _schema(frame: pl.DataFrame) -> Schema:
    fields = []
    for name in frame.columns:
        if name in NUMBERS:
            kind, encoding, dtype = Kind.NUMERIC, Encoding.QUANTILE, "int"
        elif name not in ("patient_nbr", "readmitted"):
            kind, encoding, dtype = Kind.CATEGORICAL, Encoding.VOCABULARY, "string"
        else:
            continue
        fields.append(Field(name=name, kind=kind, encoding=encoding, dtype=dtype))
    return Schema(tuple(fields), ("readmitted",), group="patient_nbr")
