"""What is said of a column, against what was planted in it."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy.spatial.distance import jensenshannon

from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.feature_ranking.counts import count_column
from recsys.feature_ranking.quality import RARE, column_quality, flags, period_drift
from recsys.feature_ranking.rows import count_rows
from recsys.feature_ranking.score import Scorer
from tests.feature_ranking.planted import dataset

ROWS = 2_000


@pytest.fixture
def raw() -> RawDataset:
    generator = np.random.default_rng(0)

    def frame(rows: int, first: int) -> pl.DataFrame:
        color = generator.choice(["red", "green", "blue"], rows, p=[0.7, 0.2, 0.1])
        click = generator.integers(0, 2, rows)
        return pl.DataFrame({
            "color": [None if k % 10 == 0 else c for k, c in enumerate(color)],
            "user": np.arange(first, first + rows),
            "leak": click + 5,
            "fresh": generator.integers(0, 4, rows) + (0 if first == 0 else 3),
            "constant": np.ones(rows, int),
            "nothing": pl.Series([None] * rows, dtype=pl.String),
            "click": click,
        })  # fmt: skip

    train, val = frame(ROWS, 0), frame(500, 1_800)
    sources = {"train": Source.from_frame(train), "val": Source.from_frame(val)}
    return RawDataset("x", sources, dataset(train).schema)


def described(raw: RawDataset, name: str):
    rows = count_rows(raw, "click", rule=None)
    column = count_column(rows, raw.schema[name])
    quality = column_quality(column)
    return quality, flags(column, quality, Scorer(rows, 0).score(column), math.log(2))


def test_counts_of_a_plain_column(raw: RawDataset) -> None:
    quality, found = described(raw, "color")
    values = raw.files["train"].head(ROWS).column("color").to_pylist()
    share = {c: values.count(c) / ROWS for c in ("red", "green", "blue", None)}
    assert quality.values == 3
    assert quality.missing == share[None] == 0.1
    assert quality.top == share["red"]
    assert quality.frequent == pytest.approx(
        {"red": share["red"], "green": share["green"], "blue": share["blue"], "(missing)": 0.1}
    )
    assert quality.entropy == pytest.approx(-sum(s * math.log(s) for s in share.values()))
    assert quality.top10 == pytest.approx(1)
    assert quality.unseen == 0.0
    assert found == []


def test_ids_leaks_constants_and_fresh_values(raw: RawDataset) -> None:
    user, found = described(raw, "user")
    assert (user.values, user.unique, user.rare[RARE[0]]) == (ROWS, 1.0, 1.0)
    assert user.unseen == pytest.approx(300 / 500)
    assert any(one.startswith("id-like: 100%") for one in found)
    assert any("never seen" in one for one in found)
    assert any(one.startswith("leak?") for one in described(raw, "leak")[1])
    assert described(raw, "constant")[1] == ["constant"]
    assert described(raw, "nothing")[1] == ["constant", "missing in every row"]
    assert described(raw, "nothing")[0].missing == 1.0


def test_drift_is_the_jensen_shannon_divergence(raw: RawDataset) -> None:
    quality, _ = described(raw, "fresh")
    shares = [
        np.bincount(raw.files[name].head(ROWS).column("fresh").to_numpy(), minlength=7)
        for name in ("train", "val")
    ]
    expected = jensenshannon(shares[0] / shares[0].sum(), shares[1] / shares[1].sum()) ** 2
    assert quality.drift == pytest.approx(expected)
    assert quality.unseen == pytest.approx(shares[1][4:].sum() / shares[1].sum())


def test_period_drift_by_hand() -> None:
    codes = np.array([0] * 60 + [1] * 40 + [0] * 30 + [1] * 70)
    found = period_drift(codes, np.repeat([0, 1], 100), 2)
    a, b = np.array([60.5, 40.5]) / 101, np.array([30.5, 70.5]) / 101
    assert found == pytest.approx([0.0, ((b - a) * np.log(b / a)).sum()])


@pytest.mark.parametrize("label", ["click", "price"])
def test_lists_against_a_number_are_said_to_be_approximate(label: str) -> None:
    generator = np.random.default_rng(1)
    frame = pl.DataFrame({
        "tags": [list(generator.choice(["a", "b", "c"], 2)) for _ in range(200)],
        "click": generator.integers(0, 2, 200),
        "price": generator.normal(size=200),
    })  # fmt: skip
    raw = dataset(frame, label)
    rows = count_rows(raw, label, rule=None)
    column = count_column(rows, raw.schema["tags"])
    found = flags(column, column_quality(column), Scorer(rows, 0).score(column), 0.0)
    assert any("z approximate" in flag for flag in found) == (label == "price")
