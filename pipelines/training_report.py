"""The figures of a training run, each saved with its numbers."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.encode import EncodedTable
from recsys.data.loader import Loader
from recsys.data.prepare import Prepared
from recsys.data.schema import Schema
from recsys.errors import SchemaError
from recsys.metrics.ranking import BUCKETS, Ranking
from recsys.metrics.task_report import Report
from recsys.models.expert_health import examine_experts, summary
from recsys.models.explanations import Explanations
from recsys.models.importance import Importance, Score, permutation_importance, sample_rows
from recsys.models.recommender import Recommender
from recsys.models.sensitivity import sensitivity
from recsys.models.task_gradients import task_gradients
from recsys.tracking import plots
from recsys.tracking.console import Console
from recsys.tracking.format import duration
from recsys.tracking.task_plots import task_cosines
from recsys.training.losses import binary_cross_entropy_sum
from recsys.training.progress import TrainingCurve

if TYPE_CHECKING:
    from recsys.models.trees import Trees

EXPLAINED_ROWS = 4096
EXPLAINED_BLOCK = 512
"""Rows explained at a time: attention and crosses of a row are much larger than the row."""
REPEATS = 3
"""Permutations of each field."""
SCORED_ROWS = 1_000_000
"""Rows scored after training for the importance of all fields together, at most: of a wide table
fewer rows are permuted."""


def write_plots(
    folder: Path,
    model: str,
    dataset: str,
    train_rows: int,
    curve: TrainingCurve,
    monitor: str,
    reports: Mapping[str, Report],
    step: str = "optimiser step",
) -> None:
    """Training curve, and the quality of what came of it."""
    rates = [(row["step"], row["lr"]) for row in curve.evaluations if "lr" in row]
    about = plots.Subject(model, dataset, train_rows)
    figure = plots.training_curve(about, curve.steps, curve.evaluations, monitor, rates, step)
    plots.save_figure(*figure, folder / "training_curve")
    write_quality(folder, model, dataset, reports)


def write_quality(folder: Path, model: str, dataset: str, reports: Mapping[str, Report]) -> None:
    """Calibration, ROC and lift of the last split."""
    if reports:
        split, report = list(reports.items())[-1]
        for task, part in report.parts.items():
            ranked = part.ranked()
            if not 0 < ranked.positives.sum() < ranked.mass.sum():
                continue
            shown = f"{dataset}, {task.replace('/', ' ')}" if task else dataset
            about = plots.Subject(model, shown, part.num_rows)
            for name, draw in (
                ("calibration", plots.calibration_plot),
                ("roc_pr", plots.roc_pr_plot),
                ("lift", plots.lift_by_decile),
            ):
                file = "_".join(filter(None, (split, name, file_part(task))))
                plots.save_figure(*draw(about, ranked), folder / file)


def file_part(label: str) -> str:
    """A label as part of a file's name.

    Example:
        >>> file_part("conversion/cvr")
        'conversion_cvr'
    """
    return re.sub(r"[^\w-]+", "_", label)


def first_batches(data: Prepared) -> list[Batch]:
    """The first rows of the validation set, to be explained."""
    store = data.val or data.train
    loader = Loader(store, EXPLAINED_BLOCK, shuffle=False, prefetch=0)
    blocks = range(EXPLAINED_ROWS // EXPLAINED_BLOCK)
    return [batch for batch, _ in zip(loader, blocks, strict=False)]


def slot_names(recommender: Recommender) -> list[str]:
    """Names of the slots that explanations speak of: those of the fields, then dense columns."""
    names = [*recommender.lookup.plan.names]
    if recommender.lookup.plan.num_dense:
        names += [field.name for field in recommender.lookup.schema.dense]
    return names


@torch.no_grad()
def explained(recommender: Recommender, batches: Iterable[Batch]) -> Explanations:
    """What the model explains about these rows, summed up; nothing for models that do not."""
    recommender.eval()
    device = recommender.lookup.storage.table().device
    found = Explanations()
    for batch in batches:
        parts = recommender.model.explain(recommender.lookup(batch.to(device)))
        if not parts:
            break
        lengths = {name: ragged.lengths.numpy() for name, ragged in batch.ragged.items()}
        found.add({name: part.float().cpu().numpy() for name, part in parts.items()}, lengths)
    return found


def write_explanations(
    folder: Path, model: str, dataset: str, slots: Sequence[str], found: Explanations
) -> None:
    """A figure for each thing that the model explains."""
    about = plots.Subject(model, dataset, found.num_rows)
    if found.attention is not None:
        figure = plots.attention_heatmap(about, slots, found.attention)
        plots.save_figure(*figure, folder / "attention")
    for name, gates in found.gates.items():
        figure = plots.bars(
            about,
            slots[: len(gates.mean)],
            gates.mean,
            gates.deviation,
            title=f"Field {name}",
            label="mean gate, ± one standard deviation over rows",
            columns=("slot", "gate", "deviation"),
            base=1.0 if gates.mean.max() > 1 else 0.0,  # a factor changes nothing at 1
        )
        plots.save_figure(*figure, folder / name)
    crosses = found.top_crosses(200)
    if crosses:
        figure = plots.crosses_plot(
            about,
            slots,
            [one.slots for one in crosses],
            [one.weights for one in crosses],
            [one.sizes for one in crosses],
            [one.share for one in crosses],
        )
        plots.save_figure(*figure, folder / "crosses")
    for history, interest in found.interest.items():
        figure = plots.interest_by_recency(
            about, history, interest.mean, interest.deviation, interest.count
        )
        plots.save_figure(*figure, folder / f"interest_{history}")


def write_experts(
    folder: Path, model: str, dataset: str, recommender: Recommender, batches: Sequence[Batch]
) -> dict[str, float]:
    """Which experts are alive, used and learning: a figure of each block and of its gates.

    Returns:
        The worst over all blocks, see `recsys.models.expert_health.summary`.
    """
    moved = (batch.to(recommender.lookup.storage.device) for batch in batches)
    health, gates = examine_experts(recommender, moved, loss_of_labels)
    about = plots.Subject(model, dataset, sum(map(len, batches)))
    for block in health:
        figure = plots.bar_panels(
            about,
            block.names,
            [
                plots.Panel("outputs that are zero", block.zero_share, columns=("zero_share", "")),
                plots.Panel("gradient norm", block.gradient_norm, columns=("gradient_norm", "")),
            ],
            title=f"Experts of {block.block}",
            column="expert",
        )
        plots.save_figure(*figure, folder / file_part(block.block))
    for bank in gates:
        figure = plots.heatmap(
            about,
            f"Mean weights of {bank.block}",
            bank.readers,
            bank.names,
            bank.weight,
            mask=bank.mask,
            label="mean weight",
            names=("reader", "expert", "weight"),
        )
        plots.save_figure(*figure, folder / file_part(bank.block))
    return summary(health, gates)


def write_task_gradients(
    folder: Path, model: str, dataset: str, recommender: Recommender, batches: Sequence[Batch]
) -> dict[str, float]:
    """Which tasks pull what they share against each other.

    Returns:
        The least cosine of two tasks, see `recsys.models.task_gradients`; nothing for one label.
    """
    moved = (batch.to(recommender.lookup.storage.device) for batch in batches)
    found = task_gradients(recommender, moved, losses_by_label)
    if found is None:
        return {}
    about = plots.Subject(model, dataset, sum(map(len, batches)))
    cosines = {"shared weights": found.weights, "shared rows of tables": found.vectors}
    plots.save_figure(*task_cosines(about, found.tasks, cosines), folder / "task_gradients")
    return found.least()


def losses_by_label(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy over all rows, of each label: [K]."""
    return binary_cross_entropy_sum(logits, batch.label, batch.weight)


