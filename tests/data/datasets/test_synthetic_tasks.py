"""Two related labels and an opposed one: parts, schema, and a ceiling for each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recsys.data.datasets.synthetic_tasks import build
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.data.raw import RawDataset
from recsys.data.synthetic_tasks import LABELS, generate_tasks
from recsys.errors import ConfigError

SIZES = {"rows": 3000, "num_val": 500, "num_test": 1000}


def frame(raw: RawDataset, split: str) -> pl.DataFrame:
    return pl.DataFrame(raw.files[split].head(10**9))


def test_parts_and_schema(tmp_path: Path) -> None:
    raw = build(**SIZES, labels=LABELS)
    assert [source.num_rows for source in raw.files.values()] == [3000, 500, 1000]
    assert raw.split is None
    assert raw.schema.labels == LABELS
    assert raw.schema.nested == {}
    assert raw.schema.group == "user"
    assert set(raw.schema.columns) == set(raw.files["train"].columns)
    data = prepare(raw, DataOptions(), tmp_path)
    assert data.train.label.shape == (3000, 3)
    assert data.bayes == raw.bayes


def test_parts_are_together_the_table() -> None:
    raw = build(**SIZES, seed=4, conflict=0.5, labels=LABELS)
    parts = pl.concat([frame(raw, split) for split in ("train", "val", "test")])
    assert parts.equals(generate_tasks(4500, 4, conflict=0.5).frame)


def test_the_ceilings_are_those_of_the_test_rows() -> None:
    raw = build(**SIZES, seed=1, labels=LABELS)
    probability = generate_tasks(4500, 1).probability[3500:]
    for column, label in enumerate(LABELS):
        p, y = probability[:, column], frame(raw, "test")[label].to_numpy()
        assert raw.bayes[f"{label}/realised_auc"] == pytest.approx(roc_auc_score(y, p))
        assert raw.bayes[f"{label}/realised_logloss"] == pytest.approx(log_loss(y, p))
        assert raw.bayes[f"{label}/auc"] == pytest.approx(roc_auc_score(y, p), abs=0.05)
    assert len(raw.bayes) == 4 * len(LABELS)
    assert all(np.isfinite(value) for value in raw.bayes.values())


@pytest.mark.parametrize("labels", [None, ["opposed"], ["opposed", "first"]])
def test_the_choice_of_labels_changes_no_row(labels: list[str] | None) -> None:
    every, raw = build(**SIZES, labels=LABELS), build(**SIZES, labels=labels)
    labels = labels or ["first"]
    assert raw.schema.labels == tuple(labels)
    for split in raw.files:
        assert frame(raw, split).equals(frame(every, split).select(frame(raw, split).columns))
        assert set(frame(raw, split).columns) & set(LABELS) == set(labels)
    name = "auc" if len(labels) == 1 else f"{labels[0]}/auc"
    assert raw.bayes[name] == every.bayes[f"{labels[0]}/auc"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"labels": ["fist"]}, "Did you mean first"),
        ({"num_val": 0}, r"data\.num_val=0"),
        ({"conflict": -0.1}, "conflict is -0.1"),
    ],
)
def test_bad_arguments_are_refused(keys: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        build(**(SIZES | keys))
