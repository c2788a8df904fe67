"""The embedded default: three parts of one problem, with its ceiling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from recsys.data.datasets.synthetic import build
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.data.raw import RawDataset
from recsys.data.schema import Kind
from recsys.data.synthetic import bayes_metrics, generate
from recsys.errors import ConfigError


def frame(raw: RawDataset, split: str) -> pl.DataFrame:
    return pl.DataFrame(raw.files[split].head(10**9))


def test_parts_and_schema() -> None:
    raw = build(rows=2000)
    assert {name: source.num_rows for name, source in raw.files.items()} == {
        "train": 2000,
        "val": 200,
        "test": 400,
    }
    assert raw.split is None
    assert raw.schema.labels == ("click",)
    assert (raw.schema.group, raw.schema.timestamp) == ("user", "time")
    assert raw.schema["history"].kind is Kind.HISTORY
    assert raw.schema["history"].shares == "item"
    assert set(raw.schema.columns) == set(raw.files["train"].columns)


def test_parts_are_disjoint_and_together_the_table() -> None:
    raw = build(rows=1000, seed=4, labels=["click", "conversion"])
    parts = pl.concat([frame(raw, split) for split in ("train", "val", "test")])
    whole = generate(1300, 4).frame
    key = ["time", "user", "item", "price"]
    assert parts.sort(key).drop("history").equals(whole.sort(key).drop("history"))


@pytest.mark.parametrize("by_time", [False, True])
def test_the_ceiling_is_that_of_the_test_rows(by_time: bool) -> None:
    raw = build(rows=3000, seed=1, by_time=by_time)
    table = generate(3900, 1)
    truth = table.frame.select("time", "user", "item", "city").with_columns(
        p=pl.Series(table.probability[:, 0])
    )
    test = frame(raw, "test")
    joined = test.join(truth, on=["time", "user", "item", "city"], nulls_equal=True)
    assert joined.height == test.height
    p, y = joined["p"].to_numpy(), joined["click"].to_numpy()
    assert raw.bayes == pytest.approx(bayes_metrics(p, y))
    assert raw.bayes["realised_auc"] == pytest.approx(roc_auc_score(y, p))


def test_by_time_tests_on_the_newest() -> None:
    raw = build(rows=2000, by_time=True)
    train, val, test = (frame(raw, split)["time"] for split in ("train", "val", "test"))
    assert train.max() <= val.min() <= val.max() <= test.min()
    mixed = build(rows=2000)
    assert frame(mixed, "test")["time"].min() < train.max() / 2 + train.min() / 2


def test_several_labels_have_a_ceiling_each() -> None:
    raw = build(rows=2000, labels=["click", "conversion"])
    assert raw.schema.labels == ("click", "conversion")
    assert raw.schema.nested == {"conversion": "click"}
    assert {"click/auc", "click/logloss", "conversion/auc", "conversion/logloss"} <= set(raw.bayes)
    assert all(np.isfinite(value) for value in raw.bayes.values())


@pytest.mark.parametrize("labels", [["click"], ["conversion"], ["conversion", "click"]])
def test_the_choice_of_labels_changes_no_row(labels: list[str], tmp_path: Path) -> None:
    both, raw = (build(rows=2000, labels=one) for one in (["click", "conversion"], labels))
    assert raw.schema.labels == tuple(labels)
    for split in raw.files:
        assert frame(raw, split).equals(frame(both, split).select(frame(raw, split).columns))
    assert set(raw.schema.columns) == set(raw.files["train"].columns)
    prefix = "" if len(labels) == 1 else "conversion/"
    name = "auc" if labels == ["click"] else f"{prefix}auc"
    assert raw.bayes[name] == both.bayes[f"{labels[0]}/auc"]
    data = prepare(raw, DataOptions(), tmp_path)
    np.testing.assert_array_equal(
        data.train.label, frame(raw, "train").select(labels).to_numpy().squeeze()
    )
    if len(labels) == 1:
        assert raw.schema.nested == {}


def test_without_history() -> None:
    raw = build(rows=200, history=False)
    assert raw.schema.ragged == ()
    assert "history" not in raw.files["train"].columns


def test_same_seed_same_digests() -> None:
    first, again, other = (build(rows=300, seed=seed) for seed in (1, 1, 2))
    assert first.files["train"].digest() == again.files["train"].digest()
    assert first.files["train"].digest() != other.files["train"].digest()
    assert first.bayes == again.bayes


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"data\.labels has clck.*Did you mean click"):
        build(rows=100, labels=["clck"])
