"""Figures about fields: the numbers they show, what they say, that nothing is outside."""

import numpy as np
import pytest

from recsys.tracking.plots import (
    Panel,
    attention_heatmap,
    bar_panels,
    bars,
    crosses_plot,
    heatmap,
    interest_by_recency,
    save_figure,
)
from tests.tracking.test_plots import SUBJECT, labels, title


class TestFields:
    def test_attention_table(self):
        attention = np.random.default_rng(0).dirichlet(np.ones(3), size=(2, 4, 3))
        figure, table = attention_heatmap(SUBJECT, ["a", "b", "c"], attention)
        rows = list(zip(*table.values(), strict=True))
        assert len(rows) == 2 * 4 * 3 * 3
        assert rows[0] == (1, 1, "a", "a", attention[0, 0, 0, 0])
        assert rows[-2] == (2, 4, "c", "b", attention[1, 3, 2, 1])
        assert "layer 2, head 4" in labels(figure)

    def test_attention_of_the_wrong_shape(self):
        with pytest.raises(ValueError, match=r"attention is \[1, 1, 3, 3\] but there are 2"):
            attention_heatmap(SUBJECT, ["a", "b"], np.zeros((1, 1, 3, 3)))


WEIGHTS = {"label": "weight", "names": ("reader", "expert", "weight")}


class TestHeatmap:
    def test_numbers_are_written_and_what_is_not_there_is_left_out(self, tmp_path):
        values = np.array([[0.25, 0.75, 0.0], [np.nan, 0.4, 0.6]])
        mask = np.array([[True, True, False], [True, True, True]])
        figure, table = heatmap(
            SUBJECT, "Gates", ["a", "b"], ["x", "y", "z"], values, mask=mask, **WEIGHTS
        )
        assert list(zip(*table.values(), strict=True)) == [
            ("a", "x", 0.25), ("a", "y", 0.75), ("b", "y", 0.4), ("b", "z", 0.6),
        ]  # fmt: skip
        written = [text.get_text() for text in figure.axes[0].texts]
        assert written == ["0.25", "0.75", "0.40", "0.60"]
        assert title(figure).startswith("Gates\nautoint on frappe")
        save_figure(figure, table, tmp_path / "gates")
        assert (tmp_path / "gates.png").stat().st_size > 5000

    def test_many_rows_are_cut_in_the_figure_alone(self):
        rows = [f"f{i}" for i in range(60)]
        figure, table = heatmap(SUBJECT, "Drop", rows, ["x"], np.ones((60, 1)), **WEIGHTS)
        assert len(table["reader"]) == 60
        assert "f39" in labels(figure).split()
        assert "f40" not in labels(figure).split()

    def test_small_numbers_have_more_digits(self):
        figure, _ = heatmap(SUBJECT, "Drop", ["a"], ["x"], np.array([[0.012]]), **WEIGHTS)
        assert figure.axes[0].texts[0].get_text() == "0.012"

    def test_nothing_to_show(self):
        heatmap(SUBJECT, "Drop", ["a"], ["x"], np.full((1, 1), np.nan), **WEIGHTS)


