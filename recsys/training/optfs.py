"""OptFS: learn which rows of the tables to keep, drop the others, train again.

    search     epochs 0 .. T-1 with soft gates; the temperature grows from 1 to gamma
    rewind     gates become 0 or s; all other weights go back to where epoch E_c began
    retrain    the trainer's own epochs and early stopping, on the rows that are left

Source   Lyu et al., "Optimizing Feature Set for Click-Through Rate Prediction", WWW 2023,
         arXiv:2301.10909, Sec. 3 (Algorithm 1).
Differs  The weight of the gates' sum is stated per row that training reads, so that one value holds
         for tables of any height. Rows that training never reads are dropped, and not counted as
         kept or dropped. EVERY weight is rewound (the authors' code leaves the biases of DCN's
         cross layers behind). The gates' learning rate is a key of its own: with few steps per
         epoch the weights' rate would not carry a gate from c_init to 0. Early stopping is the
         trainer's (the authors stop at the first epoch that does not improve).
Letters  R storage rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.loader import Loader
from recsys.embedding.row_gates import RowGates
from recsys.errors import CheckpointError, ConfigError
from recsys.models.recommender import Recommender
from recsys.training.checkpoint import Checkpoint, Checkpoints
from recsys.training.loop import Trainer
from recsys.training.optimizers import Optimizers
from recsys.training.options import TrainerOptions
from recsys.training.plateau import Plateau
from recsys.training.progress import LossAverage, Observer


@dataclass(frozen=True, kw_only=True)
class GateOptions:
    """What `configs/gate/*.yaml` holds."""

    name: str = "optfs"
    gate_l1: float = 0.1
    """Lambda times the number of rows that training reads: the loss gets this times the mean gate,
    whatever the vocabulary's size. (The paper's 2e-9 on a million rows is 0.002 here.)"""
    final_temperature: float = 1000.0
    """gamma: the gates' steepness in the last search epoch; the first has 1."""
    search_epochs: int = 10
    """T."""
    rewind_epoch: int = 1
    """E_c: weights return to those at the start of this search epoch."""
    init: float = 0.5
    """c_init: how far a gate is from closing at the start."""
    lr: float | None = None
    """Learning rate of the gates; None: that of the weights."""

    def __post_init__(self) -> None:
        if self.name != "optfs":
            raise ConfigError(f'gate.name="{self.name}" does not exist. Allowed: optfs.')
        if self.gate_l1 < 0:
            raise ConfigError(f"gate.gate_l1={self.gate_l1}; it must not be negative.")
        if self.final_temperature < 1:
            raise ConfigError(
                f"gate.final_temperature={self.final_temperature}; it must be at least 1, where "
                "the search starts."
            )
        if self.search_epochs < 2:
            raise ConfigError(
                f"gate.search_epochs={self.search_epochs}; it must be at least 2: the temperature "
                "starts at 1 and ends at gate.final_temperature."
            )
        if not 0 <= self.rewind_epoch < self.search_epochs:
            raise ConfigError(
                f"gate.rewind_epoch={self.rewind_epoch}; it must be one of the search epochs, 0 to "
                f"{self.search_epochs - 1}."
            )
        if self.init <= 0:
            raise ConfigError(f"gate.init={self.init}; gates start open, so it must be above 0.")
        if self.lr is not None and self.lr <= 0:
            raise ConfigError(f"gate.lr={self.lr}; it must be above 0, or null.")

    def temperature(self, epoch: int) -> float:
        """tau of a search epoch: gamma^(epoch / (T - 1)).

        Example:
            >>> options = GateOptions(final_temperature=100.0, search_epochs=3)
            >>> [round(options.temperature(epoch)) for epoch in range(3)]
            [1, 10, 100]
        """
        return float(self.final_temperature ** (epoch / (self.search_epochs - 1)))

    def check(self, layout: str, optimizer: str, world_size: int) -> None:
        """Refuse what gates cannot be trained on.

        Raises:
            ConfigError: rows shared between values, an optimiser that does not hold the tables'
                weights densely, several processes.
        """
        if layout != "full":
            raise ConfigError(
                f"gate=optfs judges values one by one, but under embedding={layout} several values "
                "share a row. Use embedding=full."
            )
        if optimizer != "adam":
            raise ConfigError(
                f"gate=optfs moves every gate at every step, which optimizer={optimizer} is there "
                "to avoid. Use optimizer=adam."
            )
        if world_size > 1:
            raise ConfigError(
                f"gate=optfs trains in one process, and there are {world_size}. Start it without "
                "torchrun."
            )


