"""Frappe: which mobile app is used in which context (Baltrunas et al., 2015, arXiv:1505.03014).

The split is that of Neural Factorization Machines (He and Chua, SIGIR 2017), also known as
Frappe_x1: 202,027 / 57,722 / 28,860 rows, each a usage or one of two drawn negatives of it.

The published training file is used where the folder has it; otherwise a reconstruction of it, in
which the app of each training negative was drawn anew.
"""

from __future__ import annotations

from pathlib import Path

import polars as pl

from recsys.data.datasets.files import Download, check_count, find, open_folder, read_bytes
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.errors import SchemaError

FIELDS = (
    "user", "item", "daytime", "weekday", "isweekend", "homework", "cost", "weather", "country",
    "city",
)  # fmt: skip
ROWS = {"train": 202_027, "val": 57_722, "test": 28_860}
NUM_FEATURES = 5_382
RECONSTRUCTED = "frappe.train.recon.libfm"
FILES = {
    "train": ("frappe.train.libfm", f"derived/{RECONSTRUCTED}", RECONSTRUCTED),
    "val": ("frappe.validation.libfm",),
    "test": ("frappe.test.libfm",),
}
_HOME = "https://raw.githubusercontent.com/hexiangnan/neural_factorization_machine/master/data"
DOWNLOADS = tuple(
    Download(f"{_HOME}/frappe/{name}", name, md5)
    for name, md5 in (
        ("frappe.train.libfm", None),
        ("frappe.validation.libfm", "4b8d8e462c470ff16a580bcaa9598613"),
        ("frappe.test.libfm", "56ef29ef57467174fdff4ba1a117daeb"),
    )
)


def build(*, source: str | Path | None = None) -> RawDataset:
    """Read the published split.

    Args:
        source: Folder with the libFM files, directly, in `nfm/` or (the reconstruction) in
            `derived/`, plain or gzipped; None downloads the published ones.

    Raises:
        SchemaError: A file is absent, or its rows or features are not those published.
    """
    folder = open_folder("frappe", source, DOWNLOADS)
    files = {}
    for split, names in FILES.items():
        files[split] = find("frappe", folder, *(f"nfm/{n}" for n in names), *names)
    frames = {split: _read(file) for split, file in files.items()}
    for split, frame in frames.items():
        check_count("frappe", f"rows in {files[split].name}", frame.height, ROWS[split])
    features = pl.concat(frames.values()).select(FIELDS).unpivot()["value"].n_unique()
    check_count("frappe", "distinct features", features, NUM_FEATURES)
    fields = tuple(
        Field(name=name, kind=Kind.CATEGORICAL, encoding=Encoding.VOCABULARY, dtype="int")
        for name in FIELDS
    )
    redrawn = files["train"].name.startswith(RECONSTRUCTED)
    return RawDataset(
        name="frappe",
        files={s: Source.from_frame(f, str(files[s])) for s, f in frames.items()},
        schema=Schema(fields, ("label",), group="user"),
        notes=("reconstructed train negatives",) if redrawn else (),
    )


def _read(file: Path) -> pl.DataFrame:
    """Lines of `label id:1 id:1 ...`, one id per field in the order of `FIELDS`; label -1 or 1."""
    try:
        raw = pl.read_csv(
            read_bytes(file),
            separator=" ",
            has_header=False,
            new_columns=["label", *FIELDS],
            schema_overrides=[pl.Int8, *[pl.String] * len(FIELDS)],
        )
        frame = raw.with_columns(pl.col(FIELDS).str.strip_suffix(":1").cast(pl.Int32))
    except pl.exceptions.PolarsError as error:
        raise SchemaError(f"{file} is not the libFM file of Frappe: {error}") from error
    labels = set(frame["label"].unique())
    if labels != {-1, 1}:
        raise SchemaError(f"{file} has the labels {sorted(labels)}; they must be -1 and 1.")
    return frame.with_columns((pl.col("label") > 0).cast(pl.Int8))
