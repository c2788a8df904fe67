"""Copies are judged on the same rows as the model they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from recsys.data.encode import EncodedTable
from recsys.models.copies import Copy, measure, program_scorer, table_bytes
from recsys.models.scorer import export_scorer
from tests.models.test_scorer import frame, saved_model


def encoded(rows: int, label: bool = True) -> EncodedTable:
    rng = np.random.default_rng(rows)
    return EncodedTable(
        np.zeros((rows, 0), np.int32),
        rng.normal(size=(rows, 1)).astype(np.float32),
        label=rng.integers(0, 2, rows).astype(np.float32) if label else None,
    )


def copy(name: str, shift: float) -> Copy:
    return Copy(name, "file", 1, 2, lambda rows: rows.dense[:, 0] * (1 + shift))


def test_metrics_differences_and_speed() -> None:
    blocks = [encoded(64), encoded(31)]
    told: list[int] = []
    found = measure([copy("full", 0.0), copy("off", 0.25)], blocks, ("click",), (-1,), told.append)
    score = np.concatenate([block.dense[:, 0] for block in blocks])
    label = np.concatenate([block.label for block in blocks if block.label is not None])
    for one, factor in zip(found, (1.0, 1.25), strict=True):
        assert one.metrics["auc"] == pytest.approx(roc_auc_score(label, score))
        p = 1 / (1 + np.exp(-score.astype(np.float64) * factor))
        assert one.metrics["logloss"] == pytest.approx(log_loss(label, p), rel=1e-6)
        assert one.rows_per_second > 0
    assert found[0].largest_difference == 0
    assert found[1].largest_difference == pytest.approx(0.25 * np.abs(score).max(), rel=1e-5)
    assert told == [64, 95]


def test_rows_without_labels_have_differences_only() -> None:
    found = measure([copy("full", 0), copy("off", 1)], [encoded(9, label=False)], ("click",), (-1,))
    assert found[1].metrics == {}
    assert found[1].largest_difference > 0


def test_no_rows_are_an_error() -> None:
    with pytest.raises(ValueError, match="no rows"):
        measure([copy("full", 0)], [], ("click",), (-1,))


def test_bytes_of_tables_are_those_of_the_format() -> None:
    saved = saved_model("fm", histories=False)
    rows = saved.recommender.lookup.storage.num_rows
    assert table_bytes(saved) == rows * 9 * 4  # a vector of 8 and a first-order weight
    assert table_bytes(saved.with_tables("int8")) == rows * (4 + 8 + 2)


@pytest.mark.slow
def test_the_file_is_scored_as_the_model_is(tmp_path: Path) -> None:
    saved = saved_model("fm").with_tables("int8")
    rows = saved.pipeline.transform(frame(40))
    found = program_scorer(export_scorer(saved, tmp_path))(rows)
    np.testing.assert_allclose(found, saved.logits_of(rows), atol=1e-5)
