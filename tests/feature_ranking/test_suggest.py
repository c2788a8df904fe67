"""What is suggested for training."""

from __future__ import annotations

import math

import polars as pl
import yaml

from recsys.feature_ranking.ranking import Ranking
from recsys.feature_ranking.suggest import as_yaml, suggest
from tests.feature_ranking.planted import INFORMATIVE


def test_suggestions(found: Ranking) -> None:
    table = suggest(found.features, found.rare)
    kept = set(table.filter("keep")["feature"])
    assert kept == INFORMATIVE
    assert table["embedding_dim"].is_between(4, 64).all()
    settings = yaml.safe_load(as_yaml(table, "/some where/ranking.csv"))
    assert settings["data"]["features"] == "/some where/ranking.csv"
    assert settings["data"]["top"] == 3
    assert settings["embedding"]["dim"] in table["embedding_dim"].to_list()


def share(name: str, bound: int) -> float:
    return 0.5 if name == "costly" and bound > 5 else 0.01


def test_minimum_counts_follow_from_the_strength() -> None:
    features = pl.DataFrame({
        "feature": ["sharp", "vague", "chance", "costly"],
        "excess": [0.1, 0.1, 0.0, 0.1], "q": [0.0, 0.0, 1.0, 0.0],
        "values": [1_000] * 3 + [6_000_000], "kind": ["categorical"] * 4,
        "strength": [10.0, 500.0, math.inf, 500.0],
    })  # fmt: skip
    rare = pl.DataFrame([
        {"feature": name, "fewer_than": bound, "share": share(name, bound)}
        for name in features["feature"] for bound in (2, 5, 10, 20, 50)
    ])  # fmt: skip
    table = suggest(features, rare)
    # 5 % of its own rate: c = strength / 19, so 0.5 rows and 26 rows.
    assert table["min_count"].to_list() == [1, 20, 1, 5]
    assert table["encoding"].to_list() == [None, None, None, "hash"]
    assert table["keep"].to_list() == [True, True, False, True]
