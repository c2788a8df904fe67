"""The metrics of several labels: each label's own, and their means.

Letters   B rows of a block, K labels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from recsys.metrics.classification import Floats, Values, to_array
from recsys.metrics.report import ClassificationReport

MEANS = ("auc", "gauc", "logloss", "ne", "ece", "average_precision")
"""Metrics whose mean over the labels is given under their plain name."""
JOINT, CONDITIONAL = "ctcvr", "cvr"
"""Of a nested label: on all rows, and on the rows whose parent label is 1."""


class Report(Protocol):
    """A report of one label or of several."""

    @property
    def parts(self) -> Mapping[str, ClassificationReport]: ...

    @property
    def num_rows(self) -> int: ...

    def add(
        self,
        logits: Values,
        labels: Values,
        weights: Values | None = None,
        groups: Values | None = None,
    ) -> None: ...

    def merge(self, other: Any) -> None: ...

    def tensors(self) -> dict[str, Tensor]: ...

    def with_rows(self, tensors: Mapping[str, Tensor]) -> Any: ...

    def compute(self) -> dict[str, float]: ...


class TaskReport:
    """A `ClassificationReport` for each label, and two for a nested one.

    A label that needs another (a conversion needs a click) is judged twice: `conversion/ctcvr`, the
    joint event on all rows, and `conversion/cvr`, the conversion given the click on clicked rows,
    scored by P(both) / P(click). Means are over one report per label, the joint one of nested
    labels; a metric that is undefined for a label (the AUC of one class) is left out of the mean.

    Args:
        names: Labels, in the order of the columns.
        parents: For each label the index of the one that it needs, or -1.
        capacity: Rows to make room for at once.

    Example:
        >>> report = TaskReport(("click", "like"), (-1, -1))
        >>> report.add([[2.0, 0.0], [-1.0, 1.0]], [[1, 0], [0, 1]])
        >>> report.compute()["click/auc"], report.compute()["auc"]
        (1.0, 1.0)
    """

    def __init__(self, names: Sequence[str], parents: Sequence[int], capacity: int = 0) -> None:
        self.names, self.parents = tuple(names), tuple(parents)
        self.parts: dict[str, ClassificationReport] = {}
        for name, parent in zip(names, parents, strict=True):
            for kind in [""] if parent < 0 else [JOINT, CONDITIONAL]:
                rows = 0 if kind == CONDITIONAL else capacity
                self.parts[f"{name}/{kind}".rstrip("/")] = ClassificationReport(rows)

    @property
    def num_rows(self) -> int:
        """Labelled rows of the label that has most."""
        return max(report.num_rows for report in self.parts.values())

    def add(
        self,
        logits: Values,
        labels: Values,
        weights: Values | None = None,
        groups: Values | None = None,
    ) -> None:
        """Gather one block.

        Args:
            logits: [B, K] finite scores; a nested label's is that of the joint event.
            labels: [B, K] zeros and ones; NaN marks a label that is missing for a row.
            weights: [B] finite, not negative.
            groups: [B] integer ids.

        Raises:
            NonFiniteError, ValueError: as `ClassificationReport.add`.
        """
        z, y = to_array(logits), to_array(labels)
        if z.shape != y.shape or z.shape[1:] != (len(self.names),):
            raise ValueError(
                f"{len(self.names)} labels take logits and labels of shape [B, "
                f"{len(self.names)}], got {list(z.shape)} and {list(y.shape)}."
            )
        for column, (name, parent) in enumerate(zip(self.names, self.parents, strict=True)):
            own = z[:, column], y[:, column]
            if parent < 0:
                self.parts[name].add(*own, weights, groups)
                continue
            self.parts[f"{name}/{JOINT}"].add(*own, weights, groups)
            given = conditional_logit(own[0], z[:, parent])
            happened = np.where(y[:, parent] == 1, own[1], np.nan)
            self.parts[f"{name}/{CONDITIONAL}"].add(given, happened, weights, groups)

    def merge(self, other: TaskReport) -> None:
        """Take over the rows of another report of the same labels."""
        for name, report in self.parts.items():
            report.merge(other.parts[name])

    def tensors(self) -> dict[str, Tensor]:
        """The gathered rows, to send to another rank; `with_rows` is the inverse."""
        return {
            f"{name}:{column}": values
            for name, report in self.parts.items()
            for column, values in report.tensors().items()
        }

    def with_rows(self, tensors: Mapping[str, Tensor]) -> TaskReport:
        """A report of the same labels with the rows that `tensors` gave."""
        made = TaskReport(self.names, self.parents)
        for name in made.parts:
            own = {
                key.removeprefix(f"{name}:"): values
                for key, values in tensors.items()
                if key.startswith(f"{name}:")
            }
            made.parts[name] = ClassificationReport().with_rows(own)
        return made

    def compute(self) -> dict[str, float]:
        """`<label>/<metric>` for every metric of `ClassificationReport.compute`, those of a nested
        label as `<label>/ctcvr/<metric>` and `<label>/cvr/<metric>`, and the means in `MEANS`."""
        found = {name: report.compute() for name, report in self.parts.items()}
        counted = [part for name, part in found.items() if not name.endswith(f"/{CONDITIONAL}")]
        metrics = {}
        for name in MEANS:
            values = [part[name] for part in counted if not math.isnan(part.get(name, math.nan))]
            if values:
                metrics[name] = sum(values) / len(values)
            elif any(name in part for part in counted):
                metrics[name] = math.nan
        for name, part in found.items():
            metrics |= {f"{name}/{key}": value for key, value in part.items()}
        return metrics


def conditional_logit(joint: Values, parent: Values) -> NDArray[np.float32]:
    """Logit of sigmoid(joint) / sigmoid(parent).

    A model that predicts both apart may find the joint event likelier than its parent: the
    conditional probability then counts as e^-1e-6, the highest there is.

    Shape:
        joint, parent, return  [B]

    Example:
        >>> [round(float(one), 3) for one in conditional_logit([0.0, -1.0], [30.0, 0.0])]
        [0.0, 0.152]
    """
    z, of_parent = (to_array(one).astype(np.float64) for one in (joint, parent))
    log_p: Floats = np.minimum(np.logaddexp(0.0, -of_parent) - np.logaddexp(0.0, -z), -1e-6)
    return (log_p - np.log(-np.expm1(log_p))).astype(np.float32)


def report_for(names: Sequence[str], parents: Sequence[int], capacity: int = 0) -> Report:
    """The report of a data set with these labels."""
    if len(names) == 1:
        return ClassificationReport(capacity)
    return TaskReport(names, parents, capacity)
