"""Sharded storage: tables behind TorchRec collections, parts of them on every process.

Ids are always presented as bags of one id (lists as bags of all theirs): on a CPU FBGEMM's unpooled
kernel is twenty times slower. A table that no sequence reads is a feature per lookup, all with as
many bags as there are rows. A table that sequences read has ONE feature, whose bags are the single
ids, the lists and the events end to end, so that no event is padded. Both kinds are a collection of
their own, since all features of a collection have equally many bags.

On all processes a collection must get equally many bags (gloo's all-gather wants equal shapes, and
a process may have no row at all): short ones get empty bags, which are zero vectors.

Letters   B rows, L lookups, P events, b bags, R rows of a table, W width, V physical width: the
          next multiple of 4, FBGEMM's granule.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from recsys.embedding.layout import TableRange, mix64
from recsys.embedding.sharding import (
    OPTIMIZERS,
    Cluster,
    PlacedTable,
    agreed,
    kinds_of,
    local_world_size,
    plan_tables,
    sharder,
    smallest_memory,
)
from recsys.embedding.storage import SparseStorage, Storage, physical_width, rowwise_scale
from recsys.environment import require_compatible_versions
from recsys.errors import ConfigError

BLOCK_ROWS = 65_536
"""Rows initialised at a time."""
_TWO_53 = float(2**53)
_OTHER = 0x2545F4914F6CDD1D
"""Sets the second draw of a weight apart from its first."""


@dataclass(frozen=True)
class Sharding:
    """How to make a sharded storage: `(num_rows, width) -> Storage`, as every lookup asks for.

    Args:
        kind: One of `SHARDINGS` for all tables, or table -> kind.
        optimizer: One of sgd, adagrad, rowwise_adagrad.
        lr: Learning rate of the tables.
        eps: Adagrad's epsilon.
        device: Of this process.
        batch_rows: Rows of a step of one process, for the planner.

    Raises:
        ConfigError: the optimiser keeps a state that cannot be split.
    """

    kind: str | Mapping[str, str]
    optimizer: str
    lr: float
    eps: float
    device: torch.device
    batch_rows: int

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(
                f"embedding.sharding={self.kind} with optimizer={self.optimizer}: it moves rows "
                "after the backward pass, and sharded tables are updated inside it. Use "
                f"optimizer={', '.join(OPTIMIZERS[:-1])} or {OPTIMIZERS[-1]}, or replicate the "
                "tables with embedding.sharding=data_parallel."
            )

    def __call__(self, num_rows: int, width: int) -> ShardedStorage:
        return ShardedStorage(num_rows, width, self)


@dataclass
class _Reads:
    """Which lookups read a table: columns of the single ids, and numbers of lists and sequences."""

    columns: list[int] = field(default_factory=list)
    lists: list[int] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)


class ShardedStorage(Storage):
    """A matrix [R, W] of which each process holds parts; row 0, the padding, is held by none.

    Made by `Sharding`; useless before `arrange` has told it whose rows are whose.
    """

    def __init__(self, num_rows: int, width: int, sharding: Sharding) -> None:
        super().__init__()
        require_compatible_versions()
        if not dist.is_initialized():
            raise RuntimeError("a sharded storage needs a process group; see Ranks.join.")
        self.num_rows, self.width = num_rows, width
        self.physical_width = physical_width(width)
        # Rates and epsilons of whatever updates rows of the physical width.
        by_row = sharding.optimizer == "rowwise_adagrad"
        self.rate_scale = rowwise_scale(width) if by_row else 1.0
        self.sharding = sharding
        self.world_size = dist.get_world_size()
        self.replicated: SparseStorage | None = None
        self.replicated_state: dict[str, Tensor] = {}
        """State that an optimiser outside keeps for the replicated rows, name -> [rows, ...]."""
        self.placement: tuple[PlacedTable, ...] = ()
        self._collections: dict[str, Any] = {}

    # -- who holds what ----------------------------------------------------------------------

    def arrange(
        self,
        tables: Sequence[TableRange],
        columns: Sequence[str],
        lists: Sequence[str],
        sequences: Sequence[str],
    ) -> None:
        """Plan and allocate.

        Args:
            tables: All tables of the storage.
            columns: Table of each column of single ids, [L].
            lists: Table of each pooled list.
            sequences: Table of each sequence.

        Raises:
            ConfigError: no plan fits; the same on every process.
        """
        self.tables = {table.name: table for table in tables}
        # Names of modules have no dots; names of columns may.
        self._module = {name: name.replace(".", "\u00b7") for name in self.tables}
        self._table = {inner: name for name, inner in self._module.items()}
        kinds = kinds_of(tables, self.sharding.kind, self.sharding.optimizer)
        reads = {table.name: _Reads() for table in tables}
        for found, names in (("columns", columns), ("lists", lists), ("sequences", sequences)):
            for number, name in enumerate(names):
                getattr(reads[name], found).append(number)
        self._reads = reads
        whole = [name for name in self.tables if kinds[name] == ("data_parallel",)]
        split = [name for name in self.tables if name not in whole]
        self._by_row = [name for name in split if not reads[name].sequences]
        self._by_event = [name for name in split if reads[name].sequences]
        self._replicate(whole)
        _leave_unsaid()
        _forget_groups_that_are_gone()
        # TorchRec draws weights of its own; what is drawn after them must not depend on the plan.
        device = self.sharding.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            self._shard(kinds)
        self._prepare_reading(len(columns))

    def _replicate(self, names: Sequence[str]) -> None:
        """One small matrix on every process for the tables that are not split; row 0 is padding."""
        self._shift: dict[str, int] = {}
        rows = 1
        for name in names:
            self._shift[name] = rows - self.tables[name].start
            rows += self.tables[name].rows
        if names:
            self.replicated = SparseStorage(rows, self.physical_width, self.sharding.device)

    def _shard(self, kinds: Mapping[str, Sequence[str]]) -> None:
        from torchrec.distributed.types import ShardingEnv

        meta = nn.Module()
        for label, names in (("rows", self._by_row), ("events", self._by_event)):
            if names:
                meta.add_module(label, self._collection(names))
        plans: Any = {}
        device, params = self.sharding.device, self._fused_params()
        if self._by_row or self._by_event:
            memory = smallest_memory(device)
            if self.replicated is not None:  # weights, and at most as much state again
                memory -= 2 * self.replicated.weight.nbytes
            cluster = Cluster(self.world_size, local_world_size(), device.type, memory)
            rows = self.sharding.batch_rows
            inner = {self._module[name]: found for name, found in kinds.items()}
            plans = agreed(lambda: plan_tables(meta, inner, cluster, rows, params)).plan
        env = ShardingEnv.from_process_group(dist.group.WORLD)
        for label, collection in meta.named_children():
            sharded = sharder(params).shard(collection, plans[label], env, device)
            self._collections[label] = sharded
            self.add_module(label, sharded)
        self.placement = tuple(self._placed(plans))

    def _collection(self, names: Sequence[str]) -> nn.Module:
        from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
        from torchrec.modules.embedding_modules import EmbeddingBagCollection

        return EmbeddingBagCollection(
            tables=[
                EmbeddingBagConfig(
                    name=self._module[name],
                    num_embeddings=self.tables[name].rows,
                    embedding_dim=self.physical_width,
                    feature_names=self._features(name),
                    pooling=PoolingType.SUM,
                )
                for name in names
            ],
            device=torch.device("meta"),
        )

    def _features(self, name: str) -> list[str]:
        """Features of a table, in the order in which its bags are laid out."""
        reads = self._reads[name]
        if reads.sequences:
            return [name]
        found = [f"{name}/column{i}" for i in reads.columns]
        return [*found, *(f"{name}/list{i}" for i in reads.lists)]

    def _fused_params(self) -> dict[str, Any]:
        from fbgemm_gpu.split_embedding_configs import EmbOptimType

        kinds = {
            "sgd": EmbOptimType.EXACT_SGD,
            "adagrad": EmbOptimType.EXACT_ADAGRAD,
            "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        }
        found = {
            "optimizer": kinds[self.sharding.optimizer],
            "learning_rate": self.sharding.lr * self.rate_scale,
        }
        eps = self.sharding.eps * self.rate_scale
        return found if self.sharding.optimizer == "sgd" else {**found, "eps": eps}

    def _placed(self, plans: Any) -> Iterator[PlacedTable]:
        """The plan as plain values, in the order of the tables."""
        found = {
            self._table[inner]: one
            for label in self._collections
            for inner, one in dict(plans[label]).items()
        }
        per_row = {"sgd": 0, "adagrad": self.physical_width, "rowwise_adagrad": 1}
        for name, table in self.tables.items():
            floats = table.rows * (self.physical_width + per_row[self.sharding.optimizer])
            if name not in found:
                every, kind = tuple(range(self.world_size)), "data_parallel"
                parts = ((table.rows, self.physical_width),) * self.world_size
                floats *= self.world_size
            else:
                spec = found[name].sharding_spec.shards
                every = tuple(shard.placement.rank() for shard in spec)
                kind = found[name].sharding_type
                parts = tuple((int(s.shard_sizes[0]), int(s.shard_sizes[1])) for s in spec)
            yield PlacedTable(name, table.rows, self.width, kind, every, parts, floats * 4 / 2**20)

    # -- reading -----------------------------------------------------------------------------

    def _prepare_reading(self, num_columns: int) -> None:
        """Where each column, list and sequence comes out, so that a batch costs few operations."""
        device, reads = self.sharding.device, self._reads
        self._num_columns = num_columns
        by_row = [(name, i) for name in self._by_row for i in reads[name].columns]
        self._row_columns = torch.tensor([i for _, i in by_row], device=device)
        starts = [self.tables[name].start for name, _ in by_row]
        self._row_starts = torch.tensor(starts, device=device).unsqueeze(1)
        self._row_lists = [(name, i) for name in self._by_row for i in reads[name].lists]
        # Features stand column by column, then list by list: values are then cut only once.
        self._row_keys = [f"{name}/column{i}" for name, i in by_row]
        self._row_keys += [f"{name}/list{i}" for name, i in self._row_lists]
        self._slot_of_key: dict[str, list[int]] = {}

    def read(
        self, rows: Tensor, lists: Sequence[tuple[Tensor, Tensor]], sequences: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor], Tensor | None]:
        """Vectors of rows of the storage; a collective: every process must call it equally often.

        Args:
            rows: [B, L] int64 rows, one column per entry of `columns`; 0 is padding.
            lists: Rows [m] int64 and offsets [B + 1] of each pooled list.
            sequences: Rows [P] int64 of each sequence.

        Returns:
            Vectors [B, L, W], vectors [P, W] of each sequence, sums [B, lists, W] (None without).
        """
        single: dict[int, Tensor] = {}
        pooled: dict[int, Tensor] = {}
        events: dict[int, Tensor] = {}
        if self._by_row:
            out = self._read_rows(rows, lists)
            if len(self._row_columns) == self._num_columns and not lists:
                return out[..., : self.width], [], None
            for slot, column in enumerate(self._row_columns.tolist()):
                single[column] = out[:, slot]
            for slot, (_, number) in enumerate(self._row_lists, start=len(self._row_columns)):
                pooled[number] = out[:, slot]
        if self._by_event:
            self._read_events(rows, lists, sequences, single, pooled, events)
        if self.replicated is not None:
            self._read_replicated(rows, lists, sequences, single, pooled, events)
        width = self.width
        if self._num_columns:
            found = torch.stack([single[i] for i in range(self._num_columns)], 1)[..., :width]
        else:
            found = torch.zeros(rows.shape[0], 0, width, device=rows.device)
        sums = None
        if lists:
            sums = torch.stack([pooled[i] for i in range(len(lists))], 1)[..., :width]
        return found, [events[i][:, :width] for i in range(len(sequences))], sums

    def forward(
        self,
        rows: Tensor,
        bag_rows: Tensor | None = None,
        bag_offsets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        raise NotImplementedError("a sharded storage is read column by column: `read`.")

    def _read_rows(self, rows: Tensor, lists: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
        """[B, columns + lists, V] of the tables without sequences, in the order of `_row_keys`."""
        count = rows.shape[0]
        bags = self._most(count)
        codes = rows.t().index_select(0, self._row_columns)
        there = codes != 0
        values = [(codes - self._row_starts)[there]]
        lengths = torch.zeros(len(self._row_keys), bags, dtype=torch.int64, device=rows.device)
        lengths[: len(codes), :count] = there
        for slot, (name, number) in enumerate(self._row_lists, start=len(codes)):
            list_rows, lengths[slot, :count] = without_padding(*lists[number])
            values.append(list_rows - self.tables[name].start)
        out = self._look_up("rows", self._row_keys, torch.cat(values), lengths.view(-1))
        slots = self._slot_of_key.get("rows")
        if slots is None:
            keys = list(out.keys())
            slots = self._slot_of_key["rows"] = [keys.index(key) for key in self._row_keys]
        vectors = self._scaled(out.values()).view(bags, len(slots), self.physical_width)[:count]
        if slots != list(range(len(slots))):
            vectors = vectors.index_select(1, torch.tensor(slots, device=rows.device))
        return vectors

    def _read_events(
        self,
        rows: Tensor,
        lists: Sequence[tuple[Tensor, Tensor]],
        sequences: Sequence[Tensor],
        single: dict[int, Tensor],
        pooled: dict[int, Tensor],
        events: dict[int, Tensor],
    ) -> None:
        """Fill in what the tables with sequences give."""
        count = rows.shape[0]
        values, lengths, cuts = [], [], []
        for name in self._by_event:
            reads, start = self._reads[name], self.tables[name].start
            parts = [rows[:, i] for i in reads.columns]
            found = [part[part != 0] - start for part in parts]
            sizes = [(part != 0).long() for part in parts]
            for i in reads.lists:
                list_rows, size = without_padding(*lists[i])
                found.append(list_rows - start)
                sizes.append(size)
            for i in reads.sequences:
                there = sequences[i] != 0
                found.append(sequences[i][there] - start)
                sizes.append(there.long())
            values += found
            lengths.append(torch.cat(sizes))
            cuts.append([len(size) for size in sizes])
        bags = self._most(max(len(size) for size in lengths))
        padded = torch.stack([nn.functional.pad(one, (0, bags - len(one))) for one in lengths])
        out = self._look_up("events", self._by_event, torch.cat(values), padded.view(-1))
        vectors = self._scaled(out.values()).view(bags, len(self._by_event), self.physical_width)
        keys = list(out.keys())
        for name, cut in zip(self._by_event, cuts, strict=True):
            pieces = vectors[: sum(cut), keys.index(name)].split(cut)
            reads = self._reads[name]
            single.update(zip(reads.columns, pieces, strict=False))
            at = len(reads.columns)
            pooled.update(zip(reads.lists, pieces[at:], strict=False))
            at += len(reads.lists)
            events.update(zip(reads.sequences, pieces[at:], strict=True))
        assert all(len(one) == count for one in single.values())

    def _read_replicated(
        self,
        rows: Tensor,
        lists: Sequence[tuple[Tensor, Tensor]],
        sequences: Sequence[Tensor],
        single: dict[int, Tensor],
        pooled: dict[int, Tensor],
        events: dict[int, Tensor],
    ) -> None:
        """Fill in what the replicated tables give."""
        assert self.replicated is not None

        def shifted(found: Tensor, name: str) -> Tensor:
            return torch.where(found == 0, 0, found + self._shift[name])

        for name in self._shift:
            reads = self._reads[name]
            for i in reads.columns:
                single[i] = self.replicated(shifted(rows[:, i], name))[0]
            for i in reads.sequences:
                events[i] = self.replicated(shifted(sequences[i], name))[0]
            for i in reads.lists:
                none = rows.new_zeros(0)
                found = shifted(lists[i][0], name)
                sums = self.replicated(none, found, lists[i][1])[1]
                assert sums is not None
                pooled[i] = sums

    def _most(self, bags: int) -> int:
        """The most bags that a process has."""
        if self.world_size == 1:
            return bags
        most = torch.tensor(bags, device=self.sharding.device)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        return int(most)

    def _look_up(self, label: str, keys: list[str], values: Tensor, lengths: Tensor) -> Any:
        from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

        stride = lengths.shape[0] // len(keys)
        features = KeyedJaggedTensor(keys=keys, values=values, lengths=lengths, stride=stride)
        return self._collections[label](features)

    def _scaled(self, vectors: Tensor) -> Tensor:
        """TorchRec divides gradients by the number of processes, as a mean over them wants; our
        losses are shares of a sum."""
        if self.world_size == 1 or not vectors.requires_grad:
            return vectors
        return _ScaleGradient.apply(vectors, float(self.world_size))

    # -- weights and state -------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        return self.sharding.device

    def table(self) -> Tensor:
        raise NotImplementedError("no process holds a sharded table; see `parts` or a checkpoint.")

    def parts(self) -> dict[str, Any]:
        """Weights and optimiser state by table, `<table>.weight` and `<table>.<state>`: a sharded
        tensor [R, V] or [R], or a plain one of a replicated table. Writing in place is allowed."""
        found: dict[str, Any] = {}
        for sharded in self._collections.values():
            for key, value in sharded.state_dict().items():
                found[f"{self._table[key.split('.')[1]]}.weight"] = value
            for states in sharded.fused_optimizer.state_dict()["state"].values():
                for key, value in states.items():
                    inner, _, name = key.rpartition(".")
                    if name == "momentum1":
                        found[f"{self._table[inner]}.sum_of_squares"] = value
        if self.replicated is not None:
            for name in self._shift:
                first, count = self.tables[name].start + self._shift[name], self.tables[name].rows
                found[f"{name}.weight"] = self.replicated.table()[first : first + count]
                for key, state in self.replicated_state.items():
                    found[f"{name}.{key}"] = state[first : first + count]
        return found

    @torch.no_grad()
    def local_parts(self) -> Iterator[tuple[str, Tensor, tuple[int, ...]]]:
        """Name, tensor and first indices of every part on this process."""
        for name, value in self.parts().items():
            if isinstance(value, Tensor) and not hasattr(value, "local_shards"):
                yield name, value, (0,) * value.ndim
                continue
            for shard in value.local_shards():
                yield name, shard.tensor.detach(), tuple(shard.metadata.shard_offsets)

    @torch.no_grad()
    def initialize(self, std: float) -> None:
        """As every storage, N(0, std^2) by width; each weight is a function of the seed and its
        place in the table, so that a table starts the same however it is split."""
        key = int(torch.randint(2**62, ()))
        for name, part, first in self.local_parts():
            table, _, what = name.rpartition(".")
            part.zero_()
            if what != "weight":
                continue
            columns = torch.arange(part.shape[1], device=part.device) + first[1]
            start = self.tables[table].start + first[0]
            for at in range(0, len(part), BLOCK_ROWS):
                block = part[at : at + BLOCK_ROWS]
                rows = torch.arange(len(block), device=part.device) + start + at
                block.copy_(normal_at(rows, columns, key) * std * (columns < self.width))

    @torch.no_grad()
    def fill(self, tensors: Mapping[str, Tensor]) -> None:
        """Take whole tables from this process's memory: each part copies its own.

        Args:
            tensors: As `parts` names them; [R, W] or [R]. What is missing stays.

        Raises:
            ValueError: a table has other rows or another width.
        """
        for name, part, first in self.local_parts():
            whole = tensors.get(name)
            if whole is None:
                continue
            rows = self.tables[name.rpartition(".")[0]].rows
            wanted = (rows, self.width) if part.ndim == 2 else (rows,)
            if tuple(whole.shape) != wanted:
                raise ValueError(f"table {name} is {list(whole.shape)}, not {list(wanted)}")
            taken = whole[first[0] : first[0] + part.shape[0]]
            if part.ndim == 2:
                taken = taken[:, first[1] : first[1] + part.shape[1]]
                part[:, : taken.shape[1]] = taken
            else:
                part.copy_(taken)

    def set_learning_rate(self, lr: float) -> None:
        for sharded in self._collections.values():
            for group in sharded.fused_optimizer.param_groups:
                group["lr"] = lr * self.rate_scale
            sharded.fused_optimizer.step()  # moves nothing: it hands the rate to the kernels

    def local_part(self) -> Storage | None:
        return self.replicated

    def extra_repr(self) -> str:
        return f"rows={self.num_rows:,}, width={self.width}, processes={self.world_size}"


def _leave_unsaid() -> None:
    """Notices of libraries about each other, on every process, which no reader can act on."""
    logging.getLogger("torch.fx._symbolic_trace").setLevel(logging.ERROR)
    names = "reduce_scatter_tensor|all_gather_into_tensor"
    warnings.filterwarnings("ignore", f".*({names}). is deprecated", FutureWarning)


def _forget_groups_that_are_gone() -> None:
    """TorchRec keeps the groups of a host for good; of a group that was left they would hang."""
    from torchrec.distributed import comm

    if comm._INTRA_PG is not None and comm._INTRA_PG not in dist.distributed_c10d._world.pg_map:
        comm._INTRA_PG = comm._CROSS_PG = None


class _ScaleGradient(torch.autograd.Function):
    """The identity, whose gradient is multiplied by a number."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return vectors.view_as(vectors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def without_padding(rows: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Lists without row 0, which no process holds, and their lengths.

    Shape:
        rows, offsets  [m], [B + 1]
        return         [at most m], [B]

    Example:
        >>> without_padding(torch.tensor([3, 0, 4]), torch.tensor([0, 2, 2, 3]))
        (tensor([3, 4]), tensor([1, 0, 1]))
    """
    there = rows != 0
    before = nn.functional.pad(there.cumsum(0), (1, 0))
    return rows[there], before[offsets].diff()


def normal_at(rows: Tensor, columns: Tensor, key: int) -> Tensor:
    """Standard normal numbers that depend on their place and a key alone (Box-Muller over mixed
    counters).

    Shape:
        rows     [n] int64
        columns  [W] int64, below 2^20
        return   [n, W] float32

    Example:
        >>> whole = normal_at(torch.arange(4), torch.arange(3), key=1)
        >>> torch.equal(whole[2:, 1:], normal_at(torch.arange(2, 4), torch.arange(1, 3), key=1))
        True
    """
    first = mix64(mix64((rows.unsqueeze(1) << 20) + columns) ^ key)
    uniform = ((first >> 11) & (2**53 - 1)).double().add_(0.5).div_(_TWO_53)
    angle = ((mix64(first ^ _OTHER) >> 11) & (2**53 - 1)).double().mul_(2 * torch.pi / _TWO_53)
    return uniform.log_().mul_(-2.0).sqrt_().mul_(angle.cos_()).float()