def loss_of_labels(logits: Tensor, batch: Batch) -> Tensor:
    """Cross-entropy over all rows and labels."""
    return losses_by_label(logits, batch).sum()


def write_gate(
    folder: Path, model: str, dataset: str, train_rows: int, gate: Mapping[str, Any]
) -> None:
    """Share of each field's rows that OptFS kept, of those that training reads."""
    fields = gate["fields"]
    shares = [one["kept"] / max(one["seen"], 1) for one in fields.values()]
    figure = plots.bars(
        plots.Subject(model, dataset, train_rows),
        list(fields),
        shares,
        title="Rows kept by OptFS",
        label="share of the field's rows that training reads",
        columns=("field", "kept_share", ""),
    )
    plots.save_figure(*figure, folder / "kept_rows")


def write_ranking(folder: Path, model: str, dataset: str, found: Ranking, k: int) -> None:
    """Recall by the popularity of what was to be found."""
    figure = plots.bars(
        plots.Subject(model, dataset, len(found.users)),
        list(BUCKETS),
        [found.metrics[f"recall_{name}_at_{k}"] for name in BUCKETS],
        title="Recall by popularity of the item",
        label=f"recall@{k}; head, middle, tail: each a third of the training pairs",
        columns=("items", f"recall_at_{k}", ""),
    )
    plots.save_figure(*figure, folder / "recall_by_popularity")


