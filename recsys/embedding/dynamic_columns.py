"""Which columns of a table are dynamic: said by name, or by what they are called."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

from recsys.data.options import DataOptions, apply_options
from recsys.data.schema import Encoding, Kind, Schema
from recsys.embedding.options import EmbeddingOptions
from recsys.errors import ConfigError, did_you_mean

_ID = re.compile(r"(^|_)(id|ID)$|[a-z](Id|ID)$")


def encode_dynamic(schema: Schema, data: DataOptions, embedding: EmbeddingOptions) -> DataOptions:
    """The options of some data, with the columns of `embedding.dynamic` encoded so.

    Args:
        schema: As inferred, before the options.
        data: Options of the data.
        embedding: Of the model; with a fitted vocabulary nothing changes.

    Raises:
        ConfigError: a name is no column that can be dynamic, or none is named and none is called as
            an id.

    Example:
        >>> from recsys.data.schema import Field
        >>> ids = Field(name="user_id", kind="categorical", encoding="vocabulary")
        >>> dynamic = EmbeddingOptions(vocabulary="dynamic")
        >>> encode_dynamic(Schema((ids,), ("click",)), DataOptions(), dynamic).fields
        {'user_id': {'encoding': 'dynamic'}}
    """
    if not embedding.is_dynamic:
        return data
    columns = apply_options(schema, data)
    able = [one.name for one in columns if one.kind is not Kind.NUMERIC and one.shares is None]
    for name in embedding.dynamic:
        if name in able:
            continue
        if name not in columns.names:
            raise ConfigError(
                f"embedding.dynamic names {name}, which is no column of this data."
                f"{did_you_mean(name, able)}"
            )
        one = columns[name]
        why = f"has the table of {one.shares}: name that" if one.shares else f"is {one.kind}"
        raise ConfigError(
            f"embedding.dynamic names {name}, which {why}. Allowed: {', '.join(able)}."
        )
    said = {one.name for one in columns if one.encoding is Encoding.DYNAMIC}
    names = list(embedding.dynamic)
    if not names and not said:
        names = [name for name in able if _is_id(columns, name)]
    if not names and not said:
        raise ConfigError(
            "embedding.vocabulary=dynamic, but no category is called id, *_id or *Id. Name the "
            f"columns whose values grow: embedding.dynamic=[{', '.join(able[:3])}]."
        )
    fields: dict[str, Mapping[str, Any]] = dict(data.fields)
    for name in names:
        fields[name] = {**fields.get(name, {}), "encoding": str(Encoding.DYNAMIC)}
    return dataclasses.replace(data, fields=fields)


def _is_id(columns: Schema, name: str) -> bool:
    return columns[name].kind is Kind.CATEGORICAL and _ID.search(name) is not None