class OptFSTrainer(Trainer):
    """Trains a recommender with gates on its rows, then without the rows they closed.

    Args:
        recommender: Lookup and model, on their device; its lookup gets the gates.
        optimizers: Of everything but the gates.
        options: The trainer's; `epochs` and `max_steps` hold for the search and for the retraining
            each, early stopping and decay for the retraining alone.
        gate: The schedule.
        counts: [R] how often each row is read in an epoch.
        checkpoints, observers, facts: As for `Trainer`.
        notify: Told when the stage changes.
    """

    def __init__(
        self,
        recommender: Recommender,
        optimizers: Optimizers,
        options: TrainerOptions,
        gate: GateOptions,
        counts: Tensor,
        checkpoints: Checkpoints | None = None,
        observers: tuple[Observer, ...] = (),
        facts: dict[str, Any] | None = None,
        notify: Callable[[str], None] = lambda _: None,
    ) -> None:
        lookup = recommender.lookup
        gate.check(lookup.layout.name, optimizers.options.name, 1)
        device = lookup.storage.table().device
        self.gate = gate
        self.gates = RowGates(lookup.layout.num_rows, gate.init, device)
        lookup.gates = self.gates
        self.seen = (counts > 0).to(device)
        self.num_seen = int(self.seen.sum())
        if not self.num_seen:
            raise ConfigError(
                "gate=optfs judges the values of coded columns, and this data has none."
            )
        self.searching = True
        self.start: dict[str, Tensor] | None = None
        """Weights at the start of epoch E_c, while there may be a return to them."""
        self.gate_optimizer = torch.optim.Adam(
            [self.gates.logits],
            lr=optimizers.options.lr if gate.lr is None else gate.lr,
            betas=optimizers.options.betas,
            eps=optimizers.options.eps,
        )
        self.notify = notify
        super().__init__(recommender, optimizers, options, checkpoints, observers, facts=facts)
        # Nothing stops a search early and its rates stay: only retraining is judged.
        self.plateau = Plateau(options.monitor, 0, options.min_delta, decay=1.0)

    # -- one step ----------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> tuple[Tensor, Tensor]:
        self.gates.logits.grad = None
        result = super().train_step(batch)
        if self.searching:
            self.gates.add_penalty_gradient(self.gate.gate_l1 / self.num_seen)
            self.gate_optimizer.step()
        return result

    # -- the stages --------------------------------------------------------------------------

    def _run_stages(self, train: Loader, val: Loader | None) -> None:
        search = self._steps(self.gate.search_epochs, train)
        if self.searching:
            self._run_stage(train, val, search)
            self.begin_retraining()
        self._run_stage(train, val, search + self._steps(self.options.epochs, train))

    def _run_epoch(self, train: Loader, val: Loader | None, total: int) -> None:
        if self.searching:
            self.gates.temperature = self.gate.temperature(self.epoch)
            if self.epoch <= self.gate.rewind_epoch and train.state()["step"] == 0:
                self.start = {
                    name: tensor.detach().clone()
                    for name, tensor in self.recommender.tensors().items()
                    if not _is_gate(name)
                }
        super()._run_epoch(train, val, total)

    def begin_retraining(self) -> None:
        """Make the gates hard, rewind all other weights, forget the optimiser's state."""
        self._leave_search()
        self.gates.harden(self.seen)
        if self.start is not None:
            gates = {n: t for n, t in self.recommender.tensors().items() if _is_gate(n)}
            self.recommender.load_tensors(self.start | gates)
        self.start = None
        self.optimizers = Optimizers(
            self.lookup, self.model, self.optimizers.options, self.optimizers.row_counts
        )
        self.average = LossAverage()
        kept = self.kept_share()
        self.notify(
            f"search done after step {self.global_step:,}: {kept:.1%} of the rows that training "
            f"reads are kept; training again from epoch {self.gate.rewind_epoch}"
        )

    def _leave_search(self) -> None:
        self.searching = False
        self.plateau = self.options.plateau()

    def kept_share(self) -> float:
        """Share of the rows that training reads whose gate is open."""
        return int(self.gates.open_rows(self.seen).sum()) / self.num_seen

    def _measure(self, val: Loader) -> dict[str, float]:
        return super()._measure(val) | {"kept_share": self.kept_share()}

    # -- checkpoints -------------------------------------------------------------------------

    def _stage_tensors(self) -> dict[str, dict[str, Tensor]]:
        if not self.searching:
            return {}
        state = self.gate_optimizer.state_dict()["state"].get(0, {})
        tensors = {"gate_optimizer": dict(state)} if state else {}
        return tensors | ({"start": self.start} if self.start is not None else {})

    def _stage_facts(self) -> dict[str, Any]:
        return {"gate_stage": "search" if self.searching else "retrain"}

    def load(self, checkpoint: Checkpoint, train: Loader) -> None:
        stage = checkpoint.state.get("gate_stage")
        if stage not in ("search", "retrain"):
            raise CheckpointError(
                f"{checkpoint.folder} was written without gate=optfs. Continue it with the "
                "configuration that wrote it."
            )
        if stage == "retrain":
            self._leave_search()
        super().load(checkpoint, train)
        if stage == "retrain":
            self.gates.harden(self.seen)
            return
        self.start = checkpoint.tensors.get("start")
        if "gate_optimizer" in checkpoint.tensors:
            groups = self.gate_optimizer.state_dict()["param_groups"]
            state = {0: checkpoint.tensors["gate_optimizer"]}
            self.gate_optimizer.load_state_dict({"state": state, "param_groups": groups})

    # -- what was found ----------------------------------------------------------------------

    def report(self) -> dict[str, Any]:
        """Rows, rows that training reads, rows kept, in all and per table; plain numbers."""
        layout = self.lookup.layout
        kept = self.gates.open_rows(self.seen)
        fields = {}
        for table, start, span in zip(layout.tables, layout.starts, layout.spans, strict=True):
            seen, left = (int(mask[start : start + span].sum()) for mask in (self.seen, kept))
            fields[table.name] = {"rows": span, "seen": seen, "kept": left}
        rows, seen, left = (
            sum(one[k] for one in fields.values()) for k in ("rows", "seen", "kept")
        )
        return {
            "name": self.gate.name,
            "rows": rows,
            "seen_rows": seen,
            "kept_rows": left,
            "kept_share": left / seen,
            "fields": fields,
        }


def _is_gate(name: str) -> bool:
    return name.startswith("tables.") and name.endswith(".gate")
