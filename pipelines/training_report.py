"""The figures of a training run, each saved with its numbers."""

from __future__ import annotations

from pathlib import Path

import torch

from recsys.data.loader import Loader
from recsys.data.prepare import Prepared
from recsys.metrics.report import ClassificationReport
from recsys.models.saved import ModelSpec
from recsys.tracking import plots
from recsys.training.loop import Trainer

EXPLAINED_ROWS = 4096


def write_plots(
    folder: Path,
    spec: ModelSpec,
    data: Prepared,
    trainer: Trainer,
    reports: dict[str, ClassificationReport],
) -> Path:
    """Training curve; calibration, ROC and lift of the last split; attention where there is any.

    Returns:
        The folder they lie in.
    """
    curve = trainer.curve

    def subject(num_rows: int) -> plots.Subject:
        return plots.Subject(spec.class_name, data.name, num_rows)

    rates = [(row["step"], row["lr"]) for row in curve.evaluations]
    figure = plots.training_curve(
        subject(data.train.num_rows), curve.steps, curve.evaluations, trainer.options.monitor, rates
    )
    plots.save_figure(*figure, folder / "training_curve")
    if reports:
        split, report = list(reports.items())[-1]
        ranked = report.ranked()
        if 0 < ranked.positives.sum() < ranked.mass.sum():
            about = subject(report.num_rows)
            for name, draw in (
                ("calibration", plots.calibration_plot),
                ("roc_pr", plots.roc_pr_plot),
                ("lift", plots.lift_by_decile),
            ):
                plots.save_figure(*draw(about, ranked), folder / f"{split}_{name}")
    _plot_attention(folder, data, trainer)
    return folder


def _plot_attention(folder: Path, data: Prepared, trainer: Trainer) -> None:
    """Mean attention over the first rows of the validation set, for models that explain by it."""
    store = data.val or data.train
    batch = next(iter(Loader(store, EXPLAINED_ROWS, shuffle=False, prefetch=0)))
    recommender = trainer.recommender
    with torch.no_grad():
        embedded = recommender.lookup(batch.to(trainer.device))
        explained = recommender.model.explain(embedded)
    if "attention" not in explained:
        return
    attention = explained["attention"].mean(0).cpu().numpy()
    names = [*recommender.lookup.plan.names]
    if recommender.lookup.plan.num_dense:
        names += [field.name for field in data.pipeline.schema.dense]
    about = plots.Subject(type(recommender.model).__name__, data.name, len(batch))
    plots.save_figure(*plots.attention_heatmap(about, names, attention), folder / "attention")
