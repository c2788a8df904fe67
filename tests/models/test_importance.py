"""Permutation importance: a planted signal, a slow loop, and what exactly is permuted."""

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from recsys.data.encode import EncodedTable, FeaturePipeline
from recsys.data.readers import Source
from recsys.data.schema import Field, Schema
from recsys.data.store import Store, StoreWriter
from recsys.errors import SchemaError
from recsys.models import importance as importance_module
from recsys.models.importance import permutation_importance, permuted, sample_rows

FIELDS = (
    Field(name="strong", kind="numeric", encoding="standard", dtype="float"),
    Field(name="item", kind="categorical", encoding="vocabulary", dtype="int"),
    Field(name="noise", kind="categorical", encoding="vocabulary", dtype="int"),
    Field(name="tags", kind="multivalued", encoding="vocabulary", dtype="int"),
    Field(name="seen", kind="history", encoding="vocabulary", dtype="int", shares="item"),
    Field(name="silence", kind="numeric", encoding="standard", dtype="float"),
)
WEIGHTS = {"strong": 2.0, "item": 1.0, "tags": 0.5, "seen": 0.25}


def encoded(rows: int = 3000, seed: int = 0, weight: bool = False) -> tuple[Schema, EncodedTable]:
    """Rows whose label depends on four fields with falling strength and on two not at all."""
    rng = np.random.default_rng(seed)
    lists = [rng.integers(0, 4, rng.integers(0, 4)) for _ in range(2 * rows)]
    frame = pl.DataFrame(
        {
            "strong": rng.normal(size=rows),
            "item": rng.integers(0, 10, rows),
            "noise": rng.integers(0, 10, rows),
            "tags": lists[:rows],
            "seen": lists[rows:],
            "silence": rng.normal(size=rows),
            "click": np.zeros(rows, np.int8),
            "mass": rng.random(rows) + 0.1,
        }
    )
    schema = Schema(fields=FIELDS, labels=("click",), weight="mass" if weight else None)
    pipeline = FeaturePipeline.fit(Source.from_frame(frame), schema)
    table = pipeline.transform(frame)
    logits = score(table)
    assert table.label is not None
    table.label[:] = rng.random(rows) < 1 / (1 + np.exp(-logits))
    return pipeline.schema, table


def score(rows: EncodedTable) -> np.ndarray:
    """A model that is known: it reads every field but `noise` and `silence`."""
    logits = WEIGHTS["strong"] * rows.dense[:, 0]
    logits = logits + WEIGHTS["item"] * (rows.ids[:, 0] % 3 - 1)
    for name in ("tags", "seen"):
        values, offsets = rows.ragged[name]
        assert len(offsets) == len(rows) + 1
        lengths = np.diff(offsets)
        sums = np.zeros(len(rows))
        np.add.at(sums, np.repeat(np.arange(len(rows)), lengths), values % 2 - 0.5)
        logits = logits + WEIGHTS[name] * 2 * sums
    return logits.astype(np.float32)


def test_planted_fields_come_in_order_and_noise_is_zero() -> None:
    schema, rows = encoded()
    found = permutation_importance(score, schema, rows)
    drop = dict(zip(found.fields, found.auc_drop, strict=True))
    rise = dict(zip(found.fields, found.logloss_rise, strict=True))
    assert [name for name, _ in found.top(4)] == ["strong", "item", "tags", "seen"]
    for name in ("noise", "silence"):
        assert drop[name] == rise[name] == 0.0
    assert drop["seen"] > 0.005
    assert rise["strong"] > rise["item"] > rise["tags"] > rise["seen"] > 0.005
    assert (found.auc_drop_deviation[:2] > 0).all()


