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

    def test_a_step_may_be_a_round(self):
        figure, _ = training_curve(SUBJECT, self.LOSSES, self.EVALUATIONS, step="round")
        assert figure.axes[0].get_xlabel() == "round"

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
