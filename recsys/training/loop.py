"""The training loop, the same for every ctr and mtl model, on one process or several.

Letters   B rows of a batch, K labels.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.loader import Loader
from recsys.data.schema import Schema
from recsys.embedding.embedded import Embedded, History
from recsys.embedding.sharded_storage import ShardedStorage
from recsys.errors import CheckpointError, ConfigError, NonFiniteError
from recsys.metrics.task_report import Report, report_for
from recsys.models.recommender import Recommender
from recsys.training.batch_statistics import kept_batch_statistics, renew_batch_statistics
from recsys.training.checkpoint import Checkpoint, Checkpoints
from recsys.training.losses import binary_cross_entropy_sum, label_mass
from recsys.training.moved_tables import PLAIN_STATE, plain_state, plain_weights, sharded_state
from recsys.training.optimizers import Optimizers
from recsys.training.options import TrainerOptions
from recsys.training.progress import (
    Clock,
    EvaluationRecord,
    LossAverage,
    Observer,
    StepRecord,
    TrainingCurve,
)
from recsys.training.ranks import Ranks
from recsys.training.signals import Interrupted, StopRequest
from recsys.training.table_files import read_tables, read_whole
from recsys.training.task_balance import TaskBalance


class Trainer:
    """Trains one recommender; `fit` is the loop.

    Args:
        recommender: Lookup and model, on their device.
        optimizers: Their optimisers.
        options: Lengths, rhythm, precision.
        checkpoints: Where to save; None saves nothing.
        observers: Told of progress, on the first rank only.
        ranks: This process among all.
        facts: Plain values to keep in every checkpoint, such as the run's id.
        balance: How the losses of several labels become one; None: of one label.
    """

    def __init__(
        self,
        recommender: Recommender,
        optimizers: Optimizers,
        options: TrainerOptions,
        checkpoints: Checkpoints | None = None,
        observers: tuple[Observer, ...] = (),
        ranks: Ranks | None = None,
        facts: dict[str, Any] | None = None,
        balance: TaskBalance | None = None,
    ) -> None:
        self.balance = balance
        self.facts = dict(facts or {})
        self.recommender = recommender
        self.model = recommender.model
        self.lookup = recommender.lookup
        self.optimizers = optimizers
        self.options = options
        self.checkpoints = checkpoints
        self.ranks = ranks or Ranks()
        self.observers = observers if self.ranks.is_first else ()
        self.device = self.lookup.storage.device
        self.plateau = options.plateau()
        self.curve = TrainingCurve()
        self.global_step = 0
        self.epoch = 0
        self.average = LossAverage()
        self._stop = StopRequest()
        self._saved_step = -1
        self._interaction: Any = self.model.training_outputs
        # Sharded rows are fetched from all processes at once, by those too that have no row to ask.
        self._every_rank_looks_up = isinstance(self.lookup.storage, ShardedStorage)
        if options.compile:
            self._interaction = torch.compile(self._interaction)
        if options.block_rows and not self.model.rows_are_independent():
            raise ConfigError(
                f"trainer.block_rows={options.block_rows}, but {type(self.model).__name__} "
                "normalises over the batch: its rows depend on each other. Set "
                "trainer.block_rows=null, or turn batch_norm off."
            )

    # -- one step ----------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Forward, backward, update.

        Returns:
            The batch's mean loss before the update, and the gradient's norm before clipping.
        """
        self.optimizers.zero_grad()
        born = self.lookup.admit(batch)
        if born is not None:
            self.optimizers.forget_rows(born)
        self._task_losses = torch.zeros_like(batch.label[:1].sum(dim=0))
        mass = self.ranks.sum(label_mass(batch.label, batch.weight)).clamp(min=1e-12)
        loss = torch.zeros((), device=self.device)
        if len(batch):
            loss = self._forward_backward(batch, mass)
        elif self._every_rank_looks_up:
            torch.autograd.backward([one.sum() for one in _tensors_with_grad(self.lookup(batch))])
        if self.balance is not None:
            self.balance.stepped(self.ranks.sum(self._task_losses))
        self.ranks.sum_gradients(self.optimizers.parameters)
        if self.optimizers.table is not None:
            self.ranks.sum_table_gradient(
                self.optimizers.table, sparse=self.optimizers.sparse is not None
            )
        self.optimizers.add_embedding_l2()
        norm = self.optimizers.clip(self.options.clip_norm)
        self.optimizers.step()
        return self.ranks.sum(loss), norm

    def _forward_backward(self, batch: Batch, mass: Tensor) -> Tensor:
        if len(batch) > 1:
            return self._gradients_of(batch, mass)
        with kept_batch_statistics(self.model):  # one row has no statistics of its own
            return self._gradients_of(batch, mass)

    def _gradients_of(self, batch: Batch, mass: Tensor) -> Tensor:
        embedded = self.lookup(batch)
        block = self.options.block_rows
        if block is None or block >= len(batch):
            loss = self._loss(embedded, batch, slice(None), mass)
            loss.backward()
            return loss.detach()
        # Blocks of rows stay in the processor's cache through forward AND backward; their gradients
        # towards the vectors are put side by side and sent through the lookup once.
        total = torch.zeros((), device=self.device)
        outputs = _tensors_with_grad(embedded)
        gradients: list[list[Tensor]] = [[] for _ in outputs]
        for start in range(0, len(batch), block):
            rows = slice(start, min(start + block, len(batch)))
            part = _detached(embedded.rows(rows.start, rows.stop))
            leaves = _tensors_with_grad(part)
            loss = self._loss(part, batch, rows, mass)
            loss.backward()
            total += loss.detach()
            for collected, leaf in zip(gradients, leaves, strict=True):
                collected.append(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
        torch.autograd.backward(outputs, [torch.cat(parts) for parts in gradients])
        return total

    def _loss(self, embedded: Embedded, batch: Batch, rows: slice, mass: Tensor) -> Tensor:
        with self._autocast():
            logits, own = self._interaction(embedded)
        weights = None if batch.weight is None else batch.weight[rows]
        loss = binary_cross_entropy_sum(logits, batch.label[rows], weights) / mass
        share = len(embedded) / max(len(batch), 1) / self.ranks.world_size
        if self.balance is not None:
            self._task_losses += loss.detach()
            loss = self.balance(loss, share)
        if own is not None:
            loss = loss + (own if weights is None else own * weights).sum() / mass.max()
        return loss + self.model.regularization() * share

    def _autocast(self) -> contextlib.AbstractContextManager[Any]:
        """On a GPU, where bfloat16 was asked for: the forward pass under autocast."""
        if self.options.precision == "float32" or self.device.type == "cpu":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    @contextlib.contextmanager
    def _products(self) -> Iterator[None]:
        """On a CPU, where bfloat16 was asked for: products of matrices read it, forward and
        backward; their sums and everything else stay float32, and the fused kernels stay in use.
        """
        before = torch.get_float32_matmul_precision()
        if self.options.precision == "bfloat16" and self.device.type == "cpu":
            torch.set_float32_matmul_precision("medium")
        try:
            yield
        finally:
            torch.set_float32_matmul_precision(before)

    # -- evaluation --------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(self, loader: Loader) -> Report:
        """Logits of every row of a loader, with labels; exact over all ranks."""
        schema = loader.store.schema
        capacity = loader.store.num_rows // self.ranks.world_size + 1
        report = report_for(schema.labels, schema.parents, capacity)
        self.ranks.copy_buffers(self.model)
        self.recommender.eval()
        for batch in loader:
            moved = batch.to(self.device, non_blocking=True)
            embedded = self.lookup(moved) if len(moved) or self._every_rank_looks_up else None
            if embedded is not None and len(moved):
                with self._autocast():
                    logits = self.model(embedded)
                report.add(logits.float(), batch.label, batch.weight, batch.group)
        self.recommender.train()
        return self.ranks.merge_reports(report)

    # -- the loop ----------------------------------------------------------------------------

    def fit(self, train: Loader, val: Loader | None) -> None:
        """Train until `epochs`, `max_steps` or early stopping, then restore the best weights.

        Args:
            train: Shuffled batches; its position is part of every checkpoint.
            val: Rows to validate on after each epoch (or every `eval_every` steps). Without it
                nothing stops early and the last weights are kept.

        Raises:
            NonFiniteError: the loss is NaN or infinite, naming step, file and rows.
            Interrupted: SIGINT or SIGTERM arrived; `trainer.resume=auto` continues.
        """
        anomaly = torch.autograd.set_detect_anomaly(self.options.anomaly)
        with self._stop, self._products(), anomaly:
            self.recommender.train()
            self._run_stages(train, val)
        self._restore_best()

    def _run_stages(self, train: Loader, val: Loader | None) -> None:
        """All epochs; a method that trains in several stages runs them here."""
        self._run_stage(train, val, self._steps(self.options.epochs, train))

    def _run_stage(self, train: Loader, val: Loader | None, total: int) -> None:
        """Epochs until step `total` or until the plateau says so."""
        while self.global_step < total and not self.plateau.should_stop:
            train.set_epoch(self.epoch)
            self._run_epoch(train, val, total)

    def _steps(self, epochs: int, train: Loader) -> int:
        """Steps of a stage of so many epochs."""
        return min(epochs * len(train), self.options.max_steps or 2**62)

    def _run_epoch(self, train: Loader, val: Loader | None, total: int) -> None:
        clock = Clock(self.curve)
        for batch in clock.batches(train):
            loss, norm = self.train_step(batch.to(self.device, non_blocking=True))
            self.global_step += 1
            self._watch(loss, norm, batch, train)
            clock.stepped(len(batch) * self.ranks.world_size)
            if self.global_step == 1 or self.global_step % self.options.log_every == 0:
                self._report_step(loss, norm, clock, total)
            if train.state()["step"] == len(train):
                self.epoch += 1
                if self.balance is not None:
                    self.balance.epoch_done()
            if self._after_step(train, val, total):
                return

    def _after_step(self, train: Loader, val: Loader | None, total: int) -> bool:
        """Validate, save, stop, as the step number says; True ends the epoch's loop."""
        epoch_done = train.state()["step"] == len(train)
        every = self.options.eval_every
        due = epoch_done if every is None else self.global_step % every == 0
        finished = self.global_step >= total
        improved = False
        if val is not None and (due or finished):
            self._renew_statistics(train)
            improved = self._validate(val)
        save_every = self.options.checkpoint_every
        if due or finished or improved or (save_every and self.global_step % save_every == 0):
            self.save(train, best=improved or val is None)
        if self.ranks.any(self._stop.arrived, self.device):
            self.save(train, best=False)
            raise Interrupted(f"stopped after step {self.global_step}")
        return finished or self.plateau.should_stop

    def _watch(self, loss: Tensor, norm: Tensor, batch: Batch, train: Loader) -> None:
        """Stop at a loss or gradient that is not a number, before anything is saved."""
        value = float(loss)
        if math.isfinite(value) and bool(norm.isfinite()):
            self.average.add(value)
            return
        what = f"loss is {value}" if not torch.isfinite(loss) else f"gradient norm is {float(norm)}"
        where = ""
        if batch.row is not None and len(batch):
            first, last = int(batch.row.min()), int(batch.row.max())
            where = (
                f" Its rows lie between {train.store.where(first)} and {train.store.where(last)}."
            )
        raise NonFiniteError(
            f"the {what} at step {self.global_step} (lr {self.optimizers.lr:g}).{where} Lower "
            "optimizer.lr or trainer.clip_norm, scale the numeric columns, or find the operation "
            "with trainer.anomaly=true."
        )

    def _report_step(self, loss: Tensor, norm: Tensor, clock: Clock, total: int) -> None:
        self.curve.steps.append((self.global_step, float(loss)))
        record = StepRecord(
            step=self.global_step,
            total_steps=total,
            epoch=self.epoch,
            loss=self.average.value,
            grad_norm=float(norm),
            lr=self.optimizers.lr,
            rows_per_second=self.curve.rows_per_second or clock.rough_speed(),
            data_share=clock.data_share(),
            eta_seconds=(total - self.global_step) * clock.seconds_per_step(),
        )
        for observer in self.observers:
            observer.step(record)

    def _validate(self, val: Loader) -> bool:
        metrics = self._measure(val)
        lr = self.optimizers.lr
        improved = self.plateau.update(metrics)
        self.optimizers.set_scale(self.plateau.scale)
        facts = {"step": self.global_step, "epoch": self.epoch, "improved": improved, "lr": lr}
        self.curve.evaluations.append(facts | metrics)
        record = EvaluationRecord(
            self.global_step, self.epoch, metrics, improved, self.plateau.scale
        )
        for observer in self.observers:
            observer.evaluation(record)
        return improved

    def _renew_statistics(self, train: Loader) -> None:
        """Batch norm's statistics of the weights as they are, from the same rows every time."""
        if not self.options.norm_batches:
            return
        sample = Loader(
            train.store, train.batch_size, shuffle=True, seed=train.seed, rank=self.ranks.rank,
            world_size=self.ranks.world_size, prefetch=0,
        )  # fmt: skip
        batches = (batch.to(self.device) for batch in sample)
        renew_batch_statistics(
            self.recommender, itertools.islice(batches, self.options.norm_batches)
        )

    def _measure(self, val: Loader) -> dict[str, float]:
        """The numbers of one validation."""
        return self.evaluate(val).compute()

    # -- checkpoints -------------------------------------------------------------------------

    def save(self, train: Loader, best: bool) -> None:
        """Write weights, optimiser state, random state and position: the first rank alone, or all
        of them where tables are sharded."""
        if self.checkpoints is None or (self._saved_step == self.global_step and not best):
            return
        self._saved_step = self.global_step
        storage = self.lookup.storage
        if isinstance(storage, ShardedStorage):
            plan = {"plan": [vars(one) for one in storage.placement]}
            state = self._facts(train) | plan
            parts = storage.parts()
            self.checkpoints.save_together(
                self.global_step, self._tensors(), state, parts, self.ranks, best
            )
            return
        if self.ranks.is_first:
            self.checkpoints.save(self.global_step, self._tensors(), self._facts(train), best=best)
        self.ranks.wait()

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        """What a checkpoint holds, file stem -> name -> tensor; sharded tables apart."""
        random_state = {"torch": torch.get_rng_state()}
        if self.device.type == "cuda":
            random_state["cuda"] = torch.cuda.get_rng_state(self.device)
        return {
            "weights": self.recommender.tensors(),
            "optimizer": self.optimizers.state_tensors(),
            "random": random_state,
            **self._stage_tensors(),
        }

    def _facts(self, train: Loader) -> dict[str, Any]:
        """Plain values beside them."""
        return {
            **self.facts,
            **self._stage_facts(),
            "step": self.global_step,
            "epoch": self.epoch,
            "loader": train.state(),
            "plateau": self.plateau.state(),
            "ema": self.average.state(),
            "curve": vars(self.curve),
            "schema": self.lookup.schema.to_dict(),
        }

    def _stage_tensors(self) -> dict[str, dict[str, Tensor]]:
        """What else a checkpoint must hold, file stem -> name -> tensor."""
        return {} if self.balance is None else {"balance": self.balance.state_dict()}

    def _stage_facts(self) -> dict[str, Any]:
        """Plain values beside them."""
        return {}

    def load(self, checkpoint: Checkpoint, train: Loader) -> None:
        """Continue from a checkpoint: the next steps are those of an uninterrupted run.

        Raises:
            CheckpointError: it belongs to another schema, model, optimiser or data order.
        """
        whole = self._whole_tables(checkpoint)
        self.load_weights(checkpoint, whole)
        try:
            self.optimizers.load_state_tensors(self._optimizer_state(checkpoint, whole))
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the optimiser state in {checkpoint.folder} does not fit: {error}. Continue with "
                "the configuration that wrote it."
            ) from error
        if self.balance is not None:
            self.balance.load_state_dict(checkpoint.tensors["balance"])
        state = checkpoint.state
        train.load_state(state["loader"])
        self.global_step, self.epoch = state["step"], state["epoch"]
        self.plateau.load_state(state["plateau"])
        self.optimizers.set_scale(self.plateau.scale)
        self.average.load_state(state["ema"])
        self.curve = TrainingCurve(**state["curve"])
        self.curve.steps = [(int(step), float(loss)) for step, loss in self.curve.steps]
        self._saved_step = self.global_step
        torch.set_rng_state(checkpoint.tensors["random"]["torch"])
        if self.device.type == "cuda" and "cuda" in checkpoint.tensors["random"]:
            torch.cuda.set_rng_state(checkpoint.tensors["random"]["cuda"], self.device)

    def _whole_tables(self, checkpoint: Checkpoint) -> dict[str, Tensor] | None:
        """The tables of a sharded run, where this one has them whole."""
        if checkpoint.tables is None or isinstance(self.lookup.storage, ShardedStorage):
            return None
        return read_whole(checkpoint.tables)

    def _optimizer_state(
        self, checkpoint: Checkpoint, whole: dict[str, Tensor] | None
    ) -> dict[str, Tensor]:
        """A checkpoint's state of the optimisers, as this run's tables want it."""
        state = dict(checkpoint.tensors["optimizer"])
        storage = self.lookup.storage
        if whole is not None and self.optimizers.sparse is not None:
            return state | plain_state(self.lookup, whole)
        if isinstance(storage, ShardedStorage) and checkpoint.tables is None:
            storage.fill(sharded_state(self.lookup, state))
            state.pop(PLAIN_STATE, None)
        return state

    def load_weights(self, checkpoint: Checkpoint, whole: dict[str, Tensor] | None = None) -> None:
        """Take only the weights of a checkpoint.

        Args:
            checkpoint: Of this model, with tables that may have been sharded in any way.
            whole: Its tables, where they have been read already.
        """
        saved = Schema.from_dict(checkpoint.state["schema"])
        difference = saved.diff(self.lookup.schema)
        if difference:
            raise CheckpointError(
                f"columns differ from the schema {checkpoint.folder} was trained with "
                f"(- then, + now):\n{difference}"
            )
        storage = self.lookup.storage
        try:
            if checkpoint.tables is not None and isinstance(storage, ShardedStorage):
                read_tables(checkpoint.tables, storage.parts())
                weights = checkpoint.tensors["weights"]
            else:
                weights = plain_weights(self.lookup, checkpoint, whole)
            self.recommender.load_tensors(weights)
        except (KeyError, RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"the weights in {checkpoint.folder} do not fit this model: {error}"
            ) from error

    def _restore_best(self) -> None:
        if self.checkpoints is None:
            return
        self.ranks.wait()
        best = self.checkpoints.best_step()
        if best is not None and best != self.global_step:
            self.load_weights(self.checkpoints.load(best))


def _tensors_with_grad(embedded: Embedded) -> list[Tensor]:
    """The tensors of a batch that gradients flow into, in a fixed order."""
    found = [embedded.fields]
    found += [one for one in (embedded.linear, embedded.second) if one is not None]
    found += [embedded.history[name].values for name in sorted(embedded.history)]
    found += [embedded.target[name] for name in sorted(embedded.target)]
    return [tensor for tensor in found if tensor.requires_grad]


def _detached(embedded: Embedded) -> Embedded:
    """The same vectors as leaves of their own."""

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().requires_grad_(tensor.requires_grad)

    return Embedded(
        fields=leaf(embedded.fields),
        dense=embedded.dense,
        linear=None if embedded.linear is None else leaf(embedded.linear),
        second=None if embedded.second is None else leaf(embedded.second),
        history={
            k: History(leaf(h.values), h.offsets, h.longest) for k, h in embedded.history.items()
        },
        target={k: leaf(v) for k, v in embedded.target.items()},
    )
