"""Infer a schema from a table's column types, and describe it for people.

    column type                                         field
    string, date, bool, int                             categorical, vocabulary
    float, decimal                                      numeric, log
    list, named `history`, `*_history*`, `hist_*`,
      `*_hist`, `*_seq`, `*_sequence`                   history
    any other list                                      multi-valued

A history shares the table of the categorical column it is named after (`item_history` or
`hist_item` of `item`, also `item_id`), when there is one of the same element type.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from recsys.data.columns import dtype_name, is_list
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.errors import SchemaError

if TYPE_CHECKING:
    from recsys.data.encode import FeaturePipeline

_HISTORY = re.compile(r"(^|_)(history|hist|seq|sequence)(_|$)")
MAX_LENGTH = 50
"""Longest list kept unless the schema says otherwise."""


def infer_schema(
    source: Source,
    label: str | Sequence[str],
    *,
    weight: str | None = None,
    group: str | None = None,
    timestamp: str | None = None,
    ignore: Iterable[str] = (),
) -> Schema:
    """Propose a schema from column types alone; no row is read.

    Args:
        source: Raw rows.
        label: Label column, or several.
        weight: Column of example weights.
        group: Column for grouped metrics; it stays an input as well.
        timestamp: Time column of a split by time; it is no input.
        ignore: Columns that are no input.

    Raises:
        SchemaError: A named column is absent, or a column has a type no field can hold.

    Example:
        >>> import polars as pl
        >>> frame = pl.DataFrame({"user": ["a"], "age": [1.5], "seen": [["x"]], "click": [1]})
        >>> schema = infer_schema(Source.from_frame(frame), "click")
        >>> [(f.name, str(f.kind)) for f in schema]
        [('user', 'categorical'), ('age', 'numeric'), ('seen', 'multivalued')]
    """
    labels = (label,) if isinstance(label, str) else tuple(label)
    if not labels:
        raise SchemaError("no label column was given; set data.label=<column>.")
    roles = [name for name in (weight, group, timestamp) if name]
    ignored = tuple(ignore)
    source.require([*labels, *roles, *ignored])
    out = {*labels, *ignored, *(name for name in (weight, timestamp) if name)}
    fields = [infer_field(n, kind) for n, kind in source.columns.items() if n not in out]
    if not fields:
        raise SchemaError(
            f"there is no input column beside {', '.join(sorted(out))}; at least one is needed."
        )
    return Schema(tuple(_share(fields)), labels, weight=weight, group=group, timestamp=timestamp)


def infer_field(name: str, kind: pa.DataType) -> Field:
    """Propose a field for one column by the rule of this module."""
    dtype = dtype_name(kind) or "string"  # an unfit type is refused by `check_types`
    if is_list(kind):
        history = _HISTORY.search(name.lower()) is not None
        return Field(
            name=name,
            kind=Kind.HISTORY if history else Kind.MULTIVALUED,
            encoding=Encoding.VOCABULARY,
            dtype=dtype,
            max_length=MAX_LENGTH,
        )
    if dtype == "float":
        return Field(name=name, kind=Kind.NUMERIC, encoding=Encoding.LOG, dtype=dtype)
    return Field(name=name, kind=Kind.CATEGORICAL, encoding=Encoding.VOCABULARY, dtype=dtype)


def check_types(schema: Schema, source: Source) -> None:
    """Raise a SchemaError when a column is absent, or its type cannot be what the schema says."""
    source.require(schema.columns)
    for name in schema.labels:
        kind = source.columns[name]
        if dtype_name(kind) not in ("int", "float", "bool") or is_list(kind):
            raise SchemaError(
                f'label "{name}" holds {kind}; it must be 0 or 1 (or boolean). Map its values '
                "first, or choose another label."
            )
    check_fields(schema, source)


def check_fields(schema: Schema, source: Source) -> None:
    """Raise a SchemaError when an input's type cannot be what the schema says."""
    source.require(schema.names)
    for one in schema:
        kind = source.columns[one.name]
        reason = None
        if pa.types.is_null(kind):
            reason = "is null in every row"
        elif dtype_name(kind) is None:
            reason = f"holds {kind}, which cannot be an input"
        elif one.is_ragged != is_list(kind):
            want = "lists" if one.is_ragged else "single values"
            reason = f"holds {kind}, but it is {one.kind}, which needs {want}"
        elif one.kind is Kind.NUMERIC and dtype_name(kind) == "string" and pa.types.is_string(kind):
            reason = "holds text, but it is numeric"
        if reason is not None:
            raise SchemaError(
                f'column "{one.name}" of {source.files[0][0]} {reason}. Leave it out with '
                f"data.fields.{one.name}.kind=ignore, or set another kind "
                f"({', '.join(Kind)}), or convert it."
            )


def _share(fields: list[Field]) -> list[Field]:
    """Point each history at the categorical field it is named after."""
    targets = {f.name.lower(): f for f in fields if f.kind is Kind.CATEGORICAL}
    out = []
    for one in fields:
        if one.kind is Kind.HISTORY:
            stem = _HISTORY.sub("_", one.name.lower()).strip("_")
            names = (stem, f"{stem}_id", stem.removesuffix("s"), f"{stem.removesuffix('s')}_id")
            for name in names:
                target = targets.get(name)
                if target is not None and target.dtype == one.dtype:
                    one = dataclasses.replace(one, shares=target.name)
                    break
        out.append(one)
    return out


def describe(
    schema: Schema,
    source: Source | None = None,
    pipeline: FeaturePipeline | None = None,
    missing: dict[str, float] | None = None,
) -> tuple[dict[str, Any], ...]:
    """Rows of the table that is printed before training, one per column.

    Args:
        schema: Inferred or edited.
        source: Gives the raw types.
        pipeline: Gives the sizes, once fitted.
        missing: Share of training rows without a value, by column.

    Returns:
        Mappings with `column`, `type`, `kind`, `encoding`, `codes` and `missing`.
    """
    types = source.columns if source is not None else {}
    rows = []
    for one in schema:
        size = pipeline.schema[one.name].size if pipeline is not None else one.size
        size = None if one.encoding is Encoding.DYNAMIC else size
        kind = str(one.kind) + (f" of {one.shares}" if one.shares else "")
        rows.append(
            {
                "column": one.name,
                "type": str(types.get(one.name, one.dtype)),
                "kind": kind,
                "encoding": str(one.encoding),
                "codes": size,
                "missing": (missing or {}).get(one.name),
            }
        )
    roles = [(name, "label") for name in schema.labels]
    roles += [
        (name, role)
        for name, role in ((schema.weight, "weight"), (schema.timestamp, "timestamp"))
        if name is not None and name not in schema.names
    ]
    if schema.group is not None and schema.group not in schema.names:
        roles.append((schema.group, "group"))
    for name, role in roles:
        kind = str(types.get(name, ""))
        row = {"column": name, "type": kind, "kind": role, "encoding": ""}
        rows.append({**row, "codes": None, "missing": (missing or {}).get(name)})
    return tuple(rows)
