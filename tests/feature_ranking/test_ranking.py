"""The whole ranking: planted columns, every method, stability, duplicates, what is refused."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.split import RandomSplit
from recsys.errors import ConfigError, SchemaError
from recsys.feature_ranking import report
from recsys.feature_ranking.pairs import num_paired
from recsys.feature_ranking.ranking import METHODS, Ranking, RankingOptions, rank_features
from recsys.feature_ranking.suggest import suggest
from tests.feature_ranking.planted import INFORMATIVE, dataset, planted


def test_planted_columns_come_first_and_the_interaction_is_the_first_pair(found: Ranking) -> None:
    order = found.features["feature"].to_list()
    assert set(order[:3]) == INFORMATIVE
    assert set(order[-2:]) == {"id", "constant"}
    assert found.features["rank"].to_list() == list(range(1, len(order) + 1))
    assert set(found.pairs.row(0)[:2]) == {"left", "right"}
    assert found.pairs["z"][0] > 50
    assert len(found.pairs) == 6


def test_stability_tells_signal_from_noise(found: Ranking) -> None:
    stable = dict(found.features.select("feature", "stability").iter_rows())
    assert all(stable[name] == 1.0 for name in INFORMATIVE)
    assert all(value < 0.2 for name, value in stable.items() if name not in INFORMATIVE)
    for row in found.features.head(3).iter_rows(named=True):
        assert row["rank_low"] <= row["rank_high"] <= 3  # strong and its copy tie


def test_false_finds_are_counted(found: Ranking) -> None:
    q = dict(found.features.select("feature", "q").iter_rows())
    assert {name for name, value in q.items() if value <= 0.05} == INFORMATIVE


def test_flags(found: Ranking) -> None:
    flags = dict(found.features.select("feature", "flags").iter_rows())
    assert flags["copy"] == "same as strong, renamed or not"
    assert flags["strong"] == flags["weak"] == ""
    assert flags["id"].startswith("id-like: 100%")
    assert "never seen" in flags["id"]
    assert flags["constant"] == "constant"


def test_greedy_orders_leave_the_copy_for_later(found: Ranking) -> None:
    for method in ("3mr", "mrmr", "jmi", "cmim"):
        order = found.selection.filter(pl.col("method") == method).sort("step")["feature"].to_list()
        assert set(order[:1]) < {"strong", "copy"}
        assert order[1] not in {"strong", "copy"}
    assert len(found.selection) == 4 * 10


def test_periods_and_drift(found: Ranking) -> None:
    assert found.label_periods["period"].to_list() == [f"2026-03-0{k}" for k in range(1, 5)]
    psi = found.drift.filter(pl.col("feature") == "strong")["psi"]
    assert psi[0] == 0.0
    assert psi.max() < 0.05  # the same population every day


@pytest.mark.parametrize("method", METHODS)
def test_every_method_orders_by_its_own_score(method: str) -> None:
    raw = dataset(planted(20_000))
    options = RankingOptions(method=method, halves=0, full_pairs=2)
    ranking = rank_features(raw, options, rule=RandomSplit((0.8, 0.1, 0.1)))
    scores = ranking.features.filter(pl.col("p") < 1)["score"].to_list()
    assert ranking.facts["method"] == method
    order = ranking.features["feature"].to_list()
    if method in ("outrank", "outrank_classic", "information", "gain"):
        assert scores == sorted(scores, reverse=True)
    if method != "information":  # the plain score prefers ids and noise of many values
        assert order[0] in {"strong", "copy"}
    else:
        assert ranking.features["information"].to_list()[:1] == scores[:1]
    assert ranking.features["stability"].null_count() == len(order)


def test_two_runs_and_any_number_of_threads_agree() -> None:
    raw = dataset(planted(6_000))
    first = rank_features(raw, RankingOptions(threads=1))
    second = rank_features(raw, RankingOptions(threads=4))
    for key in ("features", "pairs", "selection", "values", "rare"):
        assert getattr(first, key).equals(getattr(second, key))


def test_names_with_any_character_and_nested_types() -> None:
    generator = np.random.default_rng(0)
    click = generator.integers(0, 2, 3_000)
    frame = pl.DataFrame({
        'a,"b"\n<script>': click * 2 + generator.integers(0, 2, 3_000),
        "\u00fcber/-=\U0001f600": generator.integers(0, 3, 3_000),
        "click": click,
    })  # fmt: skip
    ranking = rank_features(dataset(frame))
    assert ranking.features["feature"][0] == 'a,"b"\n<script>'
    page = report.render(ranking, suggest(ranking.features, ranking.rare, ranking.pairs))
    assert "\n<script>:" not in page
    assert "&lt;script&gt;" in page
    struct = frame.with_columns(deep=pl.struct("click"))
    with pytest.raises(SchemaError, match=r'column "deep".*kind=ignore'):
        rank_features(dataset(struct))


def test_a_label_beside_the_schema_and_no_column_left() -> None:
    raw = dataset(planted(3_000))
    ranking = rank_features(raw, label="strong")
    assert ranking.facts["target"] == "classes"
    assert ranking.features["feature"][0] == "copy"
    assert "strong" not in ranking.features["feature"]
    alone = dataset(planted(3_000).select("strong", "click"))
    with pytest.raises(ConfigError, match='no column beside the label "strong"'):
        rank_features(alone, label="strong")


def test_options_are_checked() -> None:
    for keys, message in (
        ({"method": "outrnk"}, "Did you mean outrank"),
        ({"target": "text"}, "auto or classes or number"),
        ({"halves": -1}, "halves=-1 must be at least 0"),
        ({"threads": 0}, "threads=0"),
        ({"method": "jmi", "pairs": 0}, "method=jmi needs pairs"),
    ):
        with pytest.raises(ConfigError, match=message):
            RankingOptions(**keys)


def test_no_rows_are_an_error() -> None:
    with pytest.raises(SchemaError, match="no rows"):
        Source.from_frame(planted(10).head(0))


def test_mixed_types_are_named_with_the_file(tmp_path) -> None:
    frame = planted(100)
    frame.write_parquet(tmp_path / "a.parquet")
    frame.with_columns(pl.col("weak").cast(pl.String)).write_parquet(tmp_path / "b.parquet")
    with pytest.raises(SchemaError, match=r'column "weak" is int64 in .*a\.parquet but .* in .*b'):
        Source.open(tmp_path)


def test_held_out_files_are_used(found: Ranking) -> None:
    counted = found.facts["train_rows"] + found.facts["held_out_rows"]
    assert counted == pytest.approx(36_000, rel=0.02)
    frame = planted(4_000)
    sources = {"train": Source.from_frame(frame), "val": Source.from_frame(frame.head(500))}
    raw = RawDataset("x", sources, dataset(frame).schema)
    assert rank_features(raw).facts["held_out_rows"] == 500


def test_a_budget_of_pairs_bounds_the_greedy_orders() -> None:
    """More columns to choose from than the budget pairs with one another."""
    generator = np.random.default_rng(0)
    columns = {f"x{k}": generator.integers(0, 3, 800) for k in range(30)}
    raw = dataset(pl.DataFrame(columns | {"click": generator.integers(0, 2, 800)}))
    ranking = rank_features(raw, RankingOptions(pairs=200, select=30, full_pairs=1))
    assert ranking.selection["step"].max() == num_paired(30, 200) < 30


def test_only_the_columns_in_hand_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large row group is decoded for every column that is asked for."""
    asked = []
    chunks = Source.chunks

    def spy(self: Source, columns=None, *rest):
        asked.append(columns)
        return chunks(self, columns, *rest)

    monkeypatch.setattr(Source, "chunks", spy)
    frame = planted(3_000).with_columns(day=pl.Series(np.arange(3_000)))
    rank_features(dataset(frame, timestamp="day"), RankingOptions(full_pairs=1))
    assert len(asked) > 10
    assert all(columns is not None and len(columns) <= 2 for columns in asked)
