"""The embedded default: clicks with planted effects and a known best AUC; nothing to download."""

from __future__ import annotations

import numpy as np
import polars as pl

from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.data.synthetic import LABELS, MAX_HISTORY, bayes_metrics, generate

CATEGORIES = ("user", "item", "device", "hour", "color", "shape", "city")
NUMBERS = ("price", "age")


def build(
    *,
    rows: int = 250_000,
    seed: int = 0,
    history: bool = True,
    num_labels: int = 1,
    by_time: bool = False,
) -> RawDataset:
    """Generate training rows, a tenth as many validation rows and a fifth as many test rows.

    Args:
        rows: Training rows, at least 10.
        seed: Seed of the world and of its rows.
        history: With a history column and its effect.
        num_labels: 1 for `click`, 2 for `click` and `conversion`.
        by_time: The oldest rows train and the newest test; otherwise rows at random.
    """
    num_val, num_test = max(rows // 10, 1), max(rows // 5, 1)
    table = generate(rows + num_val + num_test, seed, history=history, num_labels=num_labels)
    total = table.frame.height
    order = np.arange(total)
    if not by_time:
        order = np.random.Generator(np.random.Philox(seed)).permutation(total)
    parts = np.split(order, [rows, rows + num_val])
    frames = {
        name: table.frame[np.sort(part)]
        for name, part in zip(("train", "val", "test"), parts, strict=True)
    }
    labels = LABELS[:num_labels]
    return RawDataset(
        name="synthetic",
        files={name: Source.from_frame(frame) for name, frame in frames.items()},
        schema=_schema(table.frame, labels),
        bayes=_ceiling(table.probability[np.sort(parts[2])], frames["test"], labels),
    )


def _schema(frame: pl.DataFrame, labels: tuple[str, ...]) -> Schema:
    fields = [
        Field(
            name=name,
            kind=Kind.CATEGORICAL,
            encoding=Encoding.VOCABULARY,
            dtype="int" if frame.schema[name].is_integer() else "string",
        )
        for name in CATEGORIES
    ]
    fields += [
        Field(
            name=name,
            kind=Kind.NUMERIC,
            encoding=Encoding.QUANTILE,
            dtype="int" if frame.schema[name].is_integer() else "float",
        )
        for name in NUMBERS
    ]
    if "history" in frame.columns:
        fields.append(
            Field(
                name="history",
                kind=Kind.HISTORY,
                encoding=Encoding.VOCABULARY,
                dtype="int",
                max_length=MAX_HISTORY,
                shares="item",
            )
        )
    return Schema(tuple(fields), labels, group="user", timestamp="time")


def _ceiling(
    probability: np.ndarray, frame: pl.DataFrame, labels: tuple[str, ...]
) -> dict[str, float]:
    """Metrics of the true probabilities on the test rows, by label when there are several."""
    out: dict[str, float] = {}
    for column, label in enumerate(labels):
        metrics = bayes_metrics(probability[:, column], frame[label].to_numpy())
        prefix = f"{label}/" if len(labels) > 1 else ""
        out |= {f"{prefix}{name}": value for name, value in metrics.items()}
    return out
