"""Permutation importance: how much worse a model scores when one raw field tells it nothing.

Source   Breiman, Machine Learning 2001, Sec. 10; Fisher, Rudin and Dominici, JMLR 2019.
Differs  Nothing is refitted and no field is dropped: the column of one field is permuted across
         rows, which keeps its distribution and cuts its tie to the label and to the other fields.
         Fields that carry the same information share their importance, and each alone may look
         unimportant; values are those of THIS model on THESE rows.

Letters   n rows, F raw fields, K labels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from recsys.data.columns import Lists
from recsys.data.encode import EncodedTable
from recsys.data.schema import Schema
from recsys.data.store import Store
from recsys.errors import SchemaError
from recsys.metrics.classification import auc_of, log_loss_of, rank

Score: TypeAlias = Callable[[EncodedTable], np.ndarray]
"""Logits [B] or [B, K] of encoded rows: any model, of any kind."""
BLOCK_ROWS = 8192
"""Rows scored at a time."""


@dataclass(frozen=True)
class Importance:
    """What permuting each field did: means and standard deviations over the repeats.

    Shape:
        auc_drop, logloss_rise and their deviations  [F] float64, fields in schema order
    """

    fields: tuple[str, ...]
    """Of fields that were permuted together, one entry: their names with " + " between them."""
    auc_drop: np.ndarray
    auc_drop_deviation: np.ndarray
    logloss_rise: np.ndarray
    logloss_rise_deviation: np.ndarray
    auc: float
    """Of the rows as they are."""
    logloss: float
    """Of the rows as they are."""
    num_rows: int
    labels: tuple[str, ...]
    """Labels that have positives and negatives: of several, all other numbers are means."""
    by_label: np.ndarray
    """[F, K] drop in AUC of each label."""

    def top(self, count: int) -> list[tuple[str, float]]:
        """The fields that cost most AUC, with what they cost."""
        order = np.argsort(-self.auc_drop, kind="stable")[:count]
        return [(self.fields[i], float(self.auc_drop[i])) for i in order]


def permutation_importance(
    score: Score,
    schema: Schema,
    rows: EncodedTable,
    *,
    repeats: int = 3,
    seed: int = 0,
    together: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> Importance:
    """Score the rows once as they are, then `repeats` times per field with its column permuted.

    Ids, numbers and lists are permuted before the model looks them up; a history that shares the
    table of another field is permuted on its own. Costs at most F * repeats * n scored rows: a row
    that got the value it had keeps its logit.

    Args:
        score: The model.
        schema: Fitted; its fields are permuted one after the other.
        rows: Encoded rows with labels [n] or [n, K]; where one is missing, it does not count. A
            label of one class is left out.
        repeats: Permutations per field, at least 1.
        seed: Of the permutations; each field has its own, whatever other fields there are.
        together: Fields that take one permutation and count as one, in the place of the first of
            them: histories that the model reads event by event, which would not fit otherwise.
        progress: Called with (rows scored, rows in all).

    Raises:
        SchemaError: the rows have no label, or only one class of it.
    """
    rows = _labelled(rows)
    assert rows.label is not None
    labels = rows.label.reshape(len(rows), -1)
    judged = [k for k, column in enumerate(labels.T) if {0.0, 1.0} <= set(np.unique(column))]
    if not judged:
        raise SchemaError(
            f"importance needs positives and negatives, but all {len(rows):,} labelled rows have "
            "one label. Give more rows."
        )

    def quality(logits: np.ndarray) -> np.ndarray:
        """AUC and log-loss of each label, [K, 2]."""
        found = []
        for k in judged:
            there = ~np.isnan(labels[:, k])
            weight = None if rows.weight is None else rows.weight[there]
            ranked = rank(logits.reshape(len(rows), -1)[there, k], labels[there, k], weight)
            found.append((auc_of(ranked), log_loss_of(ranked)))
        return np.array(found)

    before = _logits(score, rows)
    whole = quality(before)
    units = _units(schema.names, together)
    changes = np.empty((len(units), repeats, len(judged), 2))
    for position, names in enumerate(units):
        rng = np.random.default_rng([seed, *names[0].encode()])
        for repeat in range(repeats):
            order = rng.permutation(len(rows))
            changed = rows
            for name in names:
                changed = permuted(schema, changed, name, order)
            differs = _rows_that_differ(schema, rows, changed, names)
            logits = before.copy()
            if differs.size:
                logits[differs] = _logits(score, changed.take(differs))
            found = quality(logits)
            changes[position, repeat] = (whole - found) * [1, -1]
            if progress is not None:
                done = position * repeats + repeat + 1
                progress(done * len(rows), len(units) * repeats * len(rows))
    by_label = changes[..., 0].mean(axis=1)
    changes = changes.mean(axis=2)
    mean, deviation = changes.mean(axis=1), changes.std(axis=1)
    return Importance(
        fields=tuple(" + ".join(names) for names in units),
        auc_drop=mean[:, 0],
        auc_drop_deviation=deviation[:, 0],
        logloss_rise=mean[:, 1],
        logloss_rise_deviation=deviation[:, 1],
        auc=float(whole[:, 0].mean()),
        logloss=float(whole[:, 1].mean()),
        num_rows=len(rows),
        labels=tuple(schema.labels[k] for k in judged),
        by_label=by_label,
    )


def permuted(schema: Schema, rows: EncodedTable, name: str, order: np.ndarray) -> EncodedTable:
    """The rows with one field's column taken in another order, everything else as it was.

    Args:
        schema: Fitted.
        rows: Encoded rows.
        name: A field of the schema.
        order: Positions of the rows [n].
    """
    field = schema[name]
    if field.is_ragged:
        values, offsets = rows.ragged[name]
        lists = Lists(values, np.diff(offsets)).take(order)
        ends = np.concatenate([[0], np.cumsum(lists.lengths, dtype=np.int64)])
        return dataclasses.replace(rows, ragged={**rows.ragged, name: (lists.values, ends)})
    matrix = "ids" if field.is_coded else "dense"
    columns = schema.coded if field.is_coded else schema.dense
    column = [one.name for one in columns].index(name)
    changed = getattr(rows, matrix).copy()
    changed[:, column] = changed[order, column]
    return dataclasses.replace(rows, **{matrix: changed})


def sample_rows(store: Store, num_rows: int, seed: int = 0) -> EncodedTable:
    """At most so many rows of a store, drawn without replacement, in the order of the store."""
    rows = np.arange(store.num_rows)
    if store.num_rows > num_rows:
        rng = np.random.default_rng(seed)
        rows = np.sort(rng.choice(store.num_rows, size=num_rows, replace=False))
    batch = store.gather(rows)
    return EncodedTable(
        ids=batch.ids.numpy(),
        dense=batch.dense.numpy(),
        ragged={name: (r.values.numpy(), r.offsets.numpy()) for name, r in batch.ragged.items()},
        label=batch.label.numpy(),
        weight=None if batch.weight is None else batch.weight.numpy(),
        group=None if batch.group is None else batch.group.numpy(),
    )


def _units(names: Sequence[str], together: Sequence[str]) -> list[tuple[str, ...]]:
    """Fields to be permuted at a time, in schema order."""
    joined = tuple(name for name in names if name in together)
    return [
        joined if name in joined else (name,)
        for name in names
        if name not in joined or name == joined[0]
    ]


def _logits(score: Score, rows: EncodedTable) -> np.ndarray:
    return np.concatenate([score(part) for part in _blocks(rows)])


def _rows_that_differ(
    schema: Schema, rows: EncodedTable, changed: EncodedTable, names: Sequence[str]
) -> np.ndarray:
    """Rows to score again; of a list field, all of them."""
    if any(schema[name].is_ragged for name in names):
        return np.arange(len(rows))
    differs = (rows.ids != changed.ids).any(1) | (rows.dense != changed.dense).any(1)
    return np.flatnonzero(differs)


def _labelled(rows: EncodedTable) -> EncodedTable:
    if rows.label is None:
        raise SchemaError("importance needs rows with labels; these have none.")
    present = np.flatnonzero(~np.isnan(rows.label.reshape(len(rows), -1)).all(axis=1))
    return rows if len(present) == len(rows) else rows.take(present)


def _blocks(rows: EncodedTable) -> Iterator[EncodedTable]:
    """Consecutive rows at a time, as views."""
    for start in range(0, len(rows), BLOCK_ROWS):
        part = slice(start, start + BLOCK_ROWS)
        ragged = {}
        for name, (values, offsets) in rows.ragged.items():
            ends = offsets[start : start + BLOCK_ROWS + 1]
            ragged[name] = (values[ends[0] : ends[-1]], ends - ends[0])
        yield EncodedTable(rows.ids[part], rows.dense[part], ragged)
