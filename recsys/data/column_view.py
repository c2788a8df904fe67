"""Some columns of prepared data without preparing it again.

A code of a column depends on that column alone, so the view holds what preparing with
`data.features=<names>` would have written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from recsys.data.encode import FeaturePipeline, id_dtype
from recsys.data.prepare import Prepared
from recsys.data.schema import Schema
from recsys.data.store import Store


def view_bytes(prepared: Prepared, names: Sequence[str]) -> int:
    """Memory that `select_columns` takes: the chosen single-valued columns of every split."""
    schema = prepared.pipeline.schema.select(names)
    width = len(schema.coded) * np.dtype(id_dtype(schema)).itemsize + 4 * len(schema.dense)
    return width * sum(store.num_rows for store in prepared.stores.values())


def select_columns(prepared: Prepared, names: Sequence[str]) -> Prepared:
    """The same rows with fewer columns; single-valued ones are copied to memory, lists are not.

    Args:
        prepared: Data with at least these columns.
        names: Columns to keep, in any order; those whose tables they share are kept too.

    Raises:
        SchemaError: there is no such column.
    """
    schema = prepared.pipeline.schema.select(names)
    if schema.names == prepared.pipeline.schema.names:
        return prepared
    owners = {field.shares or field.name for field in schema}
    fitted = prepared.pipeline
    pipeline = FeaturePipeline(
        schema,
        {name: one for name, one in fitted.vocabularies.items() if name in owners},
        {name: one for name, one in fitted.scales.items() if name in schema.names},
        fitted.nan_as_missing,
    )
    views = {split: _view(store, schema) for split, store in prepared.stores.items()}
    return dataclasses.replace(
        prepared,
        train=views["train"],
        val=views.get("val"),
        test=views.get("test"),
        pipeline=pipeline,
        digest=f"{prepared.digest}-{schema.digest()}",
        summary=tuple(row for row in prepared.summary if row["column"] in schema.names),
    )


def _view(store: Store, schema: Schema) -> Store:
    arrays = {"label": store.label}
    coded = [field.name for field in store.schema.coded]
    dense = [field.name for field in store.schema.dense]
    ids = store.ids[:, [coded.index(field.name) for field in schema.coded]]
    arrays["ids"] = np.ascontiguousarray(ids, id_dtype(schema))
    numbers = store.dense[:, [dense.index(field.name) for field in schema.dense]]
    arrays["dense"] = np.ascontiguousarray(numbers)
    for name, array in (("weight", store.weight), ("group", store.group), ("row", store.row)):
        if array is not None:
            arrays[name] = array
    for i, field in enumerate(schema.ragged):
        arrays[f"ragged_{i}_values"], arrays[f"ragged_{i}_offsets"] = store.ragged[field.name]
    meta = {
        "num_rows": store.num_rows,
        "schema": schema.to_dict(),
        "digest": f"{store.digest}-{schema.digest()}",
        "split": store.split,
        "files": store.files,
        "arrays": {},
    }
    return Store(store.path, meta, arrays)
