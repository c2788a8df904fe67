"""A ranking that several files look at."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from recsys.data.split import RandomSplit
from recsys.feature_ranking.ranking import Ranking, RankingOptions, rank_features
from tests.feature_ranking.planted import dataset, planted


@pytest.fixture(scope="session")
def found() -> Ranking:
    day = pl.Series([dt.date(2026, 3, 1 + k // 10_000) for k in range(40_000)])
    raw = dataset(planted().with_columns(day=day), timestamp="day")
    return rank_features(raw, RankingOptions(full_pairs=6), rule=RandomSplit((0.8, 0.1, 0.1)))
