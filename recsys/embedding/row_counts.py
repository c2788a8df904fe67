"""How often each storage row occurs in the rows of a store.

Letters   n rows of the store, R storage rows.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from recsys.data.store import Store
from recsys.embedding.layout import Layout

BLOCK = 65536
"""Values counted at once: the store may be larger than memory."""


def count_rows(store: Store, layout: Layout) -> Tensor:
    """Occurrences of every storage row, [R] int64: in single fields and in lists, each lookup of a
    value once. Row 0, the padding, counts 0.

    Args:
        store: Encoded rows, read in blocks.
        layout: Where the codes of this store lie.
    """
    counts = torch.zeros(layout.num_rows, dtype=torch.int64)
    names = tuple(field.name for field in store.schema.coded)
    if names:
        for start in range(0, store.num_rows, BLOCK):
            codes = torch.from_numpy(np.ascontiguousarray(store.ids[start : start + BLOCK]))
            counts += _occurrences(layout.rows(codes, names), layout.num_rows)
    for field in store.schema.ragged:
        values, _ = store.ragged[field.name]
        table = field.shares or field.name
        for start in range(0, len(values), BLOCK):
            codes = torch.from_numpy(np.ascontiguousarray(values[start : start + BLOCK]))
            for lookup in range(layout.table(table).lookups):
                counts += _occurrences(layout.rows_of(codes, table, lookup), layout.num_rows)
    counts[0] = 0
    return counts


def _occurrences(rows: Tensor, num_rows: int) -> Tensor:
    return torch.bincount(rows.reshape(-1), minlength=num_rows)
