"""Two related labels and one opposed to them, with a known ceiling each; nothing to download."""

from __future__ import annotations

from collections.abc import Sequence

from recsys.data.datasets.labels import choose_labels
from recsys.data.raw import RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.data.synthetic import bayes_by_label
from recsys.data.synthetic_tasks import LABELS, PAIRS, generate_tasks
from recsys.errors import ConfigError

NUMBERS = ("user", "item")
TEXTS = tuple(name for pair in PAIRS for name in pair)


def build(
    *,
    rows: int = 60_000,
    num_val: int = 15_000,
    num_test: int = 30_000,
    seed: int = 0,
    conflict: float = 1.0,
    labels: Sequence[str] | None = None,
) -> RawDataset:
    """Generate training, validation and test rows of one problem.

    Args:
        rows: Training rows.
        num_val: Validation rows.
        num_test: Test rows.
        seed: Seed of the world and of its rows.
        conflict: 0 makes `opposed` one more related label, 1 leaves it nothing in common.
        labels: Of `first`, `second` and `opposed`, in the order of the model's outputs; None is
            first.

    Raises:
        ConfigError: A label is unknown or given twice, or a number is out of range.
    """
    labels = choose_labels("synthetic_tasks", labels, LABELS)
    for key, size in (("rows", rows), ("num_val", num_val), ("num_test", num_test)):
        if size < 1:
            raise ConfigError(f"data.{key}={size}; it must be at least 1.")
    table = generate_tasks(rows + num_val + num_test, seed, conflict=conflict)
    frame = table.frame.drop(name for name in LABELS if name not in labels)
    # Rows are independent of one another, so any cut is a random one.
    cuts = {"train": (0, rows), "val": (rows, num_val), "test": (rows + num_val, num_test)}
    test = frame.slice(*cuts["test"])
    probability = table.probability[-num_test:, [LABELS.index(name) for name in labels]]
    return RawDataset(
        name="synthetic_tasks",
        files={split: Source.from_frame(frame.slice(*cut)) for split, cut in cuts.items()},
        schema=Schema(tuple(_field(name) for name in (*NUMBERS, *TEXTS)), labels, group="user"),
        bayes=bayes_by_label(probability, test, labels),
    )


def _field(name: str) -> Field:
    dtype = "int" if name in NUMBERS else "string"
    return Field(name=name, kind=Kind.CATEGORICAL, encoding=Encoding.VOCABULARY, dtype=dtype)
