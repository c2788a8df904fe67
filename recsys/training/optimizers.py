"""Optimisers: one for the dense part, one for the tables, driven as a pair.

    adam             one Adam for everything, dense over every table row; the only one with dense L2
    lazy_adam        Adam on the rows of the batch
    rowwise_adagrad  Adagrad with one number per row; on a GPU fused into the backward (FBGEMM)
    adagrad, sgd     Adagrad with one number per weight, and none; fused where row-wise Adagrad is

The last three are also what sharded tables can be updated by. The part outside the tables always
takes Adam. Published numbers on small data sets were made with `adam` and its dense L2 (BARS); it
costs O(table) a step, which is what the others are for.

`embedding_mba` is DIN's mini-batch aware regularisation, for any of them (Zhou et al., KDD 2018,
arXiv:1706.06978, Eq. 4-7).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from recsys.embedding.lookup import EmbeddingLookup
from recsys.embedding.sharded_storage import ShardedStorage, Sharding
from recsys.embedding.sharding import check_columns, shards
from recsys.embedding.storage import (
    FUSED_OPTIMIZERS,
    DenseStorage,
    FusedStorage,
    SparseStorage,
    Storage,
)
from recsys.errors import ConfigError, did_you_mean
from recsys.training.row_sparse import (
    SGD,
    Adagrad,
    LazyAdam,
    RowSparseOptimizer,
    RowwiseAdagrad,
    sum_duplicates,
)

STATE_FLOATS = {
    "adam": 2.0, "lazy_adam": 2.0, "rowwise_adagrad": 0.0, "adagrad": 1.0, "sgd": 0.0,
}  # fmt: skip
"""Floats of optimiser state per table weight (row-wise Adagrad keeps one per row)."""


@dataclass(frozen=True, kw_only=True)
class OptimizerOptions:
    """What `configs/optimizer/*.yaml` holds."""

    name: str = "adam"
    """How the tables are updated, one of `STATE_FLOATS`."""
    lr: float = 1e-3
    """Learning rate of the part outside the tables."""
    embedding_lr: float | None = None
    """Learning rate of the tables; None: the same."""
    embedding_l2: float = 0.0
    """lambda in lambda/2 * ||W||^2 over EVERY row of every table at every step (BARS)."""
    embedding_mba: float = 0.0
    """lambda in lambda / n_j * w_j, the gradient added to each row j that the batch reads, once per
    batch; n_j is how often training reads the row in an epoch (DIN, Eq. 7)."""
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        object.__setattr__(self, "betas", tuple(self.betas))
        if self.name not in STATE_FLOATS:
            raise ConfigError(
                f'optimizer "{self.name}" does not exist.{did_you_mean(self.name, STATE_FLOATS)}'
            )
        for key in ("lr", "table_lr", "embedding_l2", "embedding_mba", "eps"):
            value = getattr(self, key)
            if value < 0:
                raise ConfigError(f"optimizer.{key}={value}; it must not be negative.")
        if self.embedding_l2 and self.name != "adam":
            raise ConfigError(
                f"optimizer.embedding_l2={self.embedding_l2} moves every table row at every step, "
                f"which {self.name} does not do; use optimizer=adam, or embedding_l2=0."
            )

    @property
    def table_lr(self) -> float:
        """Learning rate of the tables."""
        return self.lr if self.embedding_lr is None else self.embedding_lr

    def check_sharding(self, sharding: str | Mapping[str, str]) -> None:
        """Raise ConfigError where tables that are to be split cannot be updated like this."""
        if not shards(sharding):
            return
        if self.embedding_mba:
            raise ConfigError(
                f"optimizer.embedding_mba={self.embedding_mba} changes the gradient of rows before "
                "they move; sharded tables move inside the backward pass. Use embedding_mba=0, or "
                "embedding.sharding=none."
            )
        self._sharding(sharding, torch.device("cpu"), 1)
        check_columns(sharding, self.name)

    def _sharding(
        self, sharding: str | Mapping[str, str], device: torch.device, batch_rows: int
    ) -> Sharding:
        return Sharding(sharding, self.name, self.table_lr, self.eps, device, batch_rows)

    def storage_factory(
        self,
        device: torch.device,
        world_size: int = 1,
        sharding: str | Mapping[str, str] = "none",
        batch_size: int = 1,
    ) -> Callable[[int, int], Storage]:
        """The storage whose rows this optimiser can update.

        Args:
            device: Of this process.
            world_size: Number of processes.
            sharding: `embedding.sharding`.
            batch_size: Rows of a step over all processes, by which a plan is made.

        A fused table moves its rows inside the backward pass, before ranks can sum their gradients:
        replicated tables take the row-sparse path instead, and so do rows to be regularised.

        Raises:
            ConfigError: `embedding_mba` with a dense gradient, which does not say which rows the
                other ranks have read.
        """
        if self.embedding_mba and self.name == "adam" and world_size > 1:
            raise ConfigError(
                f"optimizer.embedding_mba={self.embedding_mba} needs the rows that every process "
                f"has read, which a dense gradient of {world_size} processes does not tell. Use "
                "optimizer=lazy_adam or optimizer=rowwise_adagrad, or one process."
            )
        if shards(sharding):
            self.check_sharding(sharding)
            return self._sharding(sharding, device, -(-batch_size // world_size))
        fused = self.name in FUSED_OPTIMIZERS and device.type == "cuda"
        fused = fused and world_size == 1 and not self.embedding_mba

        def make(num_rows: int, width: int) -> Storage:
            if self.name == "adam":
                return DenseStorage(num_rows, width, device)
            if fused:
                return FusedStorage(
                    num_rows, width, optimizer=self.name, lr=self.table_lr, eps=self.eps,
                    device=device,
                )  # fmt: skip
            return SparseStorage(num_rows, width, device)

        return make


def _row_sparse(
    weight: nn.Parameter, options: OptimizerOptions, scale: float = 1.0
) -> RowSparseOptimizer:
    """The optimiser of a table whose gradient holds the rows of the batch; `scale` multiplies its
    learning rate and its epsilon."""
    lr, eps = options.table_lr * scale, options.eps * scale
    if options.name == "lazy_adam":
        return LazyAdam([weight], lr, options.betas, eps)
    if options.name == "sgd":
        return SGD([weight], lr)
    kind = Adagrad if options.name == "adagrad" else RowwiseAdagrad
    return kind([weight], lr, eps)


class Optimizers:
    """The optimisers of one model, stepped together.

    Args:
        lookup: Owns the tables.
        model: The interaction model.
        options: Rates and kinds.
        row_counts: How often training reads each row of the tables [R], for `embedding_mba`.
        more: Parameters beside the model's, such as weights of losses.
    """

    def __init__(
        self,
        lookup: EmbeddingLookup,
        model: nn.Module,
        options: OptimizerOptions,
        row_counts: Tensor | None = None,
        more: Iterable[nn.Parameter] = (),
    ) -> None:
        self.options = options
        self.storage = lookup.storage
        local = self.storage.local_part()
        self.row_counts = row_counts
        self.parameters = [*model.parameters(), *lookup.dense_parameters(), *more]
        groups: list[dict[str, Any]] = []
        if self.parameters:
            groups.append({"params": self.parameters, "lr": options.lr})
        self.table: nn.Parameter | None = None
        if isinstance(local, DenseStorage):
            self.table = local.weight
        self.sparse: RowSparseOptimizer | None = None
        self._sparse_scale = 1.0
        if isinstance(local, SparseStorage):
            if isinstance(self.storage, ShardedStorage):
                self._sparse_scale = self.storage.rate_scale
            self.sparse = _row_sparse(local.weight, options, self._sparse_scale)
            if isinstance(self.storage, ShardedStorage):
                self.storage.replicated_state = self._state_of(self.sparse, local.weight)
        elif self.table is not None:
            groups.append({"params": [self.table], "lr": options.table_lr})
        self.dense: torch.optim.Adam | None = None
        if groups:
            self.dense = torch.optim.Adam(groups, betas=options.betas, eps=options.eps, fused=True)
        self.scale = 1.0
        self._shrinkage: Tensor | None = None
        if options.embedding_mba:
            self._prepare_shrinkage()

    @staticmethod
    def _state_of(sparse: RowSparseOptimizer, weight: Tensor) -> dict[str, Tensor]:
        """The state of a table's rows, made before the first step: a checkpoint may come first."""
        weight.grad = torch.sparse_coo_tensor(
            torch.zeros(1, 0, dtype=torch.int64, device=weight.device),
            weight.detach().new_zeros(0, weight.shape[1]),
            weight.shape,
            check_invariants=False,
        )
        sparse.step()
        weight.grad = None
        return {key: value for key, value in sparse.state[weight].items() if value.ndim}

    def set_scale(self, scale: float) -> None:
        """Multiply every configured learning rate by `scale`."""
        self.scale = scale
        if self.dense is not None:
            for group in self.dense.param_groups:
                is_table = self.table is not None and group["params"][0] is self.table
                rate = self.options.table_lr if is_table else self.options.lr
                group["lr"] = rate * scale
        if self.sparse is not None:
            for group in self.sparse.param_groups:
                group["lr"] = self.options.table_lr * scale * self._sparse_scale
        self.storage.set_learning_rate(self.options.table_lr * scale)

    @torch.no_grad()
    def forget_rows(self, rows: Tensor) -> None:
        """Begin anew with rows [n] of the table: their state is as before their first step. (Steps
        that an Adam has counted, which are no row's own, stay counted.)"""
        states = list(self.storage.optimizer_state().values())
        for optimizer in (self.dense, self.sparse):
            if optimizer is not None and self.table is not None:
                states += [s for s in optimizer.state.get(self.table, {}).values() if s.ndim]
        for state in states:
            state.index_fill_(0, rows, 0.0)

    @property
    def lr(self) -> float:
        """The current learning rate of the part outside the tables."""
        return self.options.lr * self.scale

    @torch.no_grad()
    def add_embedding_l2(self) -> None:
        """Add the gradient of lambda/2 ||W||^2 to the table's, and of the numeric vectors' no: BARS
        regularises tables alone. Before clipping, as part of the loss. Then the mini-batch aware
        one, lambda / n_j * w_j on the rows j of the batch."""
        if self.options.embedding_l2 and self.table is not None:
            if self.table.grad is None:
                self.table.grad = torch.zeros_like(self.table)
            self.table.grad.add_(self.table, alpha=self.options.embedding_l2)
        if self._shrinkage is not None and self.table is not None and self.table.grad is not None:
            self._add_shrinkage(self.table, self._shrinkage)

    def _prepare_shrinkage(self) -> None:
        """lambda / n_j of every row, and a note of the rows that each batch reads."""
        if self.row_counts is None or self.table is None:
            raise ValueError("embedding_mba needs row_counts, and a table whose gradient is seen.")
        counts = self.row_counts.to(self.table.device, torch.float64)
        rates = self.options.embedding_mba / counts.clamp(min=1)
        self._shrinkage = rates.masked_fill_(counts == 0, 0.0).to(self.table.dtype)
        self._rows_read: tuple[Tensor, ...] = ()
        if self.sparse is None:  # a row-sparse gradient names its rows itself
            self.storage.register_forward_pre_hook(self._note_rows)

    def _note_rows(self, _: nn.Module, arguments: tuple[Tensor | None, ...]) -> None:
        rows_of_singles_and_bags = arguments[:2]
        self._rows_read = tuple(one for one in rows_of_singles_and_bags if one is not None)

    def _add_shrinkage(self, table: nn.Parameter, shrinkage: Tensor) -> None:
        assert table.grad is not None
        if table.grad.is_sparse:
            rows, sums = sum_duplicates(table.grad)
            sums = sums + table.index_select(0, rows) * shrinkage[rows].unsqueeze(1)
            table.grad = torch.sparse_coo_tensor(
                rows.unsqueeze(0), sums, table.shape, is_coalesced=True, check_invariants=False
            )
            return
        read = torch.zeros_like(shrinkage, dtype=torch.bool)
        for rows in self._rows_read:
            read[rows] = True
        rows = read.nonzero().squeeze(1)
        table.grad.index_add_(0, rows, table[rows] * shrinkage[rows].unsqueeze(1))

    @torch.no_grad()
    def clip(self, max_norm: float | None) -> Tensor:
        """Scale all gradients so that their global norm is at most `max_norm`; return the norm.

        A fused table has no gradient to see: its rows have moved already, unclipped.
        """
        dense = [p.grad for p in self.parameters if p.grad is not None]
        if self.table is not None and self.table.grad is not None:
            gradient = self.table.grad
            if gradient.is_sparse:
                rows, sums = sum_duplicates(gradient)
                self.table.grad = torch.sparse_coo_tensor(
                    rows.unsqueeze(0), sums, gradient.shape, is_coalesced=True,
                    check_invariants=False,
                )  # fmt: skip
                gradient = sums
            dense.append(gradient)
        if not dense:
            return torch.zeros(())
        norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(dense)))
        if max_norm is not None:
            torch._foreach_mul_(dense, (max_norm / (norm + 1e-6)).clamp(max=1.0))
        return norm

    def step(self) -> None:
        """Update everything that the backward pass has not updated already."""
        if self.dense is not None:
            self.dense.step()
        if self.sparse is not None:
            self.sparse.step()

    def zero_grad(self) -> None:
        """Drop all gradients."""
        for parameter in self.parameters:
            parameter.grad = None
        if self.table is not None:
            self.table.grad = None

    def _apart(self) -> list[tuple[str, torch.optim.Optimizer | None]]:
        """The optimisers whose state is saved apart from the tables, by name."""
        sharded = isinstance(self.storage, ShardedStorage)
        return [("dense", self.dense), ("sparse", None if sharded else self.sparse)]

    def state_tensors(self) -> dict[str, Tensor]:
        """State of both optimisers as flat names -> tensors. (The state of a fused or sharded table
        is saved with the table.)"""
        out = {}
        for prefix, optimizer in self._apart():
            if optimizer is not None:
                for index, state in optimizer.state_dict()["state"].items():
                    for key, value in state.items():
                        out[f"{prefix}.{index}.{key}"] = value
        return out

    def load_state_tensors(self, tensors: dict[str, Tensor]) -> None:
        """Inverse of `state_tensors`.

        Raises:
            KeyError: the state belongs to another optimiser or model.
        """
        for prefix, optimizer in self._apart():
            mine = {k: v for k, v in tensors.items() if k.startswith(f"{prefix}.")}
            if optimizer is None:
                if mine:
                    raise KeyError(
                        f"the checkpoint has {prefix} optimiser state, this run has none"
                    )
                continue
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in mine.items():
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value.clone()
            groups = optimizer.state_dict()["param_groups"]
            count = sum(len(group["params"]) for group in groups)
            if state and max(state) >= count:
                raise KeyError(
                    f"the checkpoint's {prefix} optimiser has {max(state) + 1} parameters, "
                    f"this one has {count}"
                )
            optimizer.load_state_dict({"state": state, "param_groups": groups})
