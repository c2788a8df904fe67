"""The metrics of one evaluation, gathered block by block and computed exactly over all rows.

Letters   B rows of a block, n rows in all.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.metrics.calibration import calibration_curve_of
from recsys.metrics.classification import (
    Ranked,
    Values,
    auc_of,
    average_precision_of,
    base_rate_of,
    check_finite,
    check_weights,
    log_loss_of,
    over_entropy,
    rank,
    to_array,
)
from recsys.metrics.grouped import grouped_auc


class ClassificationReport:
    """Accumulates logits and labels; `compute` gives every classification metric.

    Rows live in arrays that double when full (13 bytes a row with weights and labels, 8 more with
    groups) and metrics are read off one sort at the end, so the result does not depend on the block
    size, on the order of rows, or on how they were spread over ranks.

    Args:
        capacity: Rows to make room for at once; the arrays grow past it when needed.

    Example:
        >>> report = ClassificationReport()
        >>> report.add([2.0, -1.0], [1, 0])
        >>> report.add([0.5, 0.3], [0, float("nan")])  # the unlabelled row is dropped
        >>> report.num_rows, report.compute()["auc"]
        (3, 1.0)
    """

    def __init__(self, capacity: int = 0) -> None:
        self.num_rows = 0
        """Labelled rows gathered so far."""
        self.num_seen = 0
        """Rows passed to `add`, the unlabelled ones included."""
        self._columns: dict[str, NDArray] = {
            "logits": np.empty(capacity, dtype=np.float32),
            "labels": np.empty(capacity, dtype=np.bool_),
        }

    @property
    def parts(self) -> dict[str, ClassificationReport]:
        """What there is to draw, by label: of one label, this report under no name."""
        return {"": self}

    def add(
        self,
        logits: Values,
        labels: Values,
        weights: Values | None = None,
        groups: Values | None = None,
    ) -> None:
        """Gather one block; weights and groups come with every block or with none.

        Args:
            logits: [B] finite scores, on any device.
            labels: [B] zeros and ones; NaN marks a row without a label, which is dropped.
            weights: [B] finite, not negative.
            groups: [B] integer ids.

        Raises:
            NonFiniteError: a logit is NaN or infinite; the row is counted from the first `add`.
            ValueError: shapes differ, a label is neither 0, 1 nor NaN, or columns come and go.
        """
        z = to_array(logits).astype(np.float32, copy=False)
        y = to_array(labels)
        check_finite(z, first_row=self.num_seen)
        block: dict[str, NDArray] = {"logits": z, "labels": y}
        if weights is not None:
            block["weights"] = to_array(weights).astype(np.float32, copy=False)
        if groups is not None:
            block["groups"] = _check_groups(to_array(groups))
        self._check_block(block)
        labelled = ~np.isnan(y) if np.issubdtype(y.dtype, np.floating) else np.ones(len(y), bool)
        if not labelled.all():
            block = {name: values[labelled] for name, values in block.items()}
        self.num_seen += len(z)
        self._append(block)

    def merge(self, other: ClassificationReport) -> None:
        """Take over the rows of another report, such as another rank's; equals one pass over both.

        Raises:
            ValueError: one has weights or groups and the other has none.
        """
        if other.num_rows:
            self._append({name: other._view(name) for name in other._columns})
        self.num_seen += other.num_seen

    def tensors(self) -> dict[str, Tensor]:
        """The gathered rows, to send to another rank; `with_rows` is the inverse."""
        return {name: torch.from_numpy(self._view(name)) for name in self._columns}

    def with_rows(self, tensors: Mapping[str, Tensor]) -> ClassificationReport:
        """A report with the rows that `tensors` gave."""
        report = ClassificationReport()
        report.add(
            tensors["logits"], tensors["labels"], tensors.get("weights"), tensors.get("groups")
        )
        return report

    def ranked(self) -> Ranked:
        """The table of distinct logits, from which curves are drawn."""
        weights = self._view("weights") if "weights" in self._columns else None
        return rank(self._view("logits"), self._view("labels"), weights)

    def compute(self) -> dict[str, float]:
        """Every metric over all rows gathered; NaN where one is undefined.

        Returns:
            `auc`, `logloss`, `ne`, `calibration` (predicted over observed), `ece`,
            `average_precision`, and `gauc` when groups were given.
        """
        ranked = self.ranked()
        loss, curve = log_loss_of(ranked), calibration_curve_of(ranked)
        metrics = {
            "auc": auc_of(ranked),
            "logloss": loss,
            "ne": over_entropy(loss, base_rate_of(ranked)),
            "calibration": curve.ratio,
            "ece": curve.error,
            "average_precision": average_precision_of(ranked),
        }
        if "groups" in self._columns:
            metrics["gauc"] = grouped_auc(
                self._view("logits"),
                self._view("labels"),
                self._view("groups"),
                self._view("weights") if "weights" in self._columns else None,
            ).auc
        return metrics

    def _view(self, name: str) -> NDArray:
        return self._columns[name][: self.num_rows]

    def _append(self, block: dict[str, NDArray]) -> None:
        if self.num_rows == 0:
            capacity = len(self._columns["logits"])
            for name in block.keys() - self._columns.keys():
                self._columns[name] = np.empty(capacity, dtype=block[name].dtype)
        if block.keys() != self._columns.keys():
            mine, theirs = (", ".join(sorted(c)) for c in (self._columns, block))
            raise ValueError(
                f"this report gathers {mine}, but the new rows have {theirs}; give weights and "
                "groups with every block or with none."
            )
        stop = self.num_rows + len(block["logits"])
        for name, values in block.items():
            if stop > len(self._columns[name]):
                grown = np.empty(max(stop, 2 * self.num_rows), dtype=self._columns[name].dtype)
                grown[: self.num_rows] = self._view(name)
                self._columns[name] = grown
            self._columns[name][self.num_rows : stop] = values
        self.num_rows = stop

    def _check_block(self, block: dict[str, NDArray]) -> None:
        shapes = {name: values.shape for name, values in block.items()}
        if any(len(s) != 1 or s != shapes["logits"] for s in shapes.values()):
            told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
            raise ValueError(f"a report takes vectors of one length, got {told}.")
        y = block["labels"]
        wrong = (y != 0) & (y != 1) & (y == y)  # y != y is NaN: a missing label
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise ValueError(
                f"label {y[row]} in row {self.num_seen + row} is neither 0, 1 nor missing (NaN); "
                "binarise ratings before computing classification metrics."
            )
        if "weights" in block:
            check_weights(block["weights"], first_row=self.num_seen)


def _check_groups(groups: NDArray) -> NDArray[np.int64]:
    if not np.issubdtype(groups.dtype, np.integer):
        raise ValueError(f"groups must be integers, got {groups.dtype}; encode group ids first.")
    return groups.astype(np.int64, copy=False)