def write_gain(folder: Path, model: str, dataset: str, num_rows: int, trees: Trees) -> None:
    """Trees: what each feature's splits gained in training."""
    figure = plots.bars(
        plots.Subject(model, dataset, num_rows),
        trees.features.names,
        trees.gains(),
        title="Feature importance by gain",
        label="share of the loss that all splits saved",
        columns=("feature", "gain", ""),
    )
    plots.save_figure(*figure, folder / "gain")


def score_of(recommender: Recommender) -> Score:
    """Logits of encoded rows, on the device where the model is."""
    recommender.eval()
    device = recommender.lookup.storage.table().device

    @torch.no_grad()
    def score(rows: EncodedTable) -> np.ndarray:
        return recommender(rows.to_batch().to(device)).cpu().numpy()

    return score


def write_sensitivity(
    folder: Path, model: str, dataset: str, recommender: Recommender, batches: Sequence[Batch]
) -> None:
    """First-order importance of each field: a ranking that training takes as `data.features`."""
    found = sensitivity(recommender, batches)
    figure = plots.bar_panels(
        plots.Subject(model, dataset, found.num_rows),
        found.fields,
        [
            plots.Panel(
                "change of a row's loss without it", found.removal, columns=("removal", "")
            ),
            plots.Panel("slope of the loss in its mask", found.mask, columns=("mask", "")),
        ],
        title="First-order importance",
        column="feature",
    )
    plots.save_figure(*figure, folder / "sensitivity")


def write_importance(
    folder: Path,
    model: str,
    dataset: str,
    score: Score,
    schema: Schema,
    rows: EncodedTable,
    console: Console,
    seed: int,
    together: Sequence[str] = (),
) -> Importance | None:
    """Permutation importance of each raw field: measured, drawn, and told in one line.

    Returns:
        None when the rows have one class only.
    """
    console.note(
        f"importance: {len(schema)} fields, each permuted {REPEATS} times over {len(rows):,} rows"
    )
    begin = time.perf_counter()
    try:
        found = permutation_importance(
            score,
            schema,
            rows,
            repeats=REPEATS,
            seed=seed,
            together=together,
            progress=lambda done, total: console.preparing(done, total, "importance"),
        )
    except SchemaError as error:
        console.note(f"no importance: {error}")
        return None
    seconds = time.perf_counter() - begin
    deviations = found.auc_drop_deviation, found.logloss_rise_deviation
    figure = plots.bar_panels(
        plots.Subject(model, dataset, found.num_rows),
        found.fields,
        [
            plots.Panel(
                f"drop in AUC, from {found.auc:.4f}",
                found.auc_drop,
                deviations[0],
                ("auc_drop", "auc_drop_deviation"),
            ),
            plots.Panel(
                f"rise in log-loss, from {found.logloss:.4f}",
                found.logloss_rise,
                deviations[1],
                ("logloss_rise", "logloss_rise_deviation"),
            ),
        ],
        title=f"Permutation importance, mean of {REPEATS} ± standard deviation",
    )
    plots.save_figure(*figure, folder / "importance")
    if len(found.labels) > 1:
        order = np.argsort(-found.auc_drop, kind="stable")
        figure = plots.heatmap(
            plots.Subject(model, dataset, found.num_rows),
            "Drop in AUC of each label",
            [found.fields[i] for i in order],
            found.labels,
            found.by_label[order],
            label="drop in AUC",
            names=("field", "label", "auc_drop"),
        )
        plots.save_figure(*figure, folder / "importance_by_label")
    best = ", ".join(f"{name} {drop:.4f}" for name, drop in found.top(5))
    console.note(f"importance in {duration(seconds)}, AUC lost without: {best}")
    return found


def importance_rows(data: Prepared, num_rows: int, seed: int) -> EncodedTable:
    """The rows to permute: of the validation set where there is one."""
    bound = max(SCORED_ROWS // (REPEATS * len(data.pipeline.schema)), 1)
    return sample_rows(data.val or data.test or data.train, min(num_rows, bound), seed)
