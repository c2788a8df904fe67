"""The embedded default: clicks with planted effects and a known best AUC; nothing to download."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from recsys.data.datasets.labels import choose_labels
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.data.synthetic import LABELS, MAX_HISTORY, bayes_by_label, generate

CATEGORIES = ("user", "item", "device", "hour", "color", "shape", "city")
NUMBERS = ("price", "age")


def build(
    *,
    rows: int = 250_000,
    seed: int = 0,
    history: bool = True,
    labels: Sequence[str] | None = None,
    by_time: bool = False,
) -> RawDataset:
    """Generate training rows, a tenth as many validation rows and a fifth as many test rows.

    Args:
        rows: Training rows, at least 10.
        seed: Seed of the world and of its rows.
        history: With a history column and its effect.
        labels: `click`, `conversion`, or both; None is click. A conversion needs a click.
        by_time: The oldest rows train and the newest test; otherwise rows at random.

    Raises:
        ConfigError: A label is unknown or given twice, or a number is out of range.
    """
    labels = choose_labels("synthetic", labels, LABELS)
    num_val, num_test = max(rows // 10, 1), max(rows // 5, 1)
    table = generate(rows + num_val + num_test, seed, history=history)
    frame = table.frame.drop(name for name in LABELS if name not in labels)
    total = frame.height
    order = np.arange(total)
    if not by_time:
        order = np.random.Generator(np.random.Philox(seed)).permutation(total)
    parts = np.split(order, [rows, rows + num_val])
    frames = {
        name: frame[np.sort(part)]
        for name, part in zip(("train", "val", "test"), parts, strict=True)
    }
    probability = table.probability[:, [LABELS.index(name) for name in labels]]
    return RawDataset(
        name="synthetic",
        files={name: Source.from_frame(part) for name, part in frames.items()},
        schema=_schema(frame, labels),
        bayes=bayes_by_label(probability[np.sort(parts[2])], frames["test"], labels),
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
    nested = {"conversion": "click"} if len(labels) > 1 else {}
    return Schema(tuple(fields), labels, group="user", timestamp="time", nested=nested)
