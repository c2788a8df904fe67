"""Three labels of one table: what two of them share, the third opposes, and the truth is known."""

from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from recsys.data.synthetic import bayes_by_label
from recsys.data.synthetic_tasks import (
    INTERCEPTS,
    LABELS,
    NUM_SIGNED,
    PAIRS,
    SyntheticTasks,
    generate_tasks,
)
from recsys.errors import ConfigError

ROWS = 60_000
INPUTS = ("user", "item", *(name for pair in PAIRS for name in pair))


@pytest.fixture(scope="module")
def table() -> SyntheticTasks:
    return generate_tasks(ROWS, seed=3)


def test_same_seed_same_table_other_seed_other_table() -> None:
    first, again, other = (generate_tasks(500, seed) for seed in (1, 1, 2))
    assert first.frame.equals(again.frame)
    assert np.array_equal(first.probability, again.probability)
    assert not first.frame.equals(other.frame)


def test_the_world_does_not_depend_on_the_number_of_rows() -> None:
    small, large = generate_tasks(3_000, 5), generate_tasks(30_000, 5)
    for name in INPUTS:
        effects = [
            dict(zip(t.frame[name].to_list(), t.terms["opposed"][name].tolist(), strict=True))
            for t in (small, large)
        ]
        shared = effects[0].keys() & effects[1].keys()
        assert len(shared) >= NUM_SIGNED
        assert all(effects[0][key] == effects[1][key] for key in shared)


def test_conflict_changes_the_opposed_label_alone(table: SyntheticTasks) -> None:
    related = generate_tasks(ROWS, seed=3, conflict=0.0)
    same = [*INPUTS, "first", "second"]
    assert related.frame.select(same).equals(table.frame.select(same))
    assert np.array_equal(related.probability[:, :2], table.probability[:, :2])
    assert not related.frame["opposed"].equals(table.frame["opposed"])


def test_columns(table: SyntheticTasks) -> None:
    assert table.frame.columns == [*INPUTS, *LABELS]
    assert not table.frame.null_count().sum_horizontal().item()
    for name in ("user", "item"):
        counts = table.frame[name].value_counts(sort=True)["count"].to_numpy()
        assert counts[0] > 10 * np.median(counts)
        assert counts[0] < 0.1 * ROWS
    assert all(table.frame[name].n_unique() == NUM_SIGNED for name in INPUTS[2:])


def test_terms_add_up_to_the_probability_and_labels_follow_it(table: SyntheticTasks) -> None:
    for column, label in enumerate(LABELS):
        p, y = table.probability[:, column], table.frame[label].to_numpy()
        total = INTERCEPTS[label] + np.sum(list(table.terms[label].values()), axis=0)
        np.testing.assert_allclose(np.log(p / (1 - p)), total, atol=1e-9)
        for part in np.array_split(np.argsort(p), 20):
            error = np.sqrt(np.mean(p[part] * (1 - p[part])) / len(part))
            assert abs(y[part].mean() - p[part].mean()) < 4.5 * error


def test_labels_are_drawn_independently_given_the_row(table: SyntheticTasks) -> None:
    surprise = table.frame.select(LABELS).to_numpy() - table.probability
    correlation = np.corrcoef(surprise.T) - np.eye(len(LABELS))
    assert np.abs(correlation).max() < 4.5 / math.sqrt(ROWS)


@pytest.mark.parametrize("conflict", [0.0, 0.3, 1.0])
def test_terms_of_the_opposed_label_by_hand(conflict: float) -> None:
    table = generate_tasks(4_000, seed=1, conflict=conflict)
    own = generate_tasks(4_000, seed=1, conflict=1.0).terms["opposed"]
    first, opposed = table.terms["first"], table.terms["opposed"]
    assert first.keys() == opposed.keys()
    for name in ("user", "item"):
        np.testing.assert_allclose(opposed[name], (1 - 2 * conflict) * first[name])
    scale = math.sqrt((1 - conflict) ** 2 + conflict**2)
    for name in [*INPUTS[2:], *(" x ".join(pair) for pair in PAIRS)]:
        mixed = ((1 - conflict) * first[name] + conflict * own[name]) / scale
        np.testing.assert_allclose(opposed[name], mixed)
        assert opposed[name].std() == pytest.approx(first[name].std(), rel=0.05)


