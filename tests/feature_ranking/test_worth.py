"""Which columns of a ranking are worth something, alone or in a pair."""

from __future__ import annotations

import polars as pl

from recsys.feature_ranking.worth import column_worth

FEATURES = pl.DataFrame({
    "feature": ["a", "b", "c", "d", "e", "f"],
    "excess": [0.10, 0.05, 0.02, 0.00, -0.01, 0.10],
    "q": [0.00, 0.00, 0.20, 1.00, 1.00, 0.00],
    "flags": ["", "", None, "", "", "id-like: 99%; same as a, renamed or not"],
})  # fmt: skip


def pairs(*rows: tuple[str, str, float, float]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=["first", "second", "interaction", "p"], orient="row")


def test_alone() -> None:
    found = column_worth(FEATURES, pl.DataFrame())
    assert found.worth == {"a": 0.10, "b": 0.05}
    assert found.chance == ("c", "d", "e")
    assert found.useless == {"f": "same as a, renamed or not"}
    assert not found.partners


def test_a_pair_counts_for_both_where_it_tells_more() -> None:
    found = column_worth(FEATURES, pairs(("d", "b", 0.07, 1e-9)))
    assert found.worth == {"a": 0.10, "b": 0.07, "d": 0.07}
    assert found.partners == {"b": "d", "d": "b"}
    found = column_worth(FEATURES, pairs(("d", "b", 0.01, 1e-9)))
    assert found.worth == {"a": 0.10, "b": 0.05, "d": 0.01}
    assert found.partners == {"d": "b"}


def test_pairs_answer_for_all_that_could_have_been_tried() -> None:
    """Fifteen pairs of six columns: p = .004 is what one of them has by chance."""
    assert "d" not in column_worth(FEATURES, pairs(("d", "e", 0.07, 0.004))).worth
    assert "d" in column_worth(FEATURES, pairs(("d", "e", 0.07, 0.003))).worth


def test_a_copy_brings_nothing_in_a_pair_either() -> None:
    assert column_worth(FEATURES, pairs(("f", "d", 0.5, 0.0))).worth == {"a": 0.10, "b": 0.05}
