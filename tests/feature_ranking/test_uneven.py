"""The null of lists and weighted rows against shuffles of the whole data."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recsys.feature_ranking.counts import count_column
from recsys.feature_ranking.information import mutual_information
from recsys.feature_ranking.rows import count_rows
from recsys.feature_ranking.uneven import uneven_null
from tests.feature_ranking.planted import dataset

ROWS = 4_000


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("sampled", [1.0, 0.4])
def test_moments_against_shuffles(
    weighted: bool, sampled: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recsys.feature_ranking import rows as rows_module

    monkeypatch.setattr(rows_module, "SAMPLE_ROWS", round(ROWS * sampled))
    generator = np.random.default_rng(3)
    click = (generator.random(ROWS) < 0.25).astype(int)
    drawn = generator.integers(0, 25, (ROWS, 2))
    tags = [[f"a{i}", f"b{i}", f"c{j}"][: 1 + j % 3] for i, j in drawn]
    weight = np.where(click == 1, 1.0, 3.0) if weighted else np.ones(ROWS)
    frame = pl.DataFrame({"tags": tags, "click": click, "w": weight.astype(np.float32)})
    raw = dataset(frame, weight="w") if weighted else dataset(frame.drop("w"))
    rows = count_rows(raw, "click", rule=None)
    column = count_column(rows, raw.schema["tags"])
    moments = uneven_null(column, rows, np.array([True, True]))
    lengths = np.array([len(one) for one in tags])
    names = sorted({name for one in tags for name in one})
    value = np.array([names.index(name) for one in tags for name in one])
    row = np.repeat(np.arange(ROWS), lengths)
    found = []
    for _ in range(200):
        order = generator.permutation(ROWS)
        w = (weight[order] / lengths)[row]
        key = value * 2 + click[order][row]
        found.append(mutual_information(np.bincount(key, w, len(names) * 2).reshape(-1, 2)))
    # 64 shuffles of a sample stand against 200 of everything.
    assert moments.mean == pytest.approx(np.mean(found), rel=0.06)
    assert moments.deviation == pytest.approx(np.std(found), rel=0.4)
