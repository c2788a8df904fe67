"""Rows under masks and shuffles against the same done to raw rows and to vectors by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys.data.encode import EncodedTable
from recsys.embedding.embedded import Embedded, History
from recsys.errors import SchemaError
from recsys.models import masked_rows
from recsys.models.importance import permuted
from recsys.models.masked_rows import MaskedRows, Variant
from tests.embedding.test_lookup import make_batch, make_schema
from tests.models.test_recommender import build

ROWS = 40
MODELS = ["lr.LR", "fm.FM", "dcnv2.DCNv2", "finalnet.FinalNet", "din.DIN"]


def encoded(rows: int = ROWS, weight: bool = False) -> EncodedTable:
    batch, rng = make_batch(rows), np.random.default_rng(0)
    return EncodedTable(
        ids=batch.ids.numpy(),
        dense=batch.dense.numpy(),
        ragged={name: (r.values.numpy(), r.offsets.numpy()) for name, r in batch.ragged.items()},
        label=rng.integers(0, 2, rows).astype(np.float32),
        weight=rng.uniform(0.5, 2, rows).astype(np.float32) if weight else None,
    )


def loss(logits: Tensor, rows: EncodedTable) -> Tensor:
    label = torch.from_numpy(rows.label).double()
    return binary_cross_entropy_with_logits(logits.double(), label, reduction="none")


@pytest.mark.parametrize("block", [7, 64, 4096])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("numeric", ["vector", "dense"])
def test_a_shuffled_field_is_a_permuted_raw_column(
    model: str, numeric: str, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(masked_rows, "BLOCK_ROWS", block)
    recommender, rows, schema = build(model, numeric=numeric), encoded(), make_schema()
    found = MaskedRows(recommender, rows, num_shuffles=2)
    assert found.fields == tuple(schema.names)
    variants, expected = [Variant()], [rows]
    for i, name in enumerate(schema.names):
        variants.append(Variant(shuffled={i: 1}))
        expected.append(permuted(schema, rows, name, found.orders[1].numpy()))
    variants.append(Variant(shuffled={1: 0, 3: 1}))
    changed = permuted(schema, rows, schema.names[1], found.orders[0].numpy())
    expected.append(permuted(schema, changed, schema.names[3], found.orders[1].numpy()))
    losses = found.losses(variants)
    for got, table in zip(losses, expected, strict=True):
        with torch.no_grad():
            torch.testing.assert_close(
                got, loss(recommender(table.to_batch()), rows), rtol=1e-5, atol=1e-6
            )
    np.testing.assert_allclose(found.means(variants), losses.mean(1).numpy(), rtol=1e-12)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("numeric", ["vector", "dense"])
def test_a_mask_scales_all_that_a_field_brings(model: str, numeric: str) -> None:
    recommender, rows = build(model, numeric=numeric), encoded()
    schema, plan = recommender.lookup.schema, recommender.lookup.plan
    found = MaskedRows(recommender, rows, num_shuffles=1)
    dense = [one.name for one in schema.dense] if numeric == "dense" else []
    for i, name in enumerate(found.fields):
        with torch.no_grad():
            whole = recommender.lookup(rows.to_batch())
            changed = scaled(whole, name, list(plan.names), dense, 0.3)
            expected = loss(recommender.model(changed), rows)
        torch.testing.assert_close(
            found.losses([Variant(masks={i: 0.3})])[0], expected, rtol=1e-5, atol=1e-6
        )


def scaled(
    whole: Embedded, name: str, slots: list[str], dense: list[str], factor: float
) -> Embedded:
    """The same vectors, those of one field times a factor."""
    changed = dataclasses.replace(whole, history=dict(whole.history), target=dict(whole.target))
    for part, names in (("fields", slots), ("second", slots), ("linear", slots), ("dense", dense)):
        tensor = getattr(whole, part)
        if tensor is not None and name in names:
            tensor = tensor.clone()
            tensor[:, names.index(name)] *= factor
            setattr(changed, part, tensor)
    if name in whole.history:
        past = whole.history[name]
        changed.history[name] = History(past.values * factor, past.offsets, past.longest)
    if name == "item":
        changed.target = {key: value * factor for key, value in whole.target.items()}
    return changed


def test_a_mask_holds_for_shuffled_values_too() -> None:
    recommender, rows = build("fm.FM"), encoded()
    found = MaskedRows(recommender, rows, num_shuffles=1)
    order = found.orders[0].numpy()
    moved = permuted(make_schema(), rows, "user", order)
    other = MaskedRows(recommender, moved, num_shuffles=1)
    at = found.fields.index("user")
    got = found.losses([Variant({at: 0.5}, {at: 0})])
    torch.testing.assert_close(got, other.losses([Variant({at: 0.5})]), rtol=1e-5, atol=1e-7)


def test_weights_are_relative_and_rows_without_a_label_are_left_out() -> None:
    recommender, rows = build("fm.FM"), encoded(weight=True)
    plain = MaskedRows(recommender, dataclasses.replace(rows, weight=None), 1)
    weighted = MaskedRows(recommender, rows, 1)
    assert rows.weight is not None
    np.testing.assert_allclose(
        weighted.means([Variant()])[0],
        np.average(plain.losses([Variant()])[0].numpy(), weights=rows.weight),
        rtol=1e-6,
    )
    label = np.where(np.arange(ROWS) < 10, np.nan, rows.label).astype(np.float32)
    some = MaskedRows(recommender, dataclasses.replace(rows, label=label), 1)
    assert len(some) == ROWS - 10
    assert sorted(some.orders[0].tolist()) == list(range(ROWS - 10))
    with pytest.raises(SchemaError, match="0 of 40 rows have one"):
        MaskedRows(recommender, dataclasses.replace(rows, label=None), 1)


def test_progress_ends_at_the_number_of_variants() -> None:
    told: list[int] = []
    rows = MaskedRows(build("fm.FM"), encoded(), 1)
    rows.losses([Variant()] * 5, told.append)
    assert told[-1] == 5
    rows.means([Variant()] * 300, told.append)
    assert told[-2:] == [256, 300]
