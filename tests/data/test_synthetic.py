"""Synthetic clicks: every planted effect is there, and the ceiling is what it claims to be."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss, roc_auc_score

from recsys.data.synthetic import (
    MAX_HISTORY,
    Synthetic,
    bayes_by_label,
    bayes_metrics,
    generate,
)
from recsys.errors import ConfigError

ROWS = 120_000


@pytest.fixture(scope="module")
def table() -> Synthetic:
    return generate(ROWS, seed=3)


def rate_by(frame: pl.DataFrame, *columns: str) -> pl.DataFrame:
    return frame.group_by(columns).agg(rate=pl.col("click").mean(), n=pl.len()).sort(columns)


def z_scores(frame: pl.DataFrame, column: str) -> np.ndarray:
    """How many standard errors each value's click rate lies from the rate over all rows."""
    groups = rate_by(frame.drop_nulls(column), column)
    rate = frame["click"].mean()
    error = np.sqrt(rate * (1 - rate) / groups["n"].to_numpy())
    return (groups["rate"].to_numpy() - rate) / error


def test_same_seed_same_table_other_seed_other_table() -> None:
    first, again, other = (generate(500, seed) for seed in (1, 1, 2))
    assert first.frame.equals(again.frame)
    assert np.array_equal(first.probability, again.probability)
    assert not first.frame.equals(other.frame)


def test_the_world_does_not_depend_on_the_number_of_rows() -> None:
    small, large = generate(3_000, 5), generate(30_000, 5)
    for name in ("user", "item"):
        effects = [
            dict(zip(t.frame[name].to_list(), t.terms[name].tolist(), strict=True))
            for t in (small, large)
        ]
        shared = effects[0].keys() & effects[1].keys()
        assert len(shared) > 100
        assert all(effects[0][key] == effects[1][key] for key in shared)


