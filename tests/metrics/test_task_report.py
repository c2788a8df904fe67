from __future__ import annotations

import math

import numpy as np
import pytest

from recsys.metrics.report import ClassificationReport
from recsys.metrics.task_report import TaskReport, conditional_logit, report_for

NAMES, PARENTS = ("click", "conversion", "like"), (-1, 0, -1)


def rows(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = (rng.random((count, 3)) < [0.5, 0.5, 0.1]).astype(np.float32)
    labels[:, 1] *= labels[:, 0]
    labels[rng.random(count) < 0.2, 2] = np.nan
    logits = rng.normal(size=(count, 3)).astype(np.float32)
    logits[:, 1] = logits[:, 0] - np.abs(rng.normal(size=count)) - 0.1
    return logits, labels, rng.random(count).astype(np.float32), rng.integers(0, 9, count)


def report_of(blocks: int, count: int = 500) -> TaskReport:
    report = TaskReport(NAMES, PARENTS)
    logits, labels, weights, groups = rows(count)
    for part in np.array_split(np.arange(count), blocks):
        report.add(logits[part], labels[part], weights[part], groups[part])
    return report


def test_every_label_is_judged_alone() -> None:
    logits, labels, weights, groups = rows(500)
    found = report_of(blocks=3).compute()
    for column, key in ((0, "click"), (1, "conversion/ctcvr"), (2, "like")):
        alone = ClassificationReport()
        alone.add(logits[:, column], labels[:, column], weights, groups)
        for name, value in alone.compute().items():
            assert found[f"{key}/{name}"] == pytest.approx(value, rel=1e-12)


def test_conversions_are_judged_among_clicks_too() -> None:
    logits, labels, weights, groups = rows(500)
    clicked = labels[:, 0] == 1
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    alone = ClassificationReport()
    given = p[clicked, 1] / p[clicked, 0]
    alone.add(np.log(given / (1 - given)), labels[clicked, 1], weights[clicked], groups[clicked])
    found = report_of(blocks=1).compute()
    assert report_of(blocks=1).parts["conversion/cvr"].num_rows == clicked.sum()
    for name, value in alone.compute().items():
        assert found[f"conversion/cvr/{name}"] == pytest.approx(value, rel=1e-5)


def test_means_are_over_one_report_per_label() -> None:
    found = report_of(blocks=1).compute()
    for name in ("auc", "gauc", "logloss", "ne", "ece", "average_precision"):
        own = [found[f"{key}/{name}"] for key in ("click", "conversion/ctcvr", "like")]
        assert found[name] == pytest.approx(np.mean(own))
    assert "calibration" not in found


def test_a_label_of_one_class_is_left_out_of_the_mean() -> None:
    logits, labels, _, _ = rows(200)
    labels[:, 2] = 0
    report = TaskReport(NAMES, PARENTS)
    report.add(logits, labels)
    found = report.compute()
    assert math.isnan(found["like/auc"])
    assert found["auc"] == pytest.approx((found["click/auc"] + found["conversion/ctcvr/auc"]) / 2)
    none = TaskReport(("a", "b"), (-1, -1))
    none.add(np.zeros((4, 2)), np.zeros((4, 2)))
    assert math.isnan(none.compute()["auc"])


def test_ranks_merge_to_one_report() -> None:
    logits, labels, weights, groups = rows(500)
    half = TaskReport(NAMES, PARENTS), TaskReport(NAMES, PARENTS)
    for report, part in zip(half, np.array_split(np.arange(500), 2), strict=True):
        report.add(logits[part], labels[part], weights[part], groups[part])
    merged = half[0].with_rows(half[0].tensors())
    merged.merge(half[0].with_rows(half[1].tensors()))
    assert merged.num_rows == 500
    assert merged.compute() == pytest.approx(report_of(blocks=1).compute())


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"3 labels take .* \[B, 3\], got \[4, 2\] and \[4, 3\]"):
        TaskReport(NAMES, PARENTS).add(np.zeros((4, 2)), np.zeros((4, 3)))


def test_conditional_logits_are_capped_where_they_would_be_impossible() -> None:
    found = conditional_logit([2.0, -50.0, 0.0], [1.0, -20.0, 0.0])
    assert np.isfinite(found).all()
    assert found[0] == found[2] == found.max()
    assert found[1] == pytest.approx(-30.0, abs=1e-4)


def test_one_label_has_the_plain_report() -> None:
    assert isinstance(report_for(("click",), (-1,)), ClassificationReport)
    assert isinstance(report_for(NAMES, PARENTS), TaskReport)
