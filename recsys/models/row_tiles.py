"""Whole tiles of rows: what makes the score of a row the same whichever rows come with it.

A matrix product rounds the rows at the end of a batch, and those of a tiny batch, in another order
than the rest: the same row scored alone, in a request and in a table would differ in its last bit.
So batches are filled up to whole tiles, and every true row is computed as a row of a whole tile is.
This is a property of the products in use, not a theorem: `largest_difference` tries it out
with a model, where it is to run.

Letters   B rows, P values of a list column.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from recsys.data.encode import EncodedTable, id_dtype
from recsys.data.schema import MISSING, NUM_RESERVED, Field, Schema

TILE = 16
"""Rows of a tile; the products of MKL and oneDNN work on 4 to 16 at a time."""
PROBE_LENGTH = 12
"""Longest list of rows that are made to try a model out."""


def whole_tiles(encoded: EncodedTable) -> EncodedTable:
    """Fill up with copies of the last row until rows and values of lists come in whole tiles.

    Lists of the rows that are added hold MISSING; columns of labels, weights and groups are left
    out.

    Shape:
        return  B up to the next multiple of `TILE`, one tile more where lists need the room

    Example:
        >>> rows = EncodedTable(np.zeros((3, 2), np.int32), np.zeros((3, 0), np.float32))
        >>> len(whole_tiles(rows))
        16
    """
    rows = len(encoded)
    if not rows:
        return encoded
    lacking = {name: -len(values) % TILE for name, (values, _) in encoded.ragged.items()}
    added = -rows % TILE
    if added == 0:
        if not any(lacking.values()):
            return encoded
        added = TILE
    ragged = {}
    for name, (values, offsets) in encoded.ragged.items():
        # Spread evenly, so that lists that are read together stay of one length.
        share, rest = divmod(lacking[name], added)
        lengths = np.full(added, share, np.int64)
        lengths[:rest] += 1
        ragged[name] = (
            np.concatenate([values, np.full(lacking[name], MISSING, values.dtype)]),
            np.concatenate([offsets, offsets[-1] + np.cumsum(lengths)]),
        )
    return EncodedTable(
        np.concatenate([encoded.ids, np.repeat(encoded.ids[-1:], added, axis=0)]),
        np.concatenate([encoded.dense, np.repeat(encoded.dense[-1:], added, axis=0)]),
        ragged,
    )


def probe_rows(schema: Schema, rows: int, seed: int = 0) -> EncodedTable:
    """Random encoded rows that a schema allows: any code but padding, lists of up to 12 values.

    Args:
        schema: Fitted.
        rows: B.
        seed: Of the random numbers.
    """
    rng = np.random.default_rng(seed)

    def codes(one: Field, count: int) -> np.ndarray:
        owner = schema[one.shares] if one.shares else one
        size = owner.size or one.size or NUM_RESERVED
        return rng.integers(MISSING, size, count).astype(id_dtype(schema))

    ids = np.empty((rows, len(schema.coded)), id_dtype(schema))
    for position, one in enumerate(schema.coded):
        ids[:, position] = codes(one, rows)
    wanted = rng.integers(0, PROBE_LENGTH + 1, rows)  # one for all lists: some are read together
    ragged = {}
    for one in schema.ragged:
        lengths = np.minimum(wanted, one.max_length or PROBE_LENGTH)
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        ragged[one.name] = (codes(one, int(offsets[-1])), offsets)
    dense = rng.normal(size=(rows, len(schema.dense))).astype(np.float32)
    return EncodedTable(ids, dense, ragged)


def largest_difference(
    logits_of: Callable[[EncodedTable], np.ndarray], rows: EncodedTable
) -> float:
    """By how much the logit of a row depends on the rows that come with it: 0 if not in one bit.

    Args:
        logits_of: The scorer.
        rows: Scored all together, the first of them alone, and in runs of many lengths.
    """
    together = logits_of(rows)
    rng = np.random.default_rng(0)
    spans = [(start, start + 1) for start in range(min(4, len(rows)))]
    for length in (2, 3, 5, 8, 13, 16, 21, 34, 55, 89, 100, 144):
        if length < len(rows):
            start = int(rng.integers(0, len(rows) - length))
            spans.append((start, start + length))
    worst = 0.0
    for start, stop in spans:
        apart = logits_of(rows.take(np.arange(start, stop)))
        if not np.array_equal(apart, together[start:stop], equal_nan=True):
            worst = max(worst, float(np.abs(apart - together[start:stop]).max()))
    return worst
