"""Figures: their numbers are the table's."""

import math

import pytest

from recsys.comparison.figures import configurations, quality_and_cost
from recsys.comparison.table import compare
from tests.comparison.runs import clicks, record


def test_quality_and_cost_marks_what_nothing_beats() -> None:
    (table,) = compare([*clicks(), record("slow", 0, 0.5, metrics={"fit_seconds": 500.0})])
    drawn = quality_and_cost(table)
    assert drawn is not None
    figure, columns = drawn
    # DeepFM at 0.01 is cheapest, at 0.001 best; LR and the slow one are beaten by both.
    found = dict(zip(columns["configuration"], columns["unbeaten"], strict=True))
    assert found == {"deepfm lr=0.001": True, "deepfm lr=0.01": True, "lr": False, "slow": False}
    assert columns["test/auc"][0] == pytest.approx(0.81)
    assert columns["fit_seconds"].tolist() == pytest.approx([11.0, 10.0, 11.0, 500.0])
    assert "Quality and cost: clicks" in figure.get_suptitle()
    assert figure.axes[0].get_xscale() == "log"


def test_lower_is_better_turns_the_front_round() -> None:
    (table,) = compare(clicks(), metric="logloss")
    drawn = quality_and_cost(table)
    assert drawn is not None
    assert drawn[1]["unbeaten"].tolist() == [True, True, False]


def test_without_times_there_is_nothing_to_set_quality_against() -> None:
    (table,) = compare([record("lr", 0, 0.7, metrics={"fit_seconds": 0.0})])
    assert quality_and_cost(table) is None


def test_differences_are_bars_and_values_points() -> None:
    (table,) = compare(clicks())
    _, columns = configurations(table)
    assert columns["configuration"].count("lr") == 3
    assert columns["test/auc"][:3] == [0.80, 0.82, 0.81]
    (table,) = compare(clicks(), baseline="lr")
    figure, columns = configurations(table)
    assert columns["configuration"] == ["deepfm lr=0.001", "deepfm lr=0.01"]
    assert columns["difference"] == pytest.approx([0.10, 0.09])
    assert math.isnan(columns["seeds_low"][1])
    widths = [bar.get_width() for bar in figure.axes[0].patches]
    assert widths == pytest.approx([0.10, 0.09])
