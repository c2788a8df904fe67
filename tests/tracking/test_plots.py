"""Figures: the numbers they show, what they say, how large they are."""

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from recsys.metrics.calibration import calibration_curve, calibration_ratio
from recsys.metrics.classification import Ranked, auc, rank
from recsys.tracking.plots import (
    Panel,
    Subject,
    attention_heatmap,
    bar_panels,
    bars,
    calibration_plot,
    crosses_plot,
    interest_by_recency,
    lift_by_decile,
    roc_pr_plot,
    save_figure,
    training_curve,
)

SUBJECT = Subject("autoint", "frappe", 28_860)
MAX_BYTES = 200_000
FIELDS = [f"C{i}" for i in range(1, 40)]


def rows(num_rows: int = 20_000, shift: float = -3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    logits = (rng.normal(size=num_rows) + shift).astype(np.float32)
    return logits, rng.random(num_rows) < 1 / (1 + np.exp(-logits))


def ranked(num_rows: int = 20_000, shift: float = -3.0) -> Ranked:
    return rank(*rows(num_rows, shift))


def title(figure: Figure) -> str:
    return figure.get_suptitle()


def labels(figure: Figure) -> str:
    return " ".join(text.get_text() for text in figure.findobj(mpl.text.Text))


def every_figure():
    rng = np.random.default_rng(0)
    losses = [(i, float(rng.normal())) for i in range(1, 20_000)]
    evaluations = [
        {"step": i, "improved": i < 50, "auc": float(rng.random())} for i in range(1, 200)
    ]
    lrs = [(1, 1e-3), (10_000, 1e-4)]
    attention = rng.dirichlet(np.ones(39), size=(3, 2, 39))
    return {
        "training": training_curve(SUBJECT, losses, evaluations, lrs=lrs),
        "calibration": calibration_plot(SUBJECT, ranked(100_000)),
        "roc": roc_pr_plot(SUBJECT, ranked(100_000)),
        "lift": lift_by_decile(SUBJECT, ranked(100_000)),
        "attention": attention_heatmap(SUBJECT, FIELDS, attention),
        "importance": bars(SUBJECT, FIELDS, rng.random(39), rng.random(39) / 9),
        "crosses": crosses_plot(
            SUBJECT,
            FIELDS,
            [(0, 5), (3, 4, 38)],
            [(1, -2), (1, 1, 1)],
            [(1, 2), (1, 1, 3)],
            (1, 0.5),
        ),
        "interest": interest_by_recency(SUBJECT, "items", *rng.random((3, 50))),
        "panels": bar_panels(
            SUBJECT, FIELDS, [Panel("a", rng.random(39)), Panel("b", rng.random(39))], title="Both"
        ),
    }


def test_every_figure_is_small_titled_and_saved_with_its_numbers(tmp_path):
    for name, (figure, table) in every_figure().items():
        save_figure(figure, table, tmp_path / name)
        assert (tmp_path / f"{name}.png").stat().st_size < MAX_BYTES, name
        assert (tmp_path / f"{name}.csv").stat().st_size > 50, name
        assert "autoint on frappe, n = 28,860" in title(figure), name


class TestTrainingCurve:
    LOSSES = ((100, 0.6), (200, 0.5), (300, 0.4))
    EVALUATIONS = (
        {"step": 150, "improved": True, "auc": 0.7},
        {"step": 300, "improved": False, "auc": 0.65},
    )

    def test_table(self):
        lrs = [(100, 1e-3), (300, 1e-4)]
        _, table = training_curve(SUBJECT, self.LOSSES, self.EVALUATIONS, "auc", lrs)
        assert table["kind"] == ["train/loss"] * 3 + ["val/auc"] * 2 + ["lr"] * 2
        assert table["step"] == [100, 200, 300, 150, 300, 100, 300]
        assert table["value"] == pytest.approx([0.6, 0.5, 0.4, 0.7, 0.65, 1e-3, 1e-4])

    def test_best_is_marked(self):
        figure, _ = training_curve(SUBJECT, self.LOSSES, self.EVALUATIONS)
        assert "best 0.70000 at step 150" in labels(figure)

    def test_composite_monitor_shows_auc(self):
        figure, table = training_curve(SUBJECT, self.LOSSES, self.EVALUATIONS, "auc-logloss")
        assert "validation auc" in labels(figure)
        assert table["kind"].count("val/auc") == 2

    def test_learning_rate_is_drawn_only_when_it_changes(self):
        constant, _ = training_curve(
            SUBJECT, self.LOSSES, self.EVALUATIONS, lrs=[(1, 0.1), (2, 0.1)]
        )
        changing, _ = training_curve(
            SUBJECT, self.LOSSES, self.EVALUATIONS, lrs=[(1, 0.1), (2, 0.2)]
        )
        assert "learning rate" not in labels(constant)
        assert "learning rate" in labels(changing)

    @pytest.mark.parametrize(
        ("losses", "evaluations"),
        [((), ()), (LOSSES, ()), ((), EVALUATIONS), (((1, float("nan")),), EVALUATIONS[1:])],
    )
    def test_little_to_draw(self, tmp_path, losses, evaluations):
        save_figure(*training_curve(SUBJECT, losses, evaluations), tmp_path / "plot")


class TestCalibration:
    def test_table_is_the_curve(self):
        logits, y = rows()
        curve = calibration_curve(logits, y)
        figure, table = calibration_plot(SUBJECT, rank(logits, y))
        np.testing.assert_array_equal(table["observed"], curve.observed)
        np.testing.assert_array_equal(table["low"], curve.low)
        assert f"ECE {curve.error:.5f}" in title(figure)
        ratio = calibration_ratio(logits, y)
        assert f"predicted / observed {ratio:.3f}" in title(figure)

    @pytest.mark.parametrize(("shift", "scale"), [(-3.0, "log"), (0.0, "linear")])
    def test_rare_events_are_drawn_on_logarithmic_axes(self, shift, scale):
        logits, y = rows(shift=shift)
        figure, _ = calibration_plot(SUBJECT, rank(logits * (2 if shift else 0.5), y))
        main, below = figure.axes
        assert main.get_xscale() == main.get_yscale() == below.get_xscale() == scale
        assert main.get_xlim() == below.get_xlim()

    def test_all_intervals_are_inside(self):
        logits, y = rows(500, shift=0.0)
        figure, table = calibration_plot(SUBJECT, rank(logits * 0.2, y))
        low, high = figure.axes[0].get_ylim()
        assert low <= table["low"].min()
        assert high >= table["high"].max()

    def test_bins_without_positives(self, tmp_path):
        logits = np.linspace(-12, 0, 2000).astype(np.float32)
        figure, table = calibration_plot(SUBJECT, rank(logits, logits > -1))
        assert (table["observed"] == 0).any()
        save_figure(figure, table, tmp_path / "plot")


class TestRoc:
    def test_points_lie_on_the_curve(self):
        logits, y = rows()
        figure, table = roc_pr_plot(SUBJECT, rank(logits, y))
        roc = np.array([kind == "roc" for kind in table["curve"]])
        area = np.trapezoid(table["y"][roc], table["x"][roc])
        assert area == pytest.approx(auc(logits, y), abs=1e-3)
        for x, rate, threshold in zip(
            table["x"][roc][::50], table["y"][roc][::50], table["threshold"][roc][::50], strict=True
        ):
            assert x == pytest.approx((logits[~y] >= threshold).mean())
            assert rate == pytest.approx((logits[y] >= threshold).mean())
        assert f"AUC {auc(logits, y):.5f}" in labels(figure)

    def test_noisy_start_of_precision_is_left_out(self):
        logits, y = rows()
        _, table = roc_pr_plot(SUBJECT, rank(logits, y))
        pr = np.array([kind != "roc" for kind in table["curve"]])
        assert table["x"][pr].min() * y.sum() >= 20


class TestLift:
    def test_against_sorting(self):
        logits, y = rows()
        _, table = lift_by_decile(SUBJECT, rank(logits, y))
        tenths = y[np.argsort(-logits)].reshape(10, -1).mean(axis=1)
        np.testing.assert_allclose(table["lift"], tenths / y.mean(), rtol=1e-9)
        assert table["caught"][-1] == pytest.approx(1.0)

    def test_ties_are_shared(self):
        _, table = lift_by_decile(SUBJECT, rank(np.zeros(7), np.arange(7) < 3))
        np.testing.assert_allclose(table["lift"], 1.0)


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


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("labels_", [[1, 1, 1], [0, 0, 0], []])
@pytest.mark.parametrize("plot", [calibration_plot, roc_pr_plot, lift_by_decile])
def test_one_class_or_no_rows_draw_something(tmp_path, plot, labels_):
    save_figure(*plot(SUBJECT, rank(np.arange(len(labels_)), labels_)), tmp_path / "plot")
    assert (tmp_path / "plot.png").stat().st_size > 1000


def test_drawing_leaves_no_figure_behind():
    import matplotlib.pyplot as plt

    every_figure()
    assert plt.get_fignums() == []
