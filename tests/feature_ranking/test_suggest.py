"""What is suggested for training."""

from __future__ import annotations

import math

import polars as pl
import yaml

from recsys.feature_ranking.ranking import Ranking
from recsys.feature_ranking.suggest import as_yaml, suggest


def test_suggestions(found: Ranking) -> None:
    table = suggest(found.features, found.rare, found.pairs)
    reasons = dict(table.select("feature", "reason").iter_rows())
    kept = table.filter("keep")
    assert set(kept["feature"]) == {"strong", "weak", "left", "right"}
    assert table["keep"].to_list() == sorted(table["keep"], reverse=True)
    assert kept["worth"].to_list() == sorted(kept["worth"], reverse=True)
    assert reasons["strong"] == "alone"
    assert reasons["left"] == "together with right"
    assert reasons["right"] == "together with left"
    assert reasons["copy"].startswith("same as strong")
    assert reasons["constant"] == "constant"
    assert reasons["noise30"] == reasons["id"] == "nothing above chance"
    assert table["embedding_dim"].is_between(4, 64).all()
    settings = yaml.safe_load(as_yaml(table, "/some where/kept.csv"))
    assert settings["data"]["features"] == "/some where/kept.csv"
    assert settings["embedding"]["dim"] in table["embedding_dim"].to_list()


def test_a_leak_is_left_out_and_said(found: Ranking) -> None:
    flagged = found.features.with_columns(
        flags=pl.when(pl.col("feature") == "weak")
        .then(pl.lit("id-like: x; leak? it tells 99% of the label"))
        .otherwise("flags")
    )
    table = suggest(flagged, found.rare, found.pairs)
    assert set(table.filter("keep")["feature"]) == {"strong", "left", "right"}
    text = as_yaml(table, "kept.csv")
    assert '# Left out: "weak", leak? it tells 99% of the label.' in text
    assert yaml.safe_load(text)["data"]["features"] == "kept.csv"


def test_nothing_to_keep_selects_nothing(found: Ranking) -> None:
    nothing = found.features.with_columns(excess=pl.lit(-1.0))
    table = suggest(nothing, found.rare, found.pairs.clear())
    assert not table["keep"].any()
    assert "data" not in yaml.safe_load(as_yaml(table, "kept.csv"))


def share(name: str, bound: int) -> float:
    return 0.5 if name == "costly" and bound > 5 else 0.01


def test_minimum_counts_follow_from_the_strength() -> None:
    features = pl.DataFrame({
        "feature": ["sharp", "vague", "chance", "costly"],
        "excess": [0.1, 0.1, 0.0, 0.1], "q": [0.0, 0.0, 1.0, 0.0],
        "values": [1_000] * 3 + [6_000_000], "kind": ["categorical"] * 4,
        "strength": [10.0, 500.0, math.inf, 500.0], "flags": [""] * 4,
    })  # fmt: skip
    rare = pl.DataFrame([
        {"feature": name, "fewer_than": bound, "share": share(name, bound)}
        for name in features["feature"] for bound in (2, 5, 10, 20, 50)
    ])  # fmt: skip
    table = suggest(features, rare, pl.DataFrame())
    assert table["feature"].to_list() == ["sharp", "vague", "costly", "chance"]
    # 5 % of its own rate: c = strength / 19, so 0.5 rows and 26 rows.
    assert table["min_count"].to_list() == [1, 20, 5, 1]
    assert table["encoding"].to_list() == [None, None, "hash", None]
    assert table["keep"].to_list() == [True, True, True, False]
