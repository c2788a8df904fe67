"""Your own table: Parquet, CSV or Arrow; a file, a folder or a glob; kinds inferred from types.

`histories` makes list columns out of the table's own rows, for a log of clicks that has none: what
the user of a row (`group`) did strictly before it (`timestamp`). With several files, the rows of
all of them are one log. A list column that is there already needs no such thing:
`data.fields.<column>.kind=history data.fields.<column>.shares=<field>`.

A model that was trained with such columns wants them in the rows that it scores too:
`recsys.data.histories.with_histories` makes them from a log in memory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa

from recsys.data.datasets.files import cache_folder
from recsys.data.histories import MAX_LENGTH, add_histories
from recsys.data.infer import infer_schema
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Field, Kind, Schema
from recsys.errors import ConfigError, SchemaError, did_you_mean

TYPES = {
    "string": pa.string(),
    "int64": pa.int64(),
    "float64": pa.float64(),
    "bool": pa.bool_(),
    "datetime": pa.timestamp("us"),
}
"""What `types` may say of a CSV column."""
EVENTS = ("all", "positives")


def build(
    *,
    path: str | Path | list[str] | None = None,
    label: str | None = None,
    labels: Sequence[str] | None = None,
    nested: Mapping[str, str] | None = None,
    val_path: str | Path | list[str] | None = None,
    test_path: str | Path | list[str] | None = None,
    weight: str | None = None,
    group: str | None = None,
    timestamp: str | None = None,
    histories: Mapping[str, str] | None = None,
    history_of: str = "all",
    history_length: int = MAX_LENGTH,
    separator: str | None = None,
    null_values: Sequence[str] = ("",),
    types: Mapping[str, str] | None = None,
) -> RawDataset:
    """Open the table; no row is read.

    Args:
        path: File, folder, glob or list of files: all rows, or the training rows when `val_path`
            or `test_path` is given. A split that is given neither way is cut out of it.
        label: Column with 0 and 1.
        labels: Several such columns, in place of `label`; a value may be missing.
        nested: Label to the label that must hold before it can, for example
            `{conversion: click}`: without a click, a missing conversion is none.
        val_path: Validation rows.
        test_path: Test rows.
        weight: Column of example weights.
        group: Column for grouped metrics, usually the user; it stays an input.
        timestamp: Time column, for `data.split=time` and histories; it is no input.
        histories: New list column to the category whose earlier values it holds, for example
            `{item_history: item}`. Those of one table are aligned, event by event.
        history_of: Events of a history: `all` earlier rows, or the `positives` (label 1; the
            first label of several). Then split by time: after a random split, training rows hold
            labels of test rows.
        history_length: Events kept per history, the latest.
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
    names = [label] if label is not None else list(labels or ())
    if histories:
        files = _add_histories(
            files, histories, names[0], group, timestamp, history_of, history_length
        )
    schema = infer_schema(files["train"], names, weight=weight, group=group, timestamp=timestamp)
    schema = dataclasses.replace(schema, nested=nested or {})
    schema = _mark_histories(schema, histories or {}, history_length)
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


def _add_histories(
    files: dict[str, Source],
    histories: Mapping[str, str],
    label: str,
    group: str | None,
    timestamp: str | None,
    history_of: str,
    history_length: int,
) -> dict[str, Source]:
    if history_of not in EVENTS:
        raise ConfigError(
            f"data.history_of={history_of} is not a choice.{did_you_mean(history_of, EVENTS)}"
        )
    if history_length < 1:
        raise ConfigError(f"data.history_length={history_length}; it must be at least 1.")
    if group is None or timestamp is None:
        absent = [k for k, v in (("data.group", group), ("data.timestamp", timestamp)) if v is None]
        raise ConfigError(
            f"data.histories needs {' and '.join(absent)} too: a history is what the same user "
            "(data.group=<column>) did at an earlier time (data.timestamp=<column>)."
        )
    return add_histories(
        files,
        histories,
        user=group,
        time=timestamp,
        max_length=history_length,
        positive=label if history_of == "positives" else None,
    )


def _mark_histories(schema: Schema, histories: Mapping[str, str], history_length: int) -> Schema:
    """Make the new list columns histories of their fields, whatever their names suggest."""
    for name, target in histories.items():
        if target not in schema.names or schema[target].kind is not Kind.CATEGORICAL:
            what = f"is {schema[target].kind}" if target in schema.names else "is no input"
            categories = [f.name for f in schema if f.kind is Kind.CATEGORICAL]
            raise SchemaError(
                f'data.histories.{name}={target}: "{target}" {what}, but a history shares the '
                f"table of a category.{did_you_mean(target, categories)}"
            )

    def marked(one: Field) -> Field:
        if one.name not in histories:
            return one
        return dataclasses.replace(
            one, kind=Kind.HISTORY, shares=histories[one.name], max_length=history_length
        )

    return schema.replace(marked(one) for one in schema)


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
