"""Labels of every type, parts, and what is refused."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.split import RandomSplit, assign
from recsys.errors import SchemaError
from recsys.feature_ranking.rows import HELD_OUT, NOT_COUNTED, NUM_BLOCKS, count_rows
from tests.feature_ranking.planted import dataset

ROWS = 2_000


def labelled(label: object, **more: object) -> RawDataset:
    frame = pl.DataFrame({"x": np.arange(ROWS) % 7, "y": label, **more}, strict=False)
    return dataset(frame, "y")


@pytest.mark.parametrize(
    ("label", "classes"),
    [
        (np.arange(ROWS) % 2, ("0", "1")),
        ((np.arange(ROWS) % 2).astype(float), ("0", "1")),
        (np.arange(ROWS) % 3 == 0, ("False", "True")),
        (np.arange(ROWS) % 12, tuple(str(k) for k in range(12))),
        ([["b", "a", "c"][k % 3] for k in range(ROWS)], ("a", "b", "c")),
    ],
)
def test_classes_in_the_order_of_their_values(label: object, classes: tuple[str, ...]) -> None:
    rows = count_rows(labelled(label), "y", rule=None)
    assert rows.classes == classes
    assert not rows.is_number
    given = [str(int(v)) if isinstance(v, float) else str(v) for v in pl.Series(label)]
    assert [classes[one % len(classes)] for one in rows.files[0].cell] == given
    assert rows.class_counts.sum() == rows.num_train == ROWS


def test_a_number_is_taken_by_its_normal_scores() -> None:
    label = np.random.default_rng(0).lognormal(0, 3, ROWS)
    rows = count_rows(labelled(label), "y", rule=None)
    assert rows.is_number
    scores = rows.files[0].number
    assert scores is not None
    assert scores.mean() == pytest.approx(0, abs=1e-6)
    assert scores.std() == pytest.approx(1, abs=1e-5)
    assert (np.argsort(scores, kind="stable") == np.argsort(label, kind="stable")).all()


def test_target_overrides_what_the_type_suggests() -> None:
    whole = np.arange(ROWS) % 40
    assert not count_rows(labelled(whole), "y", rule=None).is_number
    assert count_rows(labelled(whole), "y", rule=None, target="number").is_number
    tenths = (np.arange(ROWS) % 10) / 10
    assert count_rows(labelled(tenths), "y", rule=None).is_number
    assert len(count_rows(labelled(tenths), "y", rule=None, target="classes").classes) == 10


def test_rows_without_a_label_are_left_out_and_told() -> None:
    label = [None if k % 5 == 0 else k % 2 for k in range(ROWS)]
    rows = count_rows(labelled(label), "y", rule=None)
    assert rows.num_dropped == ROWS // 5
    assert (rows.files[0].cell == NOT_COUNTED).sum() == ROWS // 5
    gaps = [float("nan") if k % 4 == 0 else float(k % 2) for k in range(ROWS)]
    assert count_rows(labelled(gaps), "y", rule=None).num_dropped == ROWS // 4


def test_parts_follow_the_split_and_users_stay_together() -> None:
    users = np.arange(ROWS) // 4
    raw = labelled(np.arange(ROWS) % 2, user=users)
    raw = dataset(raw.files["train"].head(ROWS).to_pandas().pipe(pl.from_pandas), "y", group="user")
    rule = RandomSplit((0.6, 0.3, 0.1), 3)
    rows = count_rows(raw, "y", rule=rule)
    cell = rows.files[0].cell
    split = np.concatenate(
        [assign(raw.files["train"], rule)(c) for c in raw.files["train"].chunks()]
    )
    assert ((cell == NOT_COUNTED) == (split == 2)).all()
    assert ((cell // 2 == HELD_OUT) == (split == 1)).all()
    blocks = {}
    for user, one, where in zip(users, cell // 2, split, strict=True):
        if where == 0:
            assert blocks.setdefault(user, one) == one
    assert set(blocks.values()) == set(range(NUM_BLOCKS))


def test_validation_files_are_the_held_out_part_and_test_files_are_not_read() -> None:
    frame = pl.DataFrame({"x": [1, 2, 3, 4], "y": [0, 1, 0, 1]})
    sources = {name: Source.from_frame(frame) for name in ("train", "val", "test")}
    raw = RawDataset("x", sources, dataset(frame, "y").schema)
    rows = count_rows(raw, "y", rule=None)
    assert (rows.num_train, rows.num_held_out) == (4, 4)
    assert [file.source for file in rows.files] == [sources["train"], sources["val"]]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (np.zeros(ROWS, int), 'label "y" is 0 in every training row'),
        (np.full(ROWS, 2.5), 'label "y" is 2.5 in every training row'),
        (pl.Series([None] * ROWS, dtype=pl.Int64), 'label "y" is missing in every training row'),
        (np.arange(ROWS), "more than 256 classes.*target=number"),
        ([[1]] * ROWS, "holds list.*single values"),
    ],
)
def test_labels_that_cannot_rank(label: object, message: str) -> None:
    target = "number" if "2.5" in message else "classes"
    with pytest.raises(SchemaError, match=message):
        count_rows(labelled(label), "y", rule=None, target=target)


def test_a_text_is_no_number_and_an_absent_label_is_named() -> None:
    raw = labelled(["a", "b"] * (ROWS // 2))
    with pytest.raises(SchemaError, match="which is no number; set target=classes"):
        count_rows(raw, "y", rule=None, target="number")
    with pytest.raises(SchemaError, match='no column "z"'):
        count_rows(raw, "z", rule=None)
