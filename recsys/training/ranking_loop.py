"""The training loop of models of users and items.

Bigger steps for the price of one propagation. A model of a graph pays for the whole graph at every
step, whatever the size of the batch. `steps_per_propagation=n` draws n batches and takes the mean
of the losses of all their triples as ONE loss: one propagation forward and one backward.

    equal      the gradient: n times that of the group is the sum of the n batches' gradients, all
               taken at the same weights, for every loss that is a mean over triples (bpr, l2)
    not equal  the steps: n of them, each from the weights that the one before left, have become
               one. An epoch makes n times fewer, so the learning rate wants to grow, by n or its
               root (`lr_scaling`). A contrastive loss has the users and items of the whole group,
               each once, to tell apart: it becomes another one, as in a bigger batch
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recsys.data.triple_sampler import TripleSampler
from recsys.data.triples import Triples
from recsys.errors import CheckpointError, ConfigError, NonFiniteError, did_you_mean
from recsys.models.collaborative import EmbeddingModel
from recsys.training.checkpoint import Checkpoint, Checkpoints
from recsys.training.plateau import Plateau
from recsys.training.progress import (
    Clock,
    EvaluationRecord,
    LossAverage,
    Observer,
    StepRecord,
    TrainingCurve,
)
from recsys.training.signals import Interrupted, StopRequest

LR_SCALING: dict[str, Callable[[int], float]] = {
    "none": lambda n: 1.0,
    "sqrt": math.sqrt,
    "linear": float,
}
"""Factor on the learning rate for n batches in one step."""

UNITS = ("epochs", "steps")


@dataclass(frozen=True, kw_only=True)
class RankingOptions:
    """How long, how often, how large."""

    epochs: int = 1000
    max_steps: int | None = None
    """Stop after this many optimiser steps, whatever `epochs` says."""
    batch_size: int = 2048
    """Triples of a batch."""
    steps_per_propagation: int = 1
    """Batches whose triples make one optimiser step."""
    lr_scaling: str = "none"
    """Factor on the learning rate for that many batches: none, sqrt, linear."""
    eval_every: int = 1
    eval_unit: str = "epochs"
    """What `eval_every` counts: epochs or steps."""
    monitor: str = "recall_at_20"
    patience: int = 10
    """Evaluations without improvement before stopping; 0: never."""
    min_delta: float = 1e-6
    lr_decay: float = 1.0
    """Factor on the learning rate at each such evaluation."""
    decay_epochs: int | None = None
    """The learning rate falls in a line, to nothing after so many epochs; None: it does not."""
    clip_norm: float | None = None
    checkpoint_every: int | None = None
    """Steps between checkpoints besides those at each evaluation."""
    keep_last: int = 2
    log_every: int = 100
    resume: str | None = None
    device: str = "auto"
    threads: int | None = None

    def __post_init__(self) -> None:
        for key in (
            "epochs", "batch_size", "steps_per_propagation", "eval_every", "keep_last", "log_every"
        ):  # fmt: skip
            if getattr(self, key) < 1:
                raise ConfigError(f"trainer.{key}={getattr(self, key)}; it must be at least 1.")
        for key in ("max_steps", "decay_epochs", "checkpoint_every", "threads"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ConfigError(f"trainer.{key}={value}; it must be at least 1, or null.")
        if self.decay_epochs is not None and self.decay_epochs < self.epochs:
            raise ConfigError(
                f"trainer.decay_epochs={self.decay_epochs} leaves a learning rate of 0 to the last "
                f"of trainer.epochs={self.epochs}; give at least as many."
            )
        for key, allowed in (("lr_scaling", LR_SCALING), ("eval_unit", UNITS)):
            if getattr(self, key) not in allowed:
                raise ConfigError(
                    f'trainer.{key}="{getattr(self, key)}" does not exist.'
                    f"{did_you_mean(getattr(self, key), allowed)}"
                )

    @property
    def rows_per_step(self) -> int:
        """Triples of an optimiser step."""
        return self.batch_size * self.steps_per_propagation

    @property
    def lr_factor(self) -> float:
        """What a learning rate meant for one batch is multiplied by."""
        return LR_SCALING[self.lr_scaling](self.steps_per_propagation)

    def plateau(self) -> Plateau:
        """The early-stopping rule of these options."""
        return Plateau(self.monitor, self.patience, self.min_delta, self.lr_decay)


class RankingTrainer:
    """Trains one model; `fit` is the loop.

    Args:
        model: On its device.
        optimizer: Of the model's parameters, its learning rates those of one batch a step.
        sampler: Batches of `options.rows_per_step` triples; its position is part of checkpoints.
        evaluate: Called in eval mode, without gradients; the metrics, `options.monitor` among them.
            None: nothing stops early and the last weights are kept.
        options: Lengths and rhythm.
        checkpoints: Where to save; None saves nothing, and keeps the best weights in memory.
        observers: Told of progress.
        facts: Plain values to keep in every checkpoint, such as the run's id.

    Raises:
        ConfigError: the sampler's batches are not of the size that the options ask for.
    """

    def __init__(
        self,
        model: EmbeddingModel,
        optimizer: torch.optim.Optimizer,
        sampler: TripleSampler,
        evaluate: Callable[[], dict[str, float]] | None,
        options: RankingOptions,
        checkpoints: Checkpoints | None = None,
        observers: tuple[Observer, ...] = (),
        facts: dict[str, Any] | None = None,
    ) -> None:
        if sampler.batch_size != options.rows_per_step:
            raise ConfigError(
                f"the sampler draws {sampler.batch_size:,} triples a step; trainer.batch_size="
                f"{options.batch_size:,} times trainer.steps_per_propagation="
                f"{options.steps_per_propagation} are {options.rows_per_step:,}."
            )
        self.model = model
        self.optimizer = optimizer
        self.sampler = sampler
        self.evaluate = evaluate
        self.options = options
        self.checkpoints = checkpoints
        self.observers = observers
        self.facts = dict(facts or {})
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        self.plateau = options.plateau()
        self.curve = TrainingCurve()
        self.average = LossAverage()
        self.global_step = 0
        self.epoch = 0
        self._stop = StopRequest()
        self._saved_step = -1
        self._best: dict[str, Tensor] | None = None
        self._lrs = [group["lr"] * options.lr_factor for group in optimizer.param_groups]
        self._set_lr()

    # -- one step ----------------------------------------------------------------------------

    def train_step(self, batch: Triples) -> tuple[dict[str, Tensor], Tensor]:
        """Forward, backward, update.

        Returns:
            The named losses before the update, and the gradient's norm before clipping.
        """
        self.optimizer.zero_grad()
        losses = self.model.losses(batch)
        torch.stack(list(losses.values())).sum().backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.options.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.options.clip_norm, norm)
        if norm.isfinite():  # else the weights stay what they were, and `fit` says so
            self.optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}, norm

    def _set_lr(self) -> None:
        """The learning rate of the next step."""
        scale = self.plateau.scale
        if self.options.decay_epochs is not None:
            scale *= 1 - self.global_step / (self.options.decay_epochs * len(self.sampler))
        for group, lr in zip(self.optimizer.param_groups, self._lrs, strict=True):
            group["lr"] = lr * scale

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return float(self.optimizer.param_groups[0]["lr"])

    # -- the loop ----------------------------------------------------------------------------

    def fit(self) -> None:
        """Train until `epochs`, `max_steps` or early stopping, then restore the best weights.

        Raises:
            NonFiniteError: a loss or the gradient is NaN or infinite, naming it and the step.
            Interrupted: SIGINT or SIGTERM arrived; a checkpoint of the last step was written.
        """
        total = min(self.options.epochs * len(self.sampler), self.options.max_steps or 2**62)
        with self._stop:
            self.model.train()
            while self.global_step < total and not self.plateau.should_stop:
                self.sampler.set_epoch(self.epoch)
                self._run_epoch(total)
        self._restore_best()
        self.model.eval()

    def _run_epoch(self, total: int) -> None:
        clock = Clock(self.curve)
        for batch in clock.batches(self.sampler):
            self._set_lr()
            losses, norm = self.train_step(batch.to(self.device))
            self.global_step += 1
            loss = self._watch(losses, norm)
            clock.stepped(len(batch))
            if self.global_step == 1 or self.global_step % self.options.log_every == 0:
                self._report_step(loss, norm, clock, total)
            if self._after_step(total):
                return

    def _after_step(self, total: int) -> bool:
        """Evaluate, save, stop, as the step number says; True ends the epoch's loop."""
        options = self.options
        epoch_done = self.sampler.state()["step"] == len(self.sampler)
        self.epoch += epoch_done
        if options.eval_unit == "steps":
            due = self.global_step % options.eval_every == 0
        else:
            due = epoch_done and self.epoch % options.eval_every == 0
        finished = self.global_step >= total
        improved = (due or finished) and self.evaluate is not None and self._evaluate()
        save_every = options.checkpoint_every
        if due or finished or (save_every and self.global_step % save_every == 0):
            self.save(best=improved or (self.evaluate is None))
        if self._stop.arrived:
            self.save(best=False)
            raise Interrupted(f"stopped after step {self.global_step}")
        return finished or self.plateau.should_stop

    def _watch(self, losses: dict[str, Tensor], norm: Tensor) -> float:
        """The sum of the losses; stops at one that is not a number, before anything is saved."""
        values = {name: float(loss) for name, loss in losses.items()} | {"gradient": float(norm)}
        bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise NonFiniteError(
                f"{', '.join(bad)} at step {self.global_step} (lr {self.lr:g}). Lower "
                "optimizer.lr, or set trainer.clip_norm."
            )
        loss = sum(values.values()) - values["gradient"]
        self.average.add(loss)
        return loss

    def _report_step(self, loss: float, norm: Tensor, clock: Clock, total: int) -> None:
        self.curve.steps.append((self.global_step, loss))
        record = StepRecord(
            step=self.global_step,
            total_steps=total,
            epoch=self.epoch,
            loss=self.average.value,
            grad_norm=float(norm),
            lr=self.lr,
            rows_per_second=self.curve.rows_per_second or clock.rough_speed(),
            data_share=clock.data_share(),
            eta_seconds=(total - self.global_step) * clock.seconds_per_step(),
        )
        for observer in self.observers:
            observer.step(record)

    @torch.no_grad()
    def _evaluate(self) -> bool:
        assert self.evaluate is not None
        self.model.eval()
        metrics = self.evaluate()
        self.model.train()
        lr = self.lr
        improved = self.plateau.update(metrics)
        self._set_lr()
        facts = {"step": self.global_step, "epoch": self.epoch, "improved": improved, "lr": lr}
        self.curve.evaluations.append(facts | metrics)
        if improved and self.checkpoints is None:
            self._best = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        record = EvaluationRecord(
            self.global_step, self.epoch, metrics, improved, self.plateau.scale
        )
        for observer in self.observers:
            observer.evaluation(record)
        return improved

    # -- checkpoints -------------------------------------------------------------------------

    def save(self, best: bool) -> None:
        """Write weights, optimiser state, random state and position."""
        if self.checkpoints is None or (self._saved_step == self.global_step and not best):
            return
        self._saved_step = self.global_step
        random_state = {"torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            random_state["cuda"] = torch.cuda.get_rng_state(self.device)
        self.checkpoints.save(
            self.global_step,
            {
                "weights": dict(self.model.state_dict()),
                "optimizer": self._optimizer_tensors(),
                "random": random_state,
            },
            {
                **self.facts,
                "step": self.global_step,
                "epoch": self.epoch,
                "sampler": self.sampler.state(),
                "plateau": self.plateau.state(),
                "ema": self.average.state(),
                "curve": vars(self.curve),
            },
            best=best,
        )

    def load(self, checkpoint: Checkpoint) -> None:
        """Continue from a checkpoint: the next steps are those of an uninterrupted run.

        Raises:
            CheckpointError: it belongs to another model, optimiser or sampling.
        """
        self.load_weights(checkpoint)
        self._load_optimizer(checkpoint)
        state = checkpoint.state
        self.sampler.load_state(state["sampler"])
        self.global_step, self.epoch = state["step"], state["epoch"]
        self.plateau.load_state(state["plateau"])
        self._set_lr()
        self.average.load_state(state["ema"])
        self.curve = TrainingCurve(**state["curve"])
        self.curve.steps = [(int(step), float(loss)) for step, loss in self.curve.steps]
        self._saved_step = self.global_step
        torch.set_rng_state(checkpoint.tensors["random"]["torch"])
        if self.device.type == "cuda" and "cuda" in checkpoint.tensors["random"]:
            torch.cuda.set_rng_state(checkpoint.tensors["random"]["cuda"], self.device)

    def load_weights(self, checkpoint: Checkpoint) -> None:
        """Take only the weights of a checkpoint.

        Raises:
            CheckpointError: they are not those of this model.
        """
        try:
            self.model.load_state_dict(checkpoint.tensors["weights"])
        except RuntimeError as error:
            raise CheckpointError(
                f"the weights in {checkpoint.folder} do not fit this model: {error}"
            ) from error

    def _optimizer_tensors(self) -> dict[str, Tensor]:
        """Its state by parameter and name: `0.exp_avg`."""
        state = self.optimizer.state_dict()["state"]
        return {
            f"{number}.{name}": torch.as_tensor(value)
            for number, entry in state.items()
            for name, value in entry.items()
        }

    def _load_optimizer(self, checkpoint: Checkpoint) -> None:
        state: dict[int, dict[str, Tensor]] = {}
        for key, tensor in checkpoint.tensors["optimizer"].items():
            number, _, name = key.partition(".")
            state.setdefault(int(number), {})[name] = tensor
        fits = set(state) == set(range(len(self.parameters))) and all(
            tensor.shape in (torch.Size([]), self.parameters[number].shape)
            for number, entry in state.items()
            for tensor in entry.values()
        )
        if not fits:
            raise CheckpointError(
                f"the optimiser state in {checkpoint.folder} is not that of this model's "
                "parameters. Continue with the configuration that wrote it."
            )
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})

    def _restore_best(self) -> None:
        if self.checkpoints is None:
            if self._best is not None:
                self.model.load_state_dict(self._best)
            return
        best = self.checkpoints.best_step()
        if best is not None and best != self.global_step:
            self.load_weights(self.checkpoints.load(best))
