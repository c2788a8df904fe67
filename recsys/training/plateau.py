"""Early stopping and learning-rate decay, counted on the same event.

Source   The BARS protocol: a validation that does not beat the best by `min_delta` multiplies the
         learning rate by `decay`; after `patience` of them in a row the run stops.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from recsys.errors import ConfigError, did_you_mean

HIGHER_IS_BETTER = {
    "auc": True,
    "gauc": True,
    "average_precision": True,
    "auc-logloss": True,
    "logloss": False,
    "ne": False,
    "ece": False,
}

RANKING = re.compile(r"(recall|ndcg|precision|hit_rate|map|mrr)(@|_at_)[1-9]\d*")
"""Metrics of full rankings, such as `recall@20` or `recall_at_20`; higher is better."""


@dataclass
class Plateau:
    """Watches one validation metric.

    Args:
        monitor: A key of `HIGHER_IS_BETTER`, or a metric of a ranking such as `recall_at_20`.
        patience: Validations without improvement before the run stops; 0 never stops.
        min_delta: How much better counts as better.
        decay: Factor on the learning rate at each validation without improvement.
        min_scale: Floor of the product of those factors.

    Example:
        >>> plateau = Plateau("auc", patience=1)
        >>> [plateau.update({"auc": value}) for value in (0.7, 0.8, 0.79)]
        [True, True, False]
        >>> plateau.should_stop, plateau.best
        (True, 0.8)
    """

    monitor: str = "auc"
    patience: int = 2
    min_delta: float = 1e-6
    decay: float = 0.1
    min_scale: float = 1e-3
    best: float | None = None
    misses: int = 0
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.monitor not in HIGHER_IS_BETTER and not RANKING.fullmatch(self.monitor):
            raise ConfigError(
                f'trainer.monitor="{self.monitor}" is not a metric to stop on.'
                f"{did_you_mean(self.monitor, HIGHER_IS_BETTER)}"
            )

    def value(self, metrics: dict[str, float]) -> float:
        """The monitored value of a validation."""
        if self.monitor == "auc-logloss":
            return metrics["auc"] - metrics["logloss"]
        if self.monitor not in metrics:
            raise ConfigError(
                f"trainer.monitor={self.monitor} was not computed; there are "
                f"{', '.join(sorted(metrics))}. (gauc needs data.group.)"
            )
        return metrics[self.monitor]

    def update(self, metrics: dict[str, float]) -> bool:
        """Take a validation in; True when it is the best so far."""
        value = self.value(metrics)
        sign = 1.0 if HIGHER_IS_BETTER.get(self.monitor, True) else -1.0
        if self.best is None or sign * (value - self.best) > self.min_delta:
            self.best, self.misses = value, 0
            return True
        self.misses += 1
        self.scale = max(self.scale * self.decay, self.min_scale)
        return False

    @property
    def should_stop(self) -> bool:
        """True once `patience` validations in a row brought nothing."""
        return self.patience > 0 and self.misses >= self.patience

    def state(self) -> dict[str, Any]:
        """What changes, as plain types."""
        return {k: v for k, v in asdict(self).items() if k in ("best", "misses", "scale")}

    def load_state(self, state: dict[str, Any]) -> None:
        """Inverse of `state`."""
        self.best, self.misses, self.scale = state["best"], state["misses"], state["scale"]
