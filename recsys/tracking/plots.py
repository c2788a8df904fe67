"""Figures of a run: numbers in, a figure and its table out. Nothing here knows MLflow.

Every function returns `(figure, table)`; the table holds the numbers that are drawn, so that a plot
can be made again from its CSV file. Figures are drawn without pyplot, hence without global state.

Letters   n rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, PercentFormatter

from recsys.metrics.calibration import (
    CalibrationCurve,
    calibration_curve_of,
)
from recsys.metrics.classification import (
    Ranked,
    auc_of,
    average_precision_of,
    base_rate_of,
    precision_recall_curve_of,
    roc_curve_of,
)
from recsys.tracking.field_plots import (
    Panel,
    attention_heatmap,
    bar_panels,
    bars,
    crosses_plot,
    heatmap,
    interest_by_recency,
)
from recsys.tracking.figures import (
    BLUE,
    COUNT,
    GREEN,
    GREY,
    ORANGE,
    PROBABILITY,
    SKY,
    Columns,
    Subject,
    legend_above,
    new_figure,
    save_figure,
    smoothed,
    thinned,
)

__all__ = [
    "Panel",
    "Subject",
    "attention_heatmap",
    "bar_panels",
    "bars",
    "calibration_plot",
    "crosses_plot",
    "heatmap",
    "interest_by_recency",
    "lift_by_decile",
    "roc_pr_plot",
    "save_figure",
    "training_curve",
]

_RARE = 0.1
_STEADY_POSITIVES = 20  # precision from fewer positives is noise


def training_curve(
    subject: Subject,
    losses: Sequence[tuple[int, float]],
    evaluations: Sequence[Mapping[str, Any]],
    monitor: str = "auc",
    lrs: Sequence[tuple[int, float]] = (),
    step: str = "optimiser step",
) -> tuple[Figure, Columns]:
    """Training loss and the validated metric by optimiser step, the best validation marked.

    Args:
        subject: Model, data set and number of training rows.
        losses: (step, loss) in order; a smoothed line is drawn over the points.
        evaluations: One mapping per validation with `step`, `improved` and metrics.
        monitor: Metric shown; AUC when it is none of those measured (a composite such as
            `auc-logloss`).
        lrs: (step, learning rate), drawn below when it changes.
        step: What a step is.
    """
    if not any(monitor in evaluation for evaluation in evaluations):
        monitor = "auc"
    steps, values = _columns(losses)
    smooth = smoothed(values)
    val = [(int(e["step"]), float(e[monitor])) for e in evaluations if monitor in e]
    val_steps, val_values = _columns(val)
    varies = len({lr for _, lr in lrs}) > 1
    figure, axes = new_figure(
        f"Training: {subject}", rows=2 if varies else 1, heights=(4, 1) if varies else (1,)
    )
    axis = axes[0]
    axis.plot(steps, values, color=SKY, linewidth=0.8, alpha=0.6)
    axis.plot(steps, smooth, color=BLUE, linewidth=1.8, label="training loss (smoothed)")
    axis.set(ylabel="training loss")
    axis.margins(x=0.02)
    handles = list(axis.get_lines()[1:])
    if val:
        right = axis.twinx()
        right.spines["top"].set_visible(False)
        name = f"validation {monitor}"
        handles += right.plot(
            val_steps, val_values, color=ORANGE, marker="o", markersize=4, label=name
        )
        right.set(ylabel=name)
        improved = [
            i for i, e in enumerate(e for e in evaluations if monitor in e) if e["improved"]
        ]
        if improved:
            best = improved[-1]
            told = f"best {val_values[best]:.5f} at step {val_steps[best]:,.0f}"
            handles += right.plot(
                val_steps[best],
                val_values[best],
                linestyle="none",
                marker="*",
                markersize=15,
                color=ORANGE,
                markeredgecolor="black",
                label=told,
            )
    legend_above(axis, handles)
    if varies:
        axes[1].step(*_columns(lrs), where="post", color=GREEN)
        axes[1].set(ylabel="learning rate", yscale="log")
        axes[1].margins(x=0.02)
        axes[1].set_xlim(axis.get_xlim())
        axis.tick_params(labelbottom=False)
    axes[-1].set(xlabel=step)
    axes[-1].xaxis.set_major_formatter(COUNT)
    table = {
        "kind": ["train/loss"] * len(steps) + [f"val/{monitor}"] * len(val) + ["lr"] * len(lrs),
        "step": [*steps.astype(int), *val_steps.astype(int), *(s for s, _ in lrs)],
        "value": [*values, *val_values, *(lr for _, lr in lrs)],
        "smoothed": [*smooth, *[""] * (len(val) + len(lrs))],
    }
    return figure, table


def calibration_plot(
    subject: Subject, ranked: Ranked, num_bins: int = 20
) -> tuple[Figure, Columns]:
    """Observed against predicted probability in bins of equal mass, with 95 % Wilson intervals.

    Both axes are logarithmic when positives are rarer than one in ten and predictions span more
    than a factor of 20, as click rates do. The histogram below shows where predictions lie.

    Args:
        subject: Model, data set and number of rows.
        ranked: Table of `metrics.classification.rank` or `ClassificationReport.ranked`.
        num_bins: Bins of equal mass.
    """
    curve = calibration_curve_of(ranked, num_bins)
    figure, axes = new_figure(
        f"Calibration: {subject}\nECE {curve.error:.5f}, predicted / observed {curve.ratio:.3f}",
        rows=2,
        heights=(4, 1),
        size=(6.4, 6.2),
    )
    axis, below = axes
    # Between rare events only factors can be told apart; between common ones, differences.
    log = base_rate_of(ranked) < _RARE and curve.predicted[-1] > 20 * curve.predicted[0]
    if len(curve):
        reach = _reach(curve, log)
        if log:
            axis.set(xscale="log", yscale="log")
            below.set(xscale="log")
        axis.plot(reach, reach, color=GREY, linestyle="--", linewidth=1, label="perfect")
        _draw_bins(axis, curve, reach[0] if log else 0.0)
        axis.set(xlim=reach, ylim=reach)
        edges = np.geomspace(*reach, 41) if log else np.linspace(*reach, 41)
        probability = 1 / (1 + np.exp(-ranked.logits.astype(np.float64)))
        rows, _ = np.histogram(probability, edges, weights=ranked.mass)
        below.stairs(rows, edges, fill=True, color=SKY)
        below.set(xlim=reach, ylim=(0, None))
        axis.legend(loc="upper left", frameon=False)
    axis.set(ylabel="observed rate")
    axis.tick_params(which="both", labelbottom=False)
    below.set(xlabel="predicted probability", ylabel="rows")
    below.yaxis.set_major_formatter(COUNT)
    for one in (axis.yaxis, below.xaxis):
        if log:
            wide = curve.predicted[-1] > 500 * curve.predicted[0]
            between = (1.0,) if wide else (1.0, 2.0, 5.0)
            one.set_major_locator(LogLocator(subs=between, numticks=20))
            one.set_minor_formatter(NullFormatter())
        one.set_major_formatter(PROBABILITY)
    table = {
        "predicted": curve.predicted,
        "observed": curve.observed,
        "rows": curve.mass,
        "low": curve.low,
        "high": curve.high,
    }
    return figure, table


def _draw_bins(axis: Axes, curve: CalibrationCurve, bottom: float) -> None:
    """Bins with intervals; on a logarithmic axis a bin without positives stands at the bottom."""
    observed = np.maximum(curve.observed, bottom)
    low = np.clip(curve.low, bottom, observed)
    axis.errorbar(
        curve.predicted,
        observed,
        yerr=np.stack([observed - low, (curve.high - observed).clip(min=0)]),
        color=BLUE,
        marker="o",
        markersize=5,
        linewidth=1,
        elinewidth=1.2,
        capsize=2.5,
        label=f"{len(curve)} bins of equal mass, 95 % interval",
    )


def roc_pr_plot(subject: Subject, ranked: Ranked) -> tuple[Figure, Columns]:
    """ROC curve and precision-recall curve side by side, with what chance reaches.

    Precision is drawn from the threshold on at which 20 positives are caught: before, it is noise.

    Args:
        subject: Model, data set and number of rows.
        ranked: Table of `metrics.classification.rank` or `ClassificationReport.ranked`.
    """
    base = base_rate_of(ranked)
    roc, pr = roc_curve_of(ranked), precision_recall_curve_of(ranked)
    figure, (left, right) = new_figure(f"Ranking quality: {subject}", columns=2, size=(9.0, 4.4))
    keep = thinned(roc.x, roc.y)
    left.plot(
        roc.x[keep], roc.y[keep], color=BLUE, linewidth=1.8, label=f"AUC {auc_of(ranked):.5f}"
    )
    left.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="chance")
    left.set(xlabel="false positive rate", ylabel="true positive rate", aspect="equal")
    steady = int(np.searchsorted(pr.x * float(ranked.positives.sum()), _STEADY_POSITIVES))
    steady = steady if steady < len(pr.x) else 0
    keep_pr = steady + thinned(pr.x[steady:], pr.y[steady:])
    name = f"average precision {average_precision_of(ranked):.5f}"
    right.step(pr.x[keep_pr], pr.y[keep_pr], where="pre", color=ORANGE, linewidth=1.8, label=name)
    right.axhline(base, color=GREY, linestyle="--", linewidth=1, label=f"base rate {base:.4f}")
    right.set(xlabel="recall", ylabel="precision", aspect="equal")
    for axis, place in ((left, "lower right"), (right, "best")):
        axis.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        axis.legend(loc=place, frameon=False)
    table = {
        "curve": ["roc"] * len(keep) + ["precision-recall"] * len(keep_pr),
        "x": np.concatenate([roc.x[keep], pr.x[keep_pr]]),
        "y": np.concatenate([roc.y[keep], pr.y[keep_pr]]),
        "threshold": np.concatenate([roc.thresholds[keep], pr.thresholds[keep_pr]]),
    }
    return figure, table


def lift_by_decile(subject: Subject, ranked: Ranked, num_parts: int = 10) -> tuple[Figure, Columns]:
    """Rate of positives in each tenth of the rows, the highest scored first, over the base rate.

    Rows of one score that straddle a border are shared between its sides in proportion.

    Args:
        subject: Model, data set and number of rows.
        ranked: Table of `metrics.classification.rank` or `ClassificationReport.ranked`.
        num_parts: Parts of equal mass.
    """
    base = base_rate_of(ranked)
    mass = np.concatenate([[0.0], np.cumsum(ranked.mass[::-1])])
    positives = np.concatenate([[0.0], np.cumsum(ranked.positives[::-1])])
    borders = np.linspace(0.0, mass[-1], num_parts + 1)
    caught = np.diff(np.interp(borders, mass, positives))
    share = caught / positives[-1] if positives[-1] > 0 else np.full(num_parts, np.nan)
    lift = share * num_parts
    title = f"Lift by decile: {subject}, base rate {base:.4f}"
    figure, (left, right) = new_figure(title, columns=2, size=(9.0, 4.2))
    places = np.arange(1, num_parts + 1)
    bars = left.bar(places, lift, color=BLUE, width=0.8)
    clear = {"facecolor": "white", "edgecolor": "none", "pad": 0.6}
    left.bar_label(bars, fmt="%.2f", padding=2, fontsize=8, bbox=clear)
    left.axhline(1.0, color=GREY, linestyle="--", linewidth=1, zorder=0.9)
    left.set(xlabel="tenth of rows, highest scores first", ylabel="rate / base rate")
    left.set_xticks(places)
    left.grid(visible=False, axis="x")
    ends = np.linspace(0.0, 1.0, num_parts + 1)
    right.plot(ends, ends, color=GREY, linestyle="--", linewidth=1, label="chance")
    right.plot(
        ends,
        np.concatenate([[0.0], np.cumsum(share)]),
        color=ORANGE,
        marker="o",
        markersize=4,
        label="model",
    )
    right.set(xlabel="share of rows, highest scores first", ylabel="share of positives caught")
    right.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.03))
    right.xaxis.set_major_formatter(PercentFormatter(1.0))
    right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.legend(loc="lower right", frameon=False)
    table = {
        "part": places,
        "lift": lift,
        "share_of_positives": share,
        "caught": np.cumsum(share),
    }
    return figure, table


def _columns(pairs: Sequence[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    array = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    return array[:, 0], array[:, 1]


def _reach(curve: CalibrationCurve, log: bool) -> tuple[float, float]:
    """Limits of both axes: every bin and its interval, with a margin."""
    high = float(max(curve.predicted.max(), curve.high.max()))
    if log:
        seen = np.concatenate([curve.predicted, curve.observed[curve.observed > 0]])
        return float(seen.min()) / 1.6, min(high * 1.2, 1.0)
    low = float(min(curve.predicted.min(), curve.low.min()))
    margin = 0.04 * (high - low)
    return max(low - margin, 0.0), min(high + margin, 1.0)
