"""Scores of columns: planted signals, invariance, held-out check, half-samples, lists, numbers."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from scipy import stats

from recsys.feature_ranking import counts as counts_module
from recsys.feature_ranking.counts import count_column
from recsys.feature_ranking.null import InformationNull
from recsys.feature_ranking.rows import HELD_OUT, NUM_PARTS, count_rows
from recsys.feature_ranking.score import Scorer, half_masks, held_out_gain, prior_strength
from tests.feature_ranking.planted import dataset, planted


def scores(frame: pl.DataFrame, label: str = "click", halves: int = 0, **roles: str) -> dict:
    raw = dataset(frame, label, **roles)
    rows = count_rows(raw, label, rule=None)
    scorer = Scorer(rows, halves)
    counted = {one.name: count_column(rows, one) for one in raw.schema}
    return {name: (scorer.score(one), scorer.half_scores(one)) for name, one in counted.items()}


def test_planted_columns_stand_out_and_noise_does_not() -> None:
    found = {name: one for name, (one, _) in scores(planted()).items()}
    for name in ("strong", "copy", "weak"):
        assert found[name].score > 0
        assert found[name].z > 5
        assert found[name].gain > 0
    assert found["copy"] == found["strong"]  # a renaming tells the same, to the bit
    for name in ("left", "right", "noise2", "noise30", "noise3000"):
        assert found[name].score < 0
        assert abs(found[name].z) < 3.5
        assert abs(found[name].gain) < 1e-4
    for name in ("id", "constant"):
        assert (found[name].z, found[name].p) == (0.0, 1.0)
        assert found[name].excess == pytest.approx(0, abs=1e-9)


def test_order_of_rows_and_names_of_values_do_not_matter() -> None:
    frame = planted(8_000)
    renamed = frame.sample(fraction=1, shuffle=True, seed=3).with_columns(
        (pl.exclude("click") * 7 + 3).cast(pl.String)
    )
    first, second = scores(frame), scores(renamed)
    for name in first:
        a, b = first[name][0], second[name][0]
        for key in ("information", "chance", "deviation", "z", "p"):
            assert getattr(a, key) == getattr(b, key)


def test_held_out_gain_is_the_log_loss_saved() -> None:
    generator = np.random.default_rng(0)
    learnt = generator.integers(0, 40, (30, 2))
    learnt[5] = 0
    unseen = generator.integers(0, 20, (30, 2))
    base = learnt.sum(axis=0) / learnt.sum()
    strength = prior_strength(learnt)
    slow = 0.0
    for value in range(30):
        for label in range(2):
            rate = (learnt[value, label] + strength * base[label]) / (
                learnt[value].sum() + strength
            )
            slow += unseen[value, label] * (math.log(rate) - math.log(base[label]))
    assert held_out_gain(learnt, unseen) == pytest.approx(slow / unseen.sum())
    assert held_out_gain(learnt, np.zeros_like(unseen)) == 0.0
    same = np.tile([[30, 10]], (20, 1))
    assert held_out_gain(same, unseen[:20]) == 0.0  # no spread: nothing is claimed


@pytest.mark.parametrize("true", [3.0, 40.0])
def test_prior_strength_is_found(true: float) -> None:
    generator = np.random.default_rng(1)
    rate = generator.beta(0.2 * true, 0.8 * true, 30_000)
    size = generator.integers(1, 60, 30_000)
    clicks = generator.binomial(size, rate)
    assert prior_strength(np.stack([size - clicks, clicks], axis=1)) == pytest.approx(true, rel=0.1)


def test_half_samples_are_complementary_halves() -> None:
    masks = half_masks(32)
    assert masks.shape == (32, NUM_PARTS)
    assert (masks[:, :HELD_OUT].sum(axis=1) == HELD_OUT // 2).all()
    assert not masks[:, HELD_OUT].any()
    assert (masks[::2, :HELD_OUT] + masks[1::2, :HELD_OUT] == 1).all()
    assert len({one.tobytes() for one in masks}) == 32


def test_half_scores_by_kernel_by_numpy_and_from_scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    frame = planted(20_000)
    raw = dataset(frame)
    rows = count_rows(raw, "click", rule=None)
    scorer = Scorer(rows, 6)
    for name in ("strong", "noise2", "noise3000", "id"):
        column = count_column(rows, raw.schema[name])
        by_kernel = scorer.half_scores(column)
        with monkeypatch.context() as patch:
            patch.setattr("recsys.feature_ranking.score.library", lambda: None)
            assert scorer.half_scores(column) == pytest.approx(by_kernel, rel=1e-9, abs=1e-13)
        if name == "id":
            continue
        for index in range(6):
            table = column.counts[:, scorer.masks[index].astype(bool)].sum(axis=1)
            table = table[table.sum(axis=1) > 0]
            null = InformationNull(table.sum(axis=0)).moments(table.sum(axis=1))
            from recsys.feature_ranking.information import mutual_information

            exact = mutual_information(table) - null.mean - 3 * null.deviation
            assert by_kernel[index] == pytest.approx(exact, abs=0.35 * null.deviation)
    assert counts_module.library() is not None


def test_several_classes_and_a_numeric_label() -> None:
    frame = planted(20_000)
    generator = np.random.default_rng(5)
    strong = frame["strong"].to_numpy()
    three = np.where(generator.random(20_000) < 0.3, strong % 3, generator.integers(0, 3, 20_000))
    found = scores(frame.drop("click").with_columns(kind=three), "kind")
    assert found["strong"][0].z > 20
    assert found["strong"][0].gain > 0.01
    assert abs(found["noise30"][0].z) < 3.5
    price = np.exp(strong / 10 + generator.normal(0, 2, 20_000))
    found = scores(frame.drop("click").with_columns(price=price), "price", 4)
    assert found["strong"][0].z > 20
    assert found["strong"][0].gain > 0.01
    assert (found["strong"][1] > 0).all()
    for name in ("noise2", "noise30", "noise3000"):
        assert abs(found[name][0].z) < 3.5
        assert (found[name][1] < 0).all()
    assert found["id"][0].p == 1.0


def test_a_numeric_label_on_groups_of_normal_scores() -> None:
    # Two groups a known distance apart: the information is that of the variance between them.
    generator = np.random.default_rng(0)
    group = generator.integers(0, 2, 50_000)
    y = group * 1.0 + generator.normal(size=50_000)
    found = scores(pl.DataFrame({"group": group, "y": y}), "y")["group"][0]
    rank = stats.norm.ppf((stats.rankdata(y) - 0.5) / 50_000)
    between = sum((group == g).mean() * rank[group == g].mean() ** 2 for g in (0, 1)) / rank.var()
    assert found.information == pytest.approx(-0.5 * math.log1p(-between), rel=1e-3)


@pytest.mark.parametrize("kind", ["lists", "weights"])
def test_uneven_columns_are_calibrated(kind: str) -> None:
    """Lists whose values come in pairs, and weights that hang on the label: still no signal."""
    generator = np.random.default_rng(7)
    z = []
    for _ in range(40):
        click = (generator.random(2_500) < 0.3).astype(int)
        first = generator.integers(0, 30, 2_500)
        if kind == "lists":
            column = [[f"a{k}", f"b{k}"] + ([f"c{k % 5}"] if k % 2 else []) for k in first]
            frame, roles = pl.DataFrame({"x": column, "click": click}), {}
        else:
            weight = np.where(click == 1, 1.0, 4.0) * generator.gamma(1.0, 1.0, 2_500)
            frame = pl.DataFrame({"x": first, "click": click, "w": weight.astype(np.float32)})
            roles = {"weight": "w"}
        z.append(scores(frame, **roles)["x"][0].z)
    assert stats.kstest(z, "norm").pvalue > 0.005


def test_lists_and_weights_show_what_they_tell() -> None:
    generator = np.random.default_rng(2)
    tag = generator.integers(0, 10, 6_000)
    click = (generator.random(6_000) < np.where(tag < 3, 0.6, 0.2)).astype(int)
    tags = [[f"t{k}", f"noise{generator.integers(0, 40)}"] for k in tag]
    weight = generator.gamma(2.0, 1.0, 6_000).astype(np.float32)
    frame = pl.DataFrame({"tags": tags, "click": click, "w": weight})
    found = scores(frame, halves=4, weight="w")["tags"]
    assert found[0].z > 10
    assert found[0].gain > 0.01
    assert (found[1] > 0).all()
