"""Metrics as functions of how often each row was drawn: on the whole they are the report's own."""

import numpy as np
import pytest

from recsys.comparison.rows import group_aucs, rows_of_ranking, rows_of_reports
from recsys.data.pairs import Pairs
from recsys.errors import ConfigError
from recsys.metrics.grouped import grouped_auc
from recsys.metrics.ranking import Ranking
from recsys.metrics.report import ClassificationReport
from recsys.metrics.task_report import TaskReport


def draw(rows: int = 400) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = np.round(rng.normal(size=(rows, 2)), 1).astype(np.float32)  # with ties
    labels = rng.integers(0, 2, (rows, 2)).astype(np.float32)
    return logits, labels, rng.random(rows), rng.integers(100, 130, rows)


@pytest.mark.parametrize("metric", ["auc", "logloss", "gauc"])
@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_one_label(metric: str, grouped: bool, weighted: bool) -> None:
    logits, labels, weights, groups = draw()
    if metric == "gauc" and not grouped:
        return
    report = ClassificationReport()
    report.add(
        logits[:, 0], labels[:, 0], weights if weighted else None, groups if grouped else None
    )
    found = rows_of_reports(report.parts, metric)
    assert (found.blocks, found.kind) == ((30, "groups") if grouped else (400, "rows"))
    assert found.value(np.ones(found.blocks)) == pytest.approx(report.compute()[metric])


@pytest.mark.parametrize("metric", ["auc", "a/auc", "b/ctcvr/logloss", "b/cvr/auc", "gauc"])
def test_several_labels(metric: str) -> None:
    logits, labels, _, groups = draw()
    labels[:, 1] *= labels[:, 0]
    report = TaskReport(("a", "b"), (-1, 0))
    report.add(logits, labels, None, groups)
    found = rows_of_reports(report.parts, metric)
    assert found.value(np.ones(found.blocks)) == pytest.approx(report.compute()[metric])


def test_a_drawn_group_brings_all_its_rows() -> None:
    logits, labels, _, groups = draw()
    report = ClassificationReport()
    report.add(logits[:, 0], labels[:, 0], None, groups)
    drawn = np.zeros(30)
    drawn[[2, 5]] = 1
    kept = np.isin(groups, [102, 105])
    half = ClassificationReport()
    half.add(logits[kept, 0], labels[kept, 0], None, groups[kept])
    for metric in ("auc", "logloss", "gauc"):
        value = rows_of_reports(report.parts, metric).value(drawn)
        assert value == pytest.approx(half.compute()[metric])


def test_runs_tested_on_other_rows_have_other_keys() -> None:
    logits, labels, _, _ = draw()
    keys = []
    for flip in (False, True, False):
        report = ClassificationReport()
        report.add(logits[:, int(flip)], 1 - labels[:, 0] if flip else labels[:, 0])
        keys.append(rows_of_reports(report.parts, "auc").key)
    assert keys[0] == keys[2] != keys[1]


def test_group_aucs_average_to_the_grouped_auc() -> None:
    logits, labels, weights, groups = draw()
    auc, size = group_aucs(logits[:, 0], labels[:, 0], groups - 100, 30, weights)
    known = ~np.isnan(auc)
    expected = grouped_auc(logits[:, 0], labels[:, 0], groups, weights).auc
    assert np.average(auc[known], weights=size[known]) == pytest.approx(expected)


def test_lists_are_drawn_by_user() -> None:
    users, values = np.array([0, 1, 3]), np.array([0.0, 1.0, 0.5])
    ranking = Ranking({}, {}, users, {"recall_at_5": values})
    tests = [Pairs(np.array([0, 1, 2, 2, 3]), np.array([0, 1, last], np.int32), num_items=4)
             for last in (2, 3)]  # fmt: skip
    found, other = (rows_of_ranking(ranking, "recall_at_5", test) for test in tests)
    assert found.kind == "users"
    assert found.value(np.array([0.0, 2.0, 1.0])) == pytest.approx(2.5 / 3)
    assert found.key != other.key
    with pytest.raises(ConfigError, match="no mean over users"):
        rows_of_ranking(ranking, "coverage_at_5", tests[0])


def test_what_is_not_resampled() -> None:
    logits, labels, _, _ = draw()
    report = ClassificationReport()
    report.add(logits[:, 0], labels[:, 0])
    with pytest.raises(ConfigError, match="ece is not resampled"):
        rows_of_reports(report.parts, "ece")
    with pytest.raises(ConfigError, match="gauc needs groups"):
        rows_of_reports(report.parts, "gauc")
    tasks = TaskReport(("a", "b"), (-1, -1))
    labels[:9, 1] = np.nan
    tasks.add(logits, labels)
    with pytest.raises(ConfigError, match="different rows"):
        rows_of_reports(tasks.parts, "auc")
