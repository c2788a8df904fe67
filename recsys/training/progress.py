"""What is known while a model trains: records for observers, the curve, the clock."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

WARM_UP_STEPS = 10
"""Steps left out of the speed: caches fill and kernels are chosen in them."""


@dataclass(frozen=True)
class StepRecord:
    """One line of progress."""

    step: int
    total_steps: int
    epoch: int
    loss: float
    """Debiased moving average over about the last 50 steps."""
    grad_norm: float
    lr: float
    rows_per_second: float
    data_share: float
    """Share of the time spent waiting for batches."""
    eta_seconds: float


@dataclass(frozen=True)
class EvaluationRecord:
    """One validation."""

    step: int
    epoch: int
    metrics: dict[str, float]
    improved: bool
    scale: float
    """Factor on the learning rate from here on."""


class Observer(Protocol):
    """Whatever wants to know how training goes: a console, a tracker."""

    def step(self, record: StepRecord) -> None: ...

    def evaluation(self, record: EvaluationRecord) -> None: ...


@dataclass
class TrainingCurve:
    """What happened so far; part of every checkpoint, so that a continued run has the whole."""

    steps: list[tuple[int, float]] = field(default_factory=list)
    """(step, loss of that step's batch) at every `log_every`."""
    evaluations: list[dict[str, Any]] = field(default_factory=list)
    train_seconds: float = 0.0
    """Time in training steps, warm-up included."""
    timed_rows: int = 0
    timed_seconds: float = 0.0
    """Rows and time after the warm-up: their ratio is the speed."""
    warm_up_left: int = WARM_UP_STEPS
    """Steps still to be left out of the speed; an epoch may have fewer than these."""

    @property
    def rows_per_second(self) -> float:
        return self.timed_rows / self.timed_seconds if self.timed_seconds else 0.0

    @property
    def ends_at_its_best(self) -> bool:
        """Whether the last of several validations was the best: more training may help."""
        return len(self.evaluations) > 1 and bool(self.evaluations[-1]["improved"])


@dataclass
class LossAverage:
    """Debiased moving average of the loss over about the last 50 steps.

    Example:
        >>> average = LossAverage()
        >>> for loss in (1.0, 1.0, 4.0):
        ...     average.add(loss)
        >>> round(average.value, 3)
        2.02
    """

    total: float = 0.0
    weight: float = 0.0

    def add(self, loss: float) -> None:
        self.total = 0.98 * self.total + 0.02 * loss
        self.weight = 0.98 * self.weight + 0.02

    @property
    def value(self) -> float:
        return self.total / self.weight

    def state(self) -> list[float]:
        """Plain values for a checkpoint."""
        return [self.total, self.weight]

    def load_state(self, state: list[float]) -> None:
        """Inverse of `state`."""
        self.total, self.weight = state


class Clock:
    """Splits the time of an epoch into waiting for data and stepping; speed excludes warm-up."""

    def __init__(self, curve: TrainingCurve) -> None:
        self.curve = curve
        self.steps = 0
        self.rows = 0
        self.waiting = 0.0
        self.stepping = 0.0
        self._since = time.perf_counter()
        self._waited = 0.0

    def batches(self, loader: Iterable[T]) -> Iterator[T]:
        iterator = iter(loader)
        while True:
            start = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self._since = time.perf_counter()
            self.waiting += self._since - start
            self._waited = self._since - start
            yield batch

    def stepped(self, rows: int) -> None:
        seconds = time.perf_counter() - self._since
        self.steps += 1
        self.rows += rows
        self.stepping += seconds
        self.curve.train_seconds += seconds + self._waited
        if self.curve.warm_up_left:
            self.curve.warm_up_left -= 1
        else:
            self.curve.timed_rows += rows
            self.curve.timed_seconds += seconds + self._waited

    def rough_speed(self) -> float:
        return self.rows / max(self.waiting + self.stepping, 1e-9)

    def data_share(self) -> float:
        return self.waiting / max(self.waiting + self.stepping, 1e-9)

    def seconds_per_step(self) -> float:
        return (self.waiting + self.stepping) / max(self.steps, 1)