class TestBars:
    def test_sorted_and_cut_only_in_the_figure(self):
        values = np.arange(60.0)
        figure, table = bars(SUBJECT, [f"f{i}" for i in range(60)], values)
        assert table["field"][:2] == ["f59", "f58"]
        assert table["importance"][0] == 59
        assert len(table["field"]) == 60
        assert "first 40 of 60" in title(figure)
        assert "f20" in labels(figure).split()
        assert "f19" not in labels(figure).split()
        assert len(figure.axes[0].patches) == 40

    def test_long_names_are_cut_in_the_figure(self):
        figure, table = bars(SUBJECT, ["x" * 60], np.ones(1), np.zeros(1))
        assert "x" * 27 + "…" in labels(figure)
        assert table["field"] == ["x" * 60]
        assert list(table) == ["field", "importance", "deviation"]

    def test_names_of_title_axis_and_columns(self):
        figure, table = bars(
            SUBJECT, ["a"], [1.0], title="Gain", label="bits", columns=("slot", "gain", "sd")
        )
        assert title(figure).startswith("Gain\nautoint on frappe")
        assert figure.axes[0].get_xlabel() == "bits"
        assert list(table) == ["slot", "gain"]

    def test_every_bar_interval_and_number_is_inside(self, tmp_path):
        values, spread = [0.5, -0.3, 0.0], [0.1, 0.2, 0.05]
        figure, table = bars(SUBJECT, ["a", "b", "c"], values, spread)
        save_figure(figure, table, tmp_path / "plot")  # the layout is made when it is drawn
        (axis,) = figure.axes
        low, high = axis.get_xlim()
        assert low < -0.5
        assert high > 0.6
        frame = axis.get_window_extent()
        for text in axis.texts:
            box = text.get_window_extent()
            assert frame.x0 <= box.x0 < box.x1 <= frame.x1, text.get_text()
        assert {text.get_text() for text in axis.texts} == {"0.5000", "-0.3000", "0.0000"}

    def test_bars_begin_at_their_base(self):
        figure, _ = bars(SUBJECT, ["a", "b"], [1.02, 0.97], base=1.0)
        (axis,) = figure.axes
        starts = {round(bar.get_x(), 6) for bar in axis.patches}
        assert starts == {1.0}
        assert axis.get_xlim()[0] > 0.9
        assert {text.get_text() for text in axis.texts} == {"1.0200", "0.9700"}

    def test_no_negative_zero(self):
        figure, _ = bars(SUBJECT, ["a", "b"], [0.5, -1e-9])
        assert {text.get_text() for text in figure.axes[0].texts} == {"0.5000", "0.0000"}

    def test_panels_share_the_order_of_the_first(self):
        panels = [
            Panel("drop", [0.1, 0.3, 0.2], columns=("drop", "drop_sd")),
            Panel("rise", [3, 1, 2], [0, 1, 0], columns=("rise", "rise_sd")),
        ]
        figure, table = bar_panels(SUBJECT, ["a", "b", "c"], panels, title="Both")
        assert table["field"] == ["b", "c", "a"]
        assert table["rise"].tolist() == [1, 2, 3]
        assert list(table) == ["field", "drop", "rise", "rise_sd"]
        assert [axis.get_xlabel() for axis in figure.axes] == ["drop", "rise"]

    @pytest.mark.filterwarnings("error")
    @pytest.mark.parametrize("values", [[], [0.0, 0.0], [float("nan"), 1.0], [1e6, 2e-7]])
    def test_little_or_odd_numbers_are_drawn(self, tmp_path, values):
        names = [f"f{i}" for i in range(len(values))]
        save_figure(*bars(SUBJECT, names, values), tmp_path / "plot")

    def test_one_number_per_name(self):
        with pytest.raises(ValueError, match=r"\[3\] numbers for 2 names"):
            bars(SUBJECT, ["a", "b"], [1.0, 2.0, 3.0])


class TestCrosses:
    def test_table_and_columns(self):
        shares = np.linspace(1, 0.5, 30).tolist()
        crosses = [(0, 2)] + [(1, 2)] * 28 + [(0, 3)]
        weights = [(0.5, -0.25)] * 30
        figure, table = crosses_plot(
            SUBJECT, ["a", "b", "c", "d"], crosses, weights, np.abs(weights).tolist(), shares
        )
        rows = list(zip(*table.values(), strict=True))
        assert rows[0] == (1, 1.0, "a", 0.5, 0.5)
        assert rows[1] == (1, 1.0, "c", -0.25, 0.25)
        assert rows[-1] == (30, 0.5, "d", -0.25, 0.25)
        (axis,) = figure.axes
        assert [text.get_text() for text in axis.get_xticklabels()] == ["a", "b", "c"]  # 20 drawn
        assert axis.get_yticklabels()[0].get_text() == "100.0%"
        assert len(axis.get_yticklabels()) == 20

    @pytest.mark.filterwarnings("error")
    def test_none(self, tmp_path):
        save_figure(*crosses_plot(SUBJECT, ["a"], [], [], [], []), tmp_path / "plot")


class TestInterest:
    def test_places_nobody_reaches_are_left_out(self):
        nan = float("nan")
        figure, table = interest_by_recency(
            SUBJECT,
            "items",
            np.array([0.5, 0.2, nan]),
            np.array([0.1, 0, nan]),
            np.array([9, 2, 0]),
        )
        assert table["events_ago"].tolist() == [1, 2]
        assert table["mean"].tolist() == [0.5, 0.2]
        assert "Interest in past events of items" in title(figure)

    @pytest.mark.filterwarnings("error")
    def test_no_events(self, tmp_path):
        save_figure(*interest_by_recency(SUBJECT, "items", *np.zeros((3, 0))), tmp_path / "plot")
