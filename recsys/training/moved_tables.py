"""Tables that were sharded become plain, and plain ones are sharded: their optimisers' state too.

Plain: one matrix for all tables, with the padding's row 0 before them. Sharded: tables by name.

Letters   R rows of the matrix, W width, V physical width of sharded tables.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.embedding.lookup import EmbeddingLookup
from recsys.embedding.storage import rowwise_scale
from recsys.training.checkpoint import Checkpoint
from recsys.training.table_files import read_whole

PLAIN_STATE = "sparse.0.sum_of_squares"
"""Name, in a plain checkpoint's optimiser, of the state of Adagrad by row or by weight."""
STATE = "sum_of_squares"


def plain_tables(lookup: EmbeddingLookup, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What a plain lookup's `load_tables_state` takes, of tables read whole.

    Args:
        lookup: Says which tables, and which state lies with them.
        whole: `<table>.weight` [rows, V] and `<table>.<state>`.

    Raises:
        KeyError: a table, or its optimiser's state, is not there.
    """
    found = {}
    for name, wanted in lookup.tables_state().items():
        if name not in whole:
            raise KeyError(f"{name} is not among {', '.join(sorted(whole))}")
        tensor = whole[name][:, : wanted.shape[1]] if wanted.ndim == 2 else whole[name]
        if lookup.layout.shared:
            tensor = torch.cat([torch.zeros_like(tensor[:1]), tensor])
        found[name] = tensor
    return found


def plain_weights(
    lookup: EmbeddingLookup, checkpoint: Checkpoint, whole: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Weights of a checkpoint for a model that has its tables whole, whoever wrote it.

    Args:
        lookup: Of that model.
        checkpoint: Of a plain or a sharded run.
        whole: Its tables, where they have been read already.
    """
    weights = dict(checkpoint.tensors["weights"])
    if checkpoint.tables is not None:
        tables = plain_tables(lookup, read_whole(checkpoint.tables) if whole is None else whole)
        weights |= {f"tables.{name}": tensor for name, tensor in tables.items()}
    return weights


def plain_state(lookup: EmbeddingLookup, whole: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state of tables read whole, as the optimiser of a plain table saves it; nothing where
    there is none."""
    tables, width = lookup.layout.ranges, lookup.storage.width
    if any(f"{table.name}.{STATE}" not in whole for table in tables):
        return {}
    parts = [whole[f"{table.name}.{STATE}"] for table in tables]
    parts = [part[:, :width] if part.ndim == 2 else part / _by_width(width) for part in parts]
    return {PLAIN_STATE: torch.cat([torch.zeros_like(parts[0][:1]), *parts])}


def sharded_state(lookup: EmbeddingLookup, optimizer: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse of `plain_state`: `<table>.<state>` out of a plain checkpoint's optimiser."""
    if PLAIN_STATE not in optimizer:
        return {}
    state = optimizer[PLAIN_STATE]
    if state.ndim == 1:
        state = state * _by_width(lookup.storage.width)
    return {
        f"{table.name}.{STATE}": state[table.start : table.start + table.rows]
        for table in lookup.layout.ranges
    }


def _by_width(width: int) -> float:
    """A mean over the physical width by one over the width; 1 where both are equal."""
    return rowwise_scale(width) ** 2