def test_signs_are_fair_and_of_two_kinds_that_are_independent(table: SyntheticTasks) -> None:
    first, opposed = table.terms["first"], table.terms["opposed"]
    error = 4.5 / math.sqrt(ROWS)
    for pair in PAIRS:
        signs = {}
        for name in pair:
            signs[name] = [np.sign(terms[name]) for terms in (first, opposed)]
            for sign in signs[name]:
                assert abs(sign.mean()) < error
                # A value has one sign.
                seen = pl.DataFrame({"value": table.frame[name], "sign": sign}).unique()
                assert seen.height == NUM_SIGNED
            assert abs(np.mean(signs[name][0] * signs[name][1])) < error
        product = " x ".join(pair)
        for kind, terms in enumerate((first, opposed)):
            one, other = (signs[name][kind] for name in pair)
            np.testing.assert_array_equal(np.sign(terms[product]), one * other)
            # A pure interaction: neither column alone says anything of it.
            values = pl.DataFrame({"value": table.frame[pair[0]], "term": terms[product]})
            mean = values.group_by("value").agg(pl.col("term").mean(), pl.len())
            assert (mean["term"].abs() < 4.5 * 0.8 / mean["len"].sqrt()).all()
        assert abs(np.corrcoef(first[product], opposed[product])[0, 1]) < error


def test_two_labels_are_related_and_the_third_is_only_without_conflict() -> None:
    def correlations(conflict: float) -> np.ndarray:
        p = generate_tasks(20_000, seed=2, conflict=conflict).probability
        return np.corrcoef(np.log(p / (1 - p)).T)[0, 1:]

    related, opposed = zip(*(correlations(c) for c in (0.0, 0.25, 0.5, 0.75, 1.0)), strict=True)
    assert min(related) > 0.95
    assert opposed[0] > 0.95
    assert -0.5 < opposed[-1] < 0
    assert list(opposed) == sorted(opposed, reverse=True)


def test_every_label_needs_terms_of_its_own_kind(table: SyntheticTasks) -> None:
    """A model of the right terms reaches the ceiling; one of the other kind's does not."""
    half = ROWS // 2
    ceiling = bayes_by_label(table.probability[half:], table.frame[half:], LABELS)

    def reached(label: str, of: str) -> float:
        x = np.stack(list(table.terms[of].values()), axis=1)
        y = table.frame[label].to_numpy()
        model = LogisticRegression().fit(x[:half], y[:half])
        found = roc_auc_score(y[half:], model.decision_function(x[half:]))
        return (found - 0.5) / (ceiling[f"{label}/realised_auc"] - 0.5)

    for label in LABELS:
        assert reached(label, label) == pytest.approx(1, abs=0.005)
    assert reached("second", "first") > 0.97
    assert reached("opposed", "first") < 0.6
    assert reached("first", "opposed") < 0.6


def test_ceilings_and_rates_are_those_the_labels_are_meant_to_have() -> None:
    for seed in range(3):
        table = generate_tasks(30_000, seed)
        ceiling = bayes_by_label(table.probability, table.frame, LABELS)
        for label in LABELS:
            assert 0.82 < ceiling[f"{label}/auc"] < 0.88
            assert ceiling[f"{label}/realised_auc"] == pytest.approx(
                ceiling[f"{label}/auc"], abs=0.015
            )
        rates = table.frame.select(LABELS).mean().row(0)
        assert rates == pytest.approx((0.36, 0.12, 0.34), abs=0.04)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"rows": 0}, "rows is 0"),
        ({"rows": 10, "seed": -1}, "seed is -1"),
        ({"rows": 10, "conflict": 1.5}, "conflict is 1.5; it must be between 0 and 1"),
        ({"rows": 10, "conflict": float("nan")}, "conflict is nan"),
    ],
)
def test_bad_arguments_are_refused(keys: dict, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        generate_tasks(**keys)


def test_every_label_has_effects_of_its_own(table: SyntheticTasks) -> None:
    own = [table.terms[label]["own"] for label in LABELS]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert abs(np.corrcoef(own[one], own[other])[0, 1]) < 0.5
