"""Your own table: Parquet, CSV or Arrow; a file, a folder or a glob; kinds inferred from types."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from recsys.data.datasets.files import cache_folder
from recsys.data.infer import infer_schema
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.errors import ConfigError, SchemaError, did_you_mean

TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "datetime": pa.timestamp("us"),
}
"""What `types` may say of a CSV column."""


def build(
    *,
    path: str | Path | list[str] | None = None,
    label: str | None = None,
    labels: Sequence[str] | None = None,
    val_path: str | Path | list[str] | None = None,
    test_path: str | Path | list[str] | None = None,
    weight: str | None = None,
    group: str | None = None,
    timestamp: str | None = None,
    separator: str | None = None,
    null_values: Sequence[str] = ("",),
    types: Mapping[str, str] | None = None,
) -> RawDataset:
    """Open the table; no row is read.

    Args:
        path: File, folder, glob or list of files: all rows, or the training rows when `val_path`
            or `test_path` is given. A split that is given neither way is cut out of it.
        label: Column with 0 and 1.
        labels: Several such columns, in place of `label`.
        val_path: Validation rows.
        test_path: Test rows.
        weight: Column of example weights.
        group: Column for grouped metrics, usually the user; it stays an input.
        timestamp: Time column, for `data.split=time`; it is no input.
        separator: Of a CSV; None is a tab for `.tsv` and a comma otherwise.
        null_values: Texts that mean "missing" in a CSV.
        types: CSV column to `string`, `int64`, `float64`, `bool` or `datetime`.

    Raises:
        ConfigError: `path` or the label is not set.
        SchemaError: A file or a column is not there, or the files' columns differ.
    """
    if not path:
        raise ConfigError("data.path is not set; give a file, a folder or a glob: data.path=<file>")
    if (label is None) == (not labels):
        got = "none" if label is None else f"data.label={label} and data.labels={labels}"
        raise ConfigError(f"give one of data.label and data.labels, got {got}.")
    paths = {"train": path, "val": val_path, "test": test_path}
    kinds = {name: _type(name, kind) for name, kind in (types or {}).items()}
    files = {
        split: Source.open(
            where,
            types=kinds or None,
            separator=separator,
            null_values=tuple(null_values),
            cache_dir=cache_folder("csv"),
        )
        for split, where in paths.items()
        if where
    }
    schema = infer_schema(
        files["train"],
        label if label is not None else list(labels or ()),
        weight=weight,
        group=group,
        timestamp=timestamp,
    )
    for source in files.values():
        source.require(schema.labels)
    if len(files) == 1:
        files = {"all": files["train"]}
    split_by_options = len(files) < len(paths)
    return RawDataset(
        name=_name(path if isinstance(path, str | Path) else path[0]),
        files=files,
        schema=schema,
        split="options" if split_by_options else None,
    )


def _name(path: str | Path) -> str:
    """The last part of a path that is no pattern, without its endings.

    Example:
        >>> _name("logs/clicks.csv.gz"), _name("logs/clicks/*.parquet")
        ('clicks', 'clicks')
    """
    parts = [part for part in Path(path).parts if not set(part) & set("*?[")]
    last = Path(parts[-1]).absolute().name if parts else "table"
    return last.split(".")[0] or "table"


def _type(column: str, name: str) -> pa.DataType:
    if name not in TYPES:
        raise SchemaError(f"data.types.{column}={name} is not a type.{did_you_mean(name, TYPES)}")
    return TYPES[name]
