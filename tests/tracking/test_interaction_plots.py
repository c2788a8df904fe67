"""Swarm and halo: the numbers they show, and that nothing is outside."""

import math

import numpy as np
import pytest

from recsys.models.interactions import Member, PairInteraction
from recsys.models.near_optimal import HaloPoint
from recsys.tracking.interaction_plots import halo_plot, lanes, pair_table, swarm_plot
from recsys.tracking.plots import save_figure
from tests.tracking.test_plots import SUBJECT, labels, title


def pair(first: str = "a", second: str = "b", score: float = 0.2, runs: int = 1) -> PairInteraction:
    members = [Member("reference", score, score - 0.1, score + 0.1, 0.0)]
    members += [
        Member("mask", score - 0.01 * k, score - 0.02 * k, score, 0.001 * k, (1 - k / 50, 1 + k))
        for k in range(36)
    ]
    members += [Member(f"run{k}", -0.3, -0.4, -0.2, -0.002) for k in range(runs)]
    halo = [
        HaloPoint(angle, 0.01 + 0.002 * math.sin(angle), (0.004, 0.006), (0.5, 2.0))
        for angle in np.linspace(0, 2 * math.pi, 36, endpoint=False)
    ]
    return PairInteraction((first, second), tuple(members), tuple(halo))


def test_table_of_pairs() -> None:
    table = pair_table([pair()])
    rows = {key: value[0] for key, value in table.items()}
    assert (rows["field_1"], rows["field_2"], rows["models"]) == ("a", "b", 38)
    assert (rows["score"], rows["low"], rows["high"]) == (0.2, 0.1, pytest.approx(0.3))
    assert (rows["lowest"], rows["highest"]) == (-0.3, 0.2)
    assert rows["sign_changes"] == pytest.approx(16 / 37)  # masks 21 to 35, and the run
    assert rows["most_outside"] == pytest.approx(0.002)
    assert rows["most_inside"] == pytest.approx(-0.002)


def test_swarm(tmp_path) -> None:
    pairs = [pair(), pair("user", "x" * 40, -0.01)]
    figure, table = swarm_plot(SUBJECT, pairs, 0.05)
    assert title(figure).startswith("Interaction over models that lose at most 0.05 of log-loss\n")
    assert len(table["score"]) == 2 * 38
    assert (table["model"][0], table["model"][1], table["model"][37]) == (
        "reference", "mask", "run0",
    )  # fmt: skip
    assert table["mask_2"][2] == 2
    assert "a x b" in labels(figure)
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert shown == ["reference, 95 % interval", "with masks", "other run"]
    assert all(low <= 0.2 <= high for low, high in [figure.axes[0].get_xlim()])
    save_figure(figure, table, tmp_path / "swarm")
    assert 5_000 < (tmp_path / "swarm.png").stat().st_size < 200_000


def test_without_other_runs_the_legend_has_none() -> None:
    figure, _ = swarm_plot(SUBJECT, [pair(runs=0)], 0.05)
    shown = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert "other run" not in shown


def test_halo(tmp_path) -> None:
    figure, table = halo_plot(SUBJECT, [pair(), pair("a", "c")], 0.01)
    assert len(table["degrees"]) == 72
    assert table["logloss_rise"][9] == pytest.approx(0.012)
    assert "circle 0.01" in title(figure)
    axis = figure.axes[0]
    orange, blue = (one.get_offsets() for one in axis.collections)
    assert len(orange) + len(blue) == 36
    assert (np.hypot(*orange.T) > 0.01).all()
    assert (np.hypot(*blue.T) <= 0.01 + 1e-12).all()
    assert axis.get_xlim()[1] > 0.012
    save_figure(figure, table, tmp_path / "halo")
    assert 5_000 < (tmp_path / "halo.png").stat().st_size < 200_000


def test_many_pairs_are_cut_in_the_figures_alone(tmp_path) -> None:
    pairs = [pair("a", f"f{k}") for k in range(25)]
    figure, table = swarm_plot(SUBJECT, pairs, 0.05)
    assert "(first 20 of 25 pairs)" in title(figure)
    assert len(set(table["field_2"])) == 25
    save_figure(figure, table, tmp_path / "swarm")
    assert (tmp_path / "swarm.png").stat().st_size < 200_000
    figure, table = halo_plot(SUBJECT, pairs, 0.05)
    assert "(first 12 of 25 pairs)" in title(figure)
    assert len(set(table["field_2"])) == 25
    save_figure(figure, table, tmp_path / "halo")
    assert (tmp_path / "halo.png").stat().st_size < 200_000


def test_dots_that_would_hide_each_other_lie_apart() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)
    heights = lanes(values, 0.1)
    places = list(zip(values.tolist(), heights.tolist(), strict=True))
    for i, (x, y) in enumerate(places):
        for other, height in places[:i]:
            assert y != height or abs(x - other) >= 0.1
    assert np.abs(lanes(np.zeros(50), 1.0)).max() < 0.4
