"""The embedded default: three parts of one problem, with its ceiling."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.metrics import roc_auc_score

from recsys.data.datasets.synthetic import build
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
    raw = build(rows=1000, seed=4)
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
    raw = build(rows=2000, num_labels=2)
    assert raw.schema.labels == ("click", "conversion")
    assert {"click/auc", "click/logloss", "conversion/auc", "conversion/logloss"} <= set(raw.bayes)
    assert all(np.isfinite(value) for value in raw.bayes.values())


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
    with pytest.raises(ConfigError, match="num_labels is 5"):
        build(rows=100, num_labels=5)