def test_columns(table: Synthetic) -> None:
    frame = table.frame
    assert frame.columns == [
        "time", "user", "item", "device", "hour", "color", "shape", "price", "age", "city",
        "history", "click", "conversion",
    ]  # fmt: skip
    assert frame["time"].is_sorted()
    assert (frame["time"] // 3600 % 24).equals(frame["hour"], check_names=False)
    missing = {name: frame[name].null_count() / ROWS for name in frame.columns}
    some = {"price": 0.12, "age": 0.05, "city": 0.1}
    for name, share in missing.items():
        assert share == pytest.approx(some.get(name, 0), abs=0.005), name
    lengths = frame["history"].list.len()
    assert lengths.max() == MAX_HISTORY
    assert (lengths == 0).mean() == pytest.approx(1 / 6, abs=0.01)
    items = set(frame["item"].unique())
    assert set(frame["history"].explode(empty_as_null=False).unique()) <= items
    assert "history" not in generate(50, history=False).frame.columns


def test_ids_are_long_tailed(table: Synthetic) -> None:
    for name in ("user", "item"):
        counts = table.frame[name].value_counts(sort=True)["count"].to_numpy()
        assert counts[0] > 10 * np.median(counts)
        assert counts[0] < 0.1 * ROWS
        assert counts[-1] > 20  # even the rarest can be learned a little


def test_terms_add_up_to_the_probability(table: Synthetic) -> None:
    logit = np.log(table.probability[:, 0] / (1 - table.probability[:, 0]))
    total = np.sum(list(table.terms.values()), axis=0)
    np.testing.assert_allclose(logit - total, -1.3, atol=1e-9)


def test_labels_follow_the_probability(table: Synthetic) -> None:
    for column, label in enumerate(("click", "conversion")):
        p = table.probability[:, column]
        y = table.frame[label].to_numpy()
        order = np.argsort(p)
        for part in np.array_split(order, 20):
            error = np.sqrt(np.mean(p[part] * (1 - p[part])) / len(part))
            assert abs(y[part].mean() - p[part].mean()) < 4.5 * error


def test_conversion_happens_after_a_click_only(table: Synthetic) -> None:
    frame = table.frame
    assert frame.filter(pl.col("conversion") > pl.col("click")).height == 0
    assert (table.probability[:, 1] < table.probability[:, 0]).all()
    assert 0.03 < frame["conversion"].mean() < 0.15


def test_color_and_shape_say_nothing_alone_and_much_together(table: Synthetic) -> None:
    for name in ("color", "shape"):
        assert np.abs(z_scores(table.frame, name)).max() < 4
        # Each value meets both signs of the other column alike, up to sampling.
        frame = pl.DataFrame({name: table.frame[name], "term": table.terms["color x shape"]})
        mean = frame.group_by(name).agg(pl.col("term").mean())["term"]
        assert mean.abs().max() < 0.06
    pairs = rate_by(table.frame, "color", "shape").filter(pl.col("n") > 200)
    assert pairs["rate"].min() < 0.25
    assert pairs["rate"].max() > 0.35
    # One sign per value explains every pair.
    pair = pl.DataFrame(
        {"c": table.frame["color"], "s": table.frame["shape"], "t": table.terms["color x shape"]}
    )
    assert pair.group_by("c", "s").agg(pl.col("t").n_unique())["t"].max() == 1
    assert set(np.abs(pair["t"].unique().to_numpy()).round(6)) == {1.1}


@pytest.mark.parametrize("name", ["user", "item", "device", "hour"])
def test_main_effects_show(table: Synthetic, name: str) -> None:
    assert np.abs(z_scores(table.frame, name)).max() > 8


@pytest.mark.parametrize("name", ["age", "city"])
def test_noise_columns_say_nothing(table: Synthetic, name: str) -> None:
    assert np.abs(z_scores(table.frame, name)).max() < 4.5


def test_missing_is_informative_for_price_only(table: Synthetic) -> None:
    def difference(name: str) -> float:
        """Click rate of known less that of missing values, in standard errors."""
        groups = rate_by(table.frame.with_columns(gone=pl.col(name).is_null()), "gone")
        known, gone = groups["rate"].to_list()
        return (known - gone) / np.sqrt(np.sum(0.21 / groups["n"].to_numpy()))

    assert difference("price") > 10
    assert abs(difference("age")) < 4
    assert abs(difference("city")) < 4


def test_price_effect_is_a_bump(table: Synthetic) -> None:
    priced = table.frame.drop_nulls("price")
    edges = np.quantile(priced["price"].to_numpy(), [0.1, 0.4, 0.6, 0.9])
    cheap, middle, dear = (
        priced.filter(pl.col("price").is_between(low, high))["click"].mean()
        for low, high in ((0, edges[0]), (edges[1], edges[2]), (edges[3], np.inf))
    )
    assert middle > cheap + 0.1
    assert middle > dear + 0.1


def test_history_pulls_items_of_its_topic(table: Synthetic) -> None:
    pull = table.terms["history x item"]
    frame = table.frame.with_columns(like=pl.Series(pull > 0.5), unlike=pl.Series(pull < -0.5))
    like = frame.filter("like")["click"].mean()
    unlike = frame.filter("unlike")["click"].mean()
    assert like > unlike + 0.15
    empty = table.frame["history"].list.len().to_numpy() == 0
    assert not pull[empty].any()
    assert not table.terms["history"][empty].any()
    # Every item is of one topic: the pull is positive for one and the same half of them.
    topic = np.sign(pull[~empty] * table.terms["history"][~empty])
    items = pl.DataFrame({"item": table.frame["item"].filter(pl.Series(~empty)), "topic": topic})
    seen = items.filter(pl.col("topic") != 0).group_by("item").agg(pl.col("topic").n_unique())
    assert seen["topic"].max() == 1


def test_a_model_of_the_true_terms_reaches_the_ceiling_and_of_single_columns_does_not(
    table: Synthetic,
) -> None:
    y = table.frame["click"].to_numpy()
    half = ROWS // 2
    ceiling = bayes_metrics(table.probability[half:, 0], y[half:])["realised_auc"]

    def fraction(names: list[str]) -> float:
        x = np.stack([table.terms[name] for name in names], axis=1)
        model = LogisticRegression(C=1e6).fit(x[:half], y[:half])
        auc = roc_auc_score(y[half:], model.decision_function(x[half:]))
        return (auc - 0.5) / (ceiling - 0.5)

    single = [name for name in table.terms if " x " not in name]
    assert fraction(list(table.terms)) == pytest.approx(1, abs=0.002)
    assert fraction(single) < 0.75
    assert fraction([*single, "color x shape"]) < 0.97  # the history matters as well
    assert fraction([*single, "history x item"]) < 0.85


def test_ceiling_is_between_the_bounds_that_make_it_a_test() -> None:
    for seed in range(3):
        found = generate(40_000, seed)
        metrics = bayes_metrics(found.probability[:, 0], found.frame["click"].to_numpy())
        assert 0.82 < metrics["auc"] < 0.87
        assert metrics["realised_auc"] == pytest.approx(metrics["auc"], abs=0.012)
        assert metrics["realised_logloss"] == pytest.approx(metrics["logloss"], abs=0.012)


def test_no_strength_means_no_signal() -> None:
    found = generate(2_000, 1, strength=0.0)
    assert np.unique(found.probability, axis=0).shape == (1, 2)
    assert bayes_metrics(found.probability[:, 0], found.frame["click"].to_numpy())["auc"] == 0.5


@pytest.mark.parametrize("decimals", [1, 15])  # with and without ties
def test_expected_metrics_equal_pair_counting(decimals: int) -> None:
    p = np.round(np.random.default_rng(0).uniform(0.05, 0.95, 60), decimals)
    above = pairs = 0.0
    for i in range(60):
        for j in range(60):
            if i != j:
                mass = p[i] * (1 - p[j])
                pairs += mass
                above += mass * ((p[i] > p[j]) + 0.5 * (p[i] == p[j]))
    entropy = np.mean([-q * np.log(q) - (1 - q) * np.log(1 - q) for q in p])
    found = bayes_metrics(p, np.zeros(60))
    assert found["auc"] == pytest.approx(above / pairs, abs=1e-12)
    assert found["logloss"] == pytest.approx(entropy, abs=1e-12)


def test_expected_metrics_equal_monte_carlo_and_realised_equal_sklearn() -> None:
    rng = np.random.default_rng(1)
    p = rng.beta(1, 3, 400)
    aucs, losses = [], []
    for _ in range(1500):
        y = (rng.random(400) < p).astype(int)
        found = bayes_metrics(p, y)
        aucs.append(found["realised_auc"])
        losses.append(found["realised_logloss"])
    assert found["realised_auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert found["realised_logloss"] == pytest.approx(log_loss(y, p), abs=1e-12)
    expected = bayes_metrics(p, y)
    error = 4 / np.sqrt(1500)
    # The mean of a ratio differs from the ratio of means by less than this error.
    assert expected["auc"] == pytest.approx(np.mean(aucs), abs=error * np.std(aucs))
    assert expected["logloss"] == pytest.approx(np.mean(losses), abs=error * np.std(losses))


def test_sure_rows_have_no_loss_and_one_class_has_no_auc() -> None:
    assert bayes_metrics(np.array([0.0, 1.0]), np.array([0, 1])) == {
        "auc": 1.0,
        "logloss": 0.0,
        "realised_auc": 1.0,
        "realised_logloss": 0.0,
    }
    assert np.isnan(bayes_metrics(np.array([0.5, 0.5]), np.array([1, 1]))["realised_auc"])


def test_metrics_by_label_are_named_by_it_when_there_are_several(table: Synthetic) -> None:
    frame, p = table.frame, table.probability
    both = bayes_by_label(p, frame, ["click", "conversion"])
    for column, label in enumerate(("click", "conversion")):
        alone = bayes_by_label(p[:, [column]], frame, [label])
        assert alone == bayes_metrics(p[:, column], frame[label].to_numpy())
        assert {f"{label}/{name}": value for name, value in alone.items()}.items() <= both.items()
    assert len(both) == 8


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"rows": 0}, "rows is 0"),
        ({"rows": 10, "seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments_are_refused(keys: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        generate(**keys)
