"""A model's copies beside it: how far their scores are off, what that costs, how fast they are.

Letters   B rows of a block, K labels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from recsys.data.encode import EncodedTable
from recsys.metrics.task_report import report_for
from recsys.models.saved import SavedModel
from recsys.models.scorer import inputs_of


@dataclass(frozen=True)
class Copy:
    """One way to score encoded rows.

    Args:
        tables: How the numbers of its tables are kept.
        file: Name of the file that holds it.
        table_bytes: Of its tables.
        file_bytes: Of the file.
        logits_of: Encoded rows -> logits [B] or [B, K].
    """

    tables: str
    file: str
    table_bytes: int
    file_bytes: int
    logits_of: Callable[[EncodedTable], np.ndarray]


@dataclass(frozen=True)
class Measured:
    """What was measured of a copy."""

    copy: Copy
    metrics: dict[str, float]
    """As `Report.compute` names them; empty where rows have no labels."""
    largest_difference: float
    """Of a logit from the first copy's, over all rows and labels."""
    rows_per_second: float
    """Of scoring alone: the rows were encoded before."""


def program_scorer(file: Path) -> Callable[[EncodedTable], np.ndarray]:
    """Score by an exported file."""
    program = torch.export.load(file).module()

    @torch.no_grad()
    def logits_of(rows: EncodedTable) -> np.ndarray:
        found: np.ndarray = program(inputs_of(rows))["logit"].numpy()
        return found

    return logits_of


def table_bytes(saved: SavedModel) -> int:
    """Bytes of what a model looks up, rows that a gate dropped not among them."""
    return saved.recommender.lookup.memory()["serving"]


def measure(
    copies: Sequence[Copy],
    blocks: Iterable[EncodedTable],
    labels: Sequence[str],
    parents: Sequence[int],
    progress: Callable[[int], None] | None = None,
) -> list[Measured]:
    """Score the same rows by every copy, block by block, so that a busy machine slows all alike.

    Args:
        copies: The first is the one that others are compared with.
        blocks: Encoded rows, with labels or all without; at least one.
        labels: Their names.
        parents: See `Schema.parents`.
        progress: Told how many rows are done.

    Raises:
        ValueError: there is no block.
    """
    reports = [report_for(labels, parents) for _ in copies]
    seconds = [0.0] * len(copies)
    largest = [0.0] * len(copies)
    done, labelled = 0, False
    for block in blocks:
        if not done:  # what is made once is no part of the speed
            for copy in copies:
                copy.logits_of(block)
        first: np.ndarray | None = None
        for place, copy in enumerate(copies):
            begin = time.perf_counter()
            logits = copy.logits_of(block)
            seconds[place] += time.perf_counter() - begin
            first = logits if first is None else first
            off = float(np.abs(logits - first).max(initial=0.0))
            largest[place] = max(largest[place], off)
            if block.label is not None:
                labelled = True
                reports[place].add(logits, block.label, block.weight, block.group)
        done += len(block)
        if progress is not None:
            progress(done)
    if not done:
        raise ValueError("there are no rows to measure on")
    return [
        Measured(
            copy,
            reports[place].compute() if labelled else {},
            largest[place],
            done / seconds[place],
        )
        for place, copy in enumerate(copies)
    ]
