"""The JSON schema of a row, from the schema of the fitted pipeline."""

from __future__ import annotations

from typing import Any

from recsys.data.schema import Field, Kind, Schema
from recsys.serving.rows import BOUND, LARGEST, SMALLEST

_SCALARS: dict[str, dict[str, Any]] = {
    "string": {"type": ["string", "null"]},
    "int": {"type": ["integer", "null"], "minimum": SMALLEST, "maximum": LARGEST},
    "float": {"type": ["number", "null"], "minimum": -BOUND, "maximum": BOUND},
    "bool": {"type": ["boolean", "null"]},
}


def row_schema(schema: Schema) -> dict[str, Any]:
    """An object with every column and nothing else.

    Args:
        schema: Fitted; labels are no part of a row.
    """
    return {
        "type": "object",
        "required": list(schema.names),
        "additionalProperties": False,
        "properties": {one.name: column_schema(one) for one in schema},
    }


def column_schema(one: Field) -> dict[str, Any]:
    """What the values of a column are in JSON; null is a missing value everywhere.

    Example:
        >>> column_schema(Field(name="city", kind="categorical", encoding="vocabulary"))
        {'type': ['string', 'null'], 'description': 'categorical'}
    """
    if one.kind is Kind.NUMERIC:
        values = dict(_SCALARS["float"])
        if one.dtype == "bool":
            values["type"] = ["number", "boolean", "null"]
        return {**values, "description": str(one.kind)}
    values = _SCALARS[one.dtype]
    if not one.is_ragged:
        return {**values, "description": str(one.kind)}
    kept = ""
    if one.max_length is not None:
        end = "last" if one.kind is Kind.HISTORY else "first"
        kept = f"; the {end} {one.max_length:,} are read"
    order = ", oldest first" if one.kind is Kind.HISTORY else ""
    return {
        "type": ["array", "null"],
        "items": dict(values),
        "description": f"{one.kind}{order}{kept}",
    }