@pytest.mark.parametrize("weight", [False, True])
@pytest.mark.parametrize("block", [7, 10_000])
def test_against_a_slow_loop(weight: bool, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows one by one with the field taken from another row; AUC by counting pairs."""
    monkeypatch.setattr(importance_module, "BLOCK_ROWS", block)
    schema, rows = encoded(80, weight=weight)
    found = permutation_importance(score, schema, rows, repeats=2, seed=5)
    mass = np.ones(80) if rows.weight is None else rows.weight.astype(np.float64)
    assert rows.label is not None

    def quality(logits: list[float]) -> tuple[float, float]:
        won = pairs = loss = 0.0
        for i in range(80):
            p = 1 / (1 + np.exp(-logits[i]))
            loss -= mass[i] * np.log(p if rows.label[i] else 1 - p)
            for j in range(80):
                if rows.label[i] > rows.label[j]:
                    pairs += mass[i] * mass[j]
                    won += (
                        mass[i] * mass[j] * ((logits[i] > logits[j]) + (logits[i] == logits[j]) / 2)
                    )
        return won / pairs, loss / mass.sum()

    def one_row(row: int, name: str, other: int) -> float:
        """Row `row` with field `name` of row `other`."""
        mine, theirs = rows.take(np.array([row])), rows.take(np.array([other]))
        ids, dense, ragged = mine.ids.copy(), mine.dense.copy(), dict(mine.ragged)
        if name in ragged:
            ragged[name] = theirs.ragged[name]
        elif name in ("item", "noise"):
            column = ("item", "noise").index(name)
            ids[0, column] = theirs.ids[0, column]
        else:
            column = ("strong", "silence").index(name)
            dense[0, column] = theirs.dense[0, column]
        return float(score(EncodedTable(ids, dense, ragged))[0])

    whole = quality([one_row(i, "item", i) for i in range(80)])
    assert (found.auc, found.logloss) == pytest.approx(whole)
    for position, name in enumerate(schema.names):
        rng = np.random.default_rng([5, *name.encode()])
        drops, rises = [], []
        for _ in range(2):
            order = rng.permutation(80)
            now = quality([one_row(i, name, int(order[i])) for i in range(80)])
            drops.append(whole[0] - now[0])
            rises.append(now[1] - whole[1])
        assert found.auc_drop[position] == pytest.approx(np.mean(drops), abs=1e-12)
        assert found.auc_drop_deviation[position] == pytest.approx(np.std(drops), abs=1e-12)
        assert found.logloss_rise[position] == pytest.approx(np.mean(rises), abs=1e-9)
        assert found.logloss_rise_deviation[position] == pytest.approx(np.std(rises), abs=1e-9)


def test_fields_permuted_together_keep_their_tie() -> None:
    """Two histories of the same events: one permuted alone makes no row."""
    schema, rows = encoded(3000)
    rows.ragged["tags"] = rows.ragged["seen"]
    rng = np.random.default_rng(0)
    rows = dataclasses.replace(
        rows, label=(rng.random(3000) < 1 / (1 + np.exp(-score(rows)))).astype(np.float32)
    )

    def tied(some: EncodedTable) -> np.ndarray:
        (values, offsets), (others, ends) = some.ragged["tags"], some.ragged["seen"]
        assert np.array_equal(offsets, ends)
        assert np.array_equal(values, others)
        return score(some)

    with pytest.raises(AssertionError):
        permutation_importance(tied, schema, rows)
    found = permutation_importance(tied, schema, rows, together=("seen", "tags"))
    first, second = (name for name in schema.names if name in ("seen", "tags"))
    assert found.fields.count(f"{first} + {second}") == 1
    assert len(found.fields) == len(schema.names) - 1
    alone = permutation_importance(score, schema, rows)
    for name, drop in zip(found.fields, found.auc_drop, strict=True):
        if "+" in name:
            assert drop > 0.005
        else:
            assert drop == alone.auc_drop[alone.fields.index(name)]


@pytest.mark.parametrize("name", [field.name for field in FIELDS])
def test_only_one_column_moves(name: str) -> None:
    schema, rows = encoded(50)
    order = np.random.default_rng(1).permutation(50)
    moved = permuted(schema, rows, name, order)
    whole = rows.take(order)
    for position, field in enumerate(schema.coded):
        expected = whole if field.name == name else rows
        np.testing.assert_array_equal(moved.ids[:, position], expected.ids[:, position])
    for position, field in enumerate(schema.dense):
        expected = whole if field.name == name else rows
        np.testing.assert_array_equal(moved.dense[:, position], expected.dense[:, position])
    for field in schema.ragged:
        expected = whole if field.name == name else rows
        for got, wanted in zip(moved.ragged[field.name], expected.ragged[field.name], strict=True):
            np.testing.assert_array_equal(got, wanted)
    np.testing.assert_array_equal(moved.label, rows.label)


def test_same_seed_same_numbers_whatever_other_fields_there_are() -> None:
    schema, rows = encoded(300)
    one, two = (permutation_importance(score, schema, rows, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.auc_drop, two.auc_drop)
    other = permutation_importance(score, schema, rows, seed=4)
    assert (one.auc_drop != other.auc_drop).any()


def test_rows_that_kept_their_value_are_not_scored_again() -> None:
    schema, rows = encoded(400)
    rows.ids[:, 1] = 3  # `noise` is constant: permuting it changes nothing
    scored = 0

    def counting(part: EncodedTable) -> np.ndarray:
        nonlocal scored
        scored += len(part)
        return score(part)

    permutation_importance(counting, schema, rows, repeats=1)
    # Once as they are; two numbers and two lists whole; `item` where it differs.
    assert 5 * 400 - 10 < scored < 6 * 400 - 10


def test_progress_ends_at_all_rows() -> None:
    schema, rows = encoded(100)
    told: list[tuple[int, int]] = []
    permutation_importance(
        score, schema, rows, repeats=1, progress=lambda done, total: told.append((done, total))
    )
    assert told[-1] == (600, 600)
    assert len(told) == 6


def test_rows_without_a_label_do_not_count_and_one_class_is_an_error() -> None:
    schema, rows = encoded(200)
    assert rows.label is not None
    rows.label[:50] = np.nan
    assert permutation_importance(score, schema, rows, repeats=1).num_rows == 150
    rows.label[50:] = 1.0
    with pytest.raises(SchemaError, match="150 labelled rows have one label"):
        permutation_importance(score, schema, rows)
    with pytest.raises(SchemaError, match="rows with labels; these have none"):
        permutation_importance(score, schema, EncodedTable(rows.ids, rows.dense, rows.ragged))


def test_of_several_labels_each_is_judged_and_the_mean_told() -> None:
    schema, rows = encoded(400)
    assert rows.label is not None
    rng = np.random.default_rng(1)
    other = (rng.random(400) < 0.3).astype(np.float32)
    other[:100] = np.nan
    one_class = np.zeros(400, np.float32)
    alone = [
        permutation_importance(score, schema, dataclasses.replace(rows, label=label), repeats=2)
        for label in (rows.label, other)
    ]
    both = dataclasses.replace(rows, label=np.stack([rows.label, one_class, other], axis=1))
    three = Schema(schema.fields, ("click", "never", "other"))
    found = permutation_importance(
        lambda part: np.repeat(score(part)[:, None], 3, axis=1), three, both, repeats=2
    )
    assert found.labels == ("click", "other")
    np.testing.assert_allclose(found.by_label[:, 0], alone[0].auc_drop)
    np.testing.assert_allclose(found.auc_drop, found.by_label.mean(axis=1))
    assert found.auc == pytest.approx((alone[0].auc + alone[1].auc) / 2)


def test_a_sample_of_a_store_is_what_the_store_holds(tmp_path: Path) -> None:
    schema, rows = encoded(60, weight=True)
    with StoreWriter(tmp_path / "store", schema) as writer:
        writer.append(rows)
    store = Store.open(tmp_path / "store")
    whole = sample_rows(store, 1000)
    np.testing.assert_array_equal(whole.ids, rows.ids)
    np.testing.assert_array_equal(whole.weight, rows.weight)
    for name, (values, offsets) in rows.ragged.items():
        np.testing.assert_array_equal(whole.ragged[name][0], values)
        np.testing.assert_array_equal(whole.ragged[name][1], offsets)
    part = sample_rows(store, 20, seed=1)
    assert len(part) == 20
    assert {tuple(row) for row in part.dense} <= {tuple(row) for row in rows.dense}
    np.testing.assert_array_equal(part.ids, sample_rows(store, 20, seed=1).ids)
