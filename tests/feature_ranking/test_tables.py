"""Tables of what was found: order, ties, columns that tell nothing, and none at all."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recsys.data.schema import Encoding, Field, Kind
from recsys.feature_ranking.pairs import PairSums
from recsys.feature_ranking.quality import RARE, ColumnQuality
from recsys.feature_ranking.score import ColumnScore
from recsys.feature_ranking.tables import (
    RankedColumn,
    drift_table,
    feature_table,
    mark_duplicates,
    ordered_by,
    pair_table,
    rare_table,
    value_table,
)


def column(name: str, excess: float, p: float = 0.01, digest: str = "", **more) -> RankedColumn:
    field = Field(name=name, kind=Kind.CATEGORICAL, encoding=Encoding.VOCABULARY)
    score = ColumnScore(excess + 0.1, 0.1, 0.001, 0.002, 2.0, p, 0.5 * excess, 20.0)
    rare = dict.fromkeys(RARE, 0.25)
    quality = ColumnQuality(9, 0.0, 0.0, 0.5, 0.9, 1.0, 0.0, 0.0, rare, {"a": 0.5, "b": 0.25})
    halves = np.array([excess, excess / 2, -1.0])
    values = {"classic": 0.0, "flags": [], **more}
    return RankedColumn(field, score, quality, halves, None, digest=digest or name, **values)


COLUMNS = [column("low", 0.01), column("high", 0.3), column("id", 0.0, p=1.0), column("mid", 0.2)]
NOTHING = pl.DataFrame(schema={"method": pl.String, "step": pl.Int64, "feature": pl.String})


def test_best_first_and_what_cannot_tell_anything_last() -> None:
    table = feature_table(COLUMNS, "outrank", NOTHING)
    assert table["feature"].to_list() == ["high", "mid", "low", "id"]
    assert table["rank"].to_list() == [1, 2, 3, 4]
    assert table["score"][0] == pytest.approx(0.3 - 3 * 0.001)
    assert table["stability"].to_list() == pytest.approx([2 / 3, 2 / 3, 2 / 3, 0.0])
    assert table["q"][:3].to_list() == pytest.approx([0.04 / 3] * 3)


def test_equal_scores_come_by_name_and_ranks_over_halves_are_told() -> None:
    table = feature_table([column("b", 0.1), column("a", 0.1)], "outrank", NOTHING)
    assert table["feature"].to_list() == ["a", "b"]
    low_high = table.select("rank_low", "rank_high").rows()
    assert all(1 <= low <= high <= 2 for low, high in low_high)


def test_a_greedy_order_comes_before_the_columns_it_left_out() -> None:
    chosen = pl.DataFrame(
        [("jmi", 1, "mid"), ("jmi", 2, "high"), ("cmim", 1, "low")],
        schema=["method", "step", "feature"], orient="row",
    )  # fmt: skip
    assert feature_table(COLUMNS, "jmi", chosen)["feature"].to_list() == [
        "mid",
        "high",
        "low",
        "id",
    ]


def test_the_key_of_every_method() -> None:
    one = column("x", 0.2, classic=0.7)
    assert ordered_by(one, "outrank") == one.score.score
    assert ordered_by(one, "information") == pytest.approx(0.3)
    assert ordered_by(one, "gain") == pytest.approx(0.1)
    assert ordered_by(one, "outrank_classic") == 0.7
    assert ordered_by(column("x", 0.2, classic=float("nan")), "outrank_classic") == -np.inf


def test_duplicates_name_the_first_and_constants_are_not_told_twice() -> None:
    columns = [
        column("a", 0.1, digest="d"), column("b", 0.1, digest="d"),
        column("c", 0.1, digest="d", flags=["constant"]),
    ]  # fmt: skip
    mark_duplicates(columns)
    assert [one.flags for one in columns] == [[], ["same as a, renamed or not"], ["constant"]]


def test_pairs_by_how_clear_their_interaction_is() -> None:
    values = np.array([0.01, 0.05])
    sums = PairSums(
        np.array([[0, 1], [1, 3]]), values + 0.2, values, np.zeros(2), np.full(2, 0.01),
        np.full(2, 0.1), np.full(2, 0.05), values, np.array([0.0, 1.0]), 100,
    )  # fmt: skip
    table = pair_table(COLUMNS, sums)
    assert table.select("first", "second").rows() == [("high", "mid"), ("low", "high")]
    assert table["z"].to_list() == pytest.approx([5.0, 1.0], rel=2e-2)
    assert table["first_adds"].to_list() == pytest.approx([0.2, 0.16])
    assert table["second_adds"].to_list() == pytest.approx([0.15, 0.11])
    assert len(pair_table(COLUMNS, None)) == 0


def test_values_rare_shares_and_no_drift_without_time() -> None:
    assert len(value_table(COLUMNS)) == 2 * len(COLUMNS)
    assert rare_table(COLUMNS)["fewer_than"].unique().sort().to_list() == sorted(RARE)
    assert len(drift_table(COLUMNS, None)) == 0
    assert len(value_table([])) == len(rare_table([])) == 0
