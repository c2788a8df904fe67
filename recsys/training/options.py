"""What a training run can be told: the keys of `configs/trainer/*.yaml`."""

from __future__ import annotations

from dataclasses import dataclass

from recsys.errors import ConfigError
from recsys.training.plateau import Plateau


@dataclass(frozen=True, kw_only=True)
class TrainerOptions:
    """What `configs/trainer/*.yaml` holds."""

    epochs: int = 20
    max_steps: int | None = None
    """Stop after this many optimiser steps, whatever `epochs` says."""
    batch_size: int = 4096
    """Rows of a step, over all processes together."""
    eval_batch_size: int = 16384
    monitor: str = "auc"
    patience: int = 2
    lr_decay: float = 0.1
    min_delta: float = 1e-6
    clip_norm: float | None = 10.0
    eval_every: int | None = None
    """Steps between validations; None: once per epoch."""
    norm_batches: int = 0
    """Training batches from which batch norm's statistics are taken anew before each validation;
    0: the running averages of training."""
    checkpoint_every: int | None = None
    """Steps between checkpoints besides those at each validation."""
    keep_last: int = 2
    log_every: int = 100
    resume: str | None = None
    block_rows: int | None = None
    """Rows per forward and backward where rows are independent; None: whole batches."""
    precision: str = "float32"
    compile: bool = False
    device: str = "auto"
    threads: int | None = None
    prefetch: int = 2
    shuffle_rows: int = 4_194_304
    anomaly: bool = False
    """Name the operation that made a NaN (slow)."""

    def __post_init__(self) -> None:
        for key in ("epochs", "batch_size", "eval_batch_size", "keep_last", "log_every"):
            if getattr(self, key) < 1:
                raise ConfigError(f"trainer.{key}={getattr(self, key)}; it must be at least 1.")
        for key in ("max_steps", "eval_every", "checkpoint_every", "block_rows", "threads"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"trainer.{key}={value}; it must be at least 1, or null.")
        if self.norm_batches < 0:
            raise ConfigError(f"trainer.norm_batches={self.norm_batches}; it must be 0 or more.")
        if self.precision not in ("float32", "bfloat16"):
            raise ConfigError(
                f'trainer.precision="{self.precision}" does not exist. Allowed: bfloat16, float32.'
            )

    def plateau(self) -> Plateau:
        """The early-stopping rule of these options."""
        return Plateau(self.monitor, self.patience, self.min_delta, self.lr_decay)
