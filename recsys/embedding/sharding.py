"""Sharding: which process holds which part of which table, and why.

TorchRec's planner chooses, from what the memory of every process really is. The first rank plans
and tells the others the plan, or the reason why there is none: a planner that fails on one rank
alone leaves the others waiting for it.

    table_wise    a table lies on one process
    row_wise      the rows of a table are split over all
    column_wise   the columns are
    table_row_wise, table_column_wise   the same within one host, or over some of the processes
    data_parallel every process has the whole table and applies the same update
    auto          the planner chooses among the first three kinds (no data_parallel)

Letters   R rows, W width of a row.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from recsys.embedding.layout import TableRange
from recsys.errors import CheckpointError, ConfigError, SchemaError, did_you_mean

KINDS = ("table_wise", "row_wise", "column_wise", "table_row_wise", "table_column_wise")
SHARDINGS = ("none", "auto", "data_parallel", *KINDS)
SPLIT_COLUMNS = ("column_wise", "table_column_wise")
OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad")
"""What FBGEMM can update inside the backward on every device."""
RESERVED = 0.15
"""Share of a process's memory that the planner leaves to the rest of the model."""

_TOLD: tuple[type[Exception], ...] = (ConfigError, SchemaError, CheckpointError, OSError)

T = TypeVar("T")


@dataclass(frozen=True)
class PlacedTable:
    """Where a table lies; plain values, for people and for checkpoints."""

    table: str
    rows: int
    width: int
    sharding: str
    ranks: tuple[int, ...]
    """Process of each part, in order; all of them for `data_parallel`."""
    parts: tuple[tuple[int, int], ...]
    """Rows and columns of each part."""
    mebibytes: float
    """Weights and optimiser state, over all processes."""


def check_sharding(sharding: str | Mapping[str, str]) -> None:
    """Raise ConfigError for a kind that does not exist."""
    kinds = [sharding] if isinstance(sharding, str) else sharding.values()
    allowed = SHARDINGS if isinstance(sharding, str) else SHARDINGS[1:]
    for kind in kinds:
        if kind not in allowed:
            raise ConfigError(
                f'embedding.sharding "{kind}" does not exist.{did_you_mean(str(kind), allowed)}'
            )


def shards(sharding: str | Mapping[str, str]) -> bool:
    """True where some table may be split or lie on one process only; otherwise every process has
    all of them, as without TorchRec."""
    if isinstance(sharding, str):
        return sharding not in ("none", "data_parallel")
    return True


def check_columns(sharding: str | Mapping[str, str], optimizer: str) -> None:
    """Raise ConfigError where rows are to be cut whose optimiser keeps one number for each."""
    kinds = [sharding] if isinstance(sharding, str) else list(sharding.values())
    cut = [kind for kind in kinds if kind in SPLIT_COLUMNS]
    if cut and optimizer == "rowwise_adagrad":
        raise ConfigError(
            f"embedding.sharding={cut[0]} with optimizer=rowwise_adagrad: it keeps one number per "
            "row, and each part of a row would keep its own, which is another optimiser on every "
            "number of processes. Use row_wise or table_wise, or optimizer=adagrad or sgd."
        )


def kinds_of(
    tables: Sequence[TableRange], sharding: str | Mapping[str, str], optimizer: str
) -> dict[str, tuple[str, ...]]:
    """The kinds that each table may get.

    Args:
        tables: All tables.
        sharding: One kind for all, or table -> kind, where tables that are not named get `auto`.
        optimizer: What updates the rows.

    Raises:
        ConfigError: a table does not exist, or its optimiser cannot be split like that.
    """
    check_columns(sharding, optimizer)
    names = [table.name for table in tables]
    if isinstance(sharding, str):
        sharding = dict.fromkeys(names, sharding)
    for name in sharding:
        if name not in names:
            raise ConfigError(
                f'embedding.sharding names "{name}", which has no table.{did_you_mean(name, names)}'
            )
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        kind = sharding.get(name, "auto")
        automatic: tuple[str, ...] = ("table_wise", "row_wise")
        if optimizer != "rowwise_adagrad":
            automatic += ("column_wise",)
        found[name] = automatic if kind == "auto" else (kind,)
    return found


def free_memory(device: torch.device) -> int:
    """Bytes that this process may fill: its GPU's, or its share of its host's."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    import psutil

    return int(psutil.virtual_memory().available) // local_world_size()


def local_world_size() -> int:
    """Processes on this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def agreed(make: Callable[[], T]) -> T:
    """What the first rank makes, on every rank; or, on every rank, why it could not.

    Raises:
        ConfigError, SchemaError, CheckpointError, OSError: the first rank's, word for word.
        RuntimeError: it failed in another way.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return make()
    box: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            box = [("made", make())]
        except _TOLD as error:
            box = [(next(kind.__name__ for kind in _TOLD if isinstance(error, kind)), str(error))]
        except Exception as error:
            box = [("failed", f"the first process failed: {type(error).__name__}: {error}")]
    dist.broadcast_object_list(box, src=0)
    answer, value = box[0]
    if answer == "made":
        return value
    raise {kind.__name__: kind for kind in _TOLD}.get(answer, RuntimeError)(value)


def smallest_memory(device: torch.device) -> int:
    """Of all processes, the bytes of the one that has least: a plan must fit everywhere."""
    found: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(found, free_memory(device))
    return min(found)


@dataclass(frozen=True)
class Cluster:
    """What the planner needs to know of the machines."""

    world_size: int
    local_world_size: int
    device: str
    """cpu or cuda"""
    memory: int
    """Bytes of each process."""
    intra_host_gbps: float | None = None
    """Gigabytes per second between processes of a host; None: TorchRec's guess."""
    inter_host_gbps: float | None = None
    """The same between hosts."""

    def topology(self) -> Any:
        from torchrec.distributed.planner import Topology

        on_gpu = self.device == "cuda"
        more: dict[str, Any] = {}
        if self.intra_host_gbps is not None:
            more["intra_host_bw"] = self.intra_host_gbps * 1e9 / 1000
        if self.inter_host_gbps is not None:
            more["inter_host_bw"] = self.inter_host_gbps * 1e9 / 1000
        return Topology(
            world_size=self.world_size,
            local_world_size=self.local_world_size,
            compute_device=self.device,
            hbm_cap=self.memory if on_gpu else 0,
            ddr_cap=0 if on_gpu else self.memory,
            **more,
        )


def sharder(fused_params: dict[str, Any] | None = None) -> Any:
    """TorchRec's sharder of bags, which splits rows on a CPU too.

    TorchRec offers row-wise kinds to GPUs alone, though they run on CPUs (tested on gloo), and
    kernels that we do not use (unified memory, SSD), whose names change between versions.
    """
    from torchrec.distributed.embedding_types import EmbeddingComputeKernel
    from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder

    class BagSharder(EmbeddingBagCollectionSharder):
        def sharding_types(self, compute_device_type: str) -> list[str]:
            return list(KINDS)

        def compute_kernels(self, sharding_type: str, compute_device_type: str) -> list[str]:
            return [EmbeddingComputeKernel.FUSED.value]

    return BagSharder(fused_params=fused_params)


def plan_tables(
    module: torch.nn.Module,
    kinds: Mapping[str, Sequence[str]],
    cluster: Cluster,
    batch_rows: int,
    fused_params: dict[str, Any],
) -> Any:
    """TorchRec's plan for the collections of a module, whose tables may lie on the meta device.

    Args:
        module: Holds EmbeddingBagCollections.
        kinds: Table -> the kinds it may get.
        cluster: Processes and their memory.
        batch_rows: Rows of a step of one process.
        fused_params: Names the optimiser, whose state counts.

    Raises:
        ConfigError: it does not fit, with what is needed and what there is.
    """
    from torchrec.distributed.planner import EmbeddingShardingPlanner
    from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
    from torchrec.distributed.planner.types import ParameterConstraints, PlannerError
    from torchrec.distributed.types import BoundsCheckMode

    widths = {config.name: config.embedding_dim for config in _tables(module)}
    constraints = {
        name: ParameterConstraints(
            sharding_types=list(kinds[name]),
            min_partition=_narrowest(width, cluster.world_size),
            # An id outside its table would otherwise silently train row 0.
            bounds_check_mode=BoundsCheckMode.FATAL,
        )
        for name, width in widths.items()
    }
    with _quiet():
        planner = EmbeddingShardingPlanner(
            topology=cluster.topology(),
            batch_size=max(1, batch_rows),
            storage_reservation=FixedPercentageStorageReservation(percentage=RESERVED),
            constraints=constraints,
            debug=False,
        )
        try:
            return planner.plan(module, [sharder(fused_params)])
        except PlannerError as error:
            raise ConfigError(_no_plan(module, kinds, cluster, batch_rows)) from error


def _tables(module: torch.nn.Module) -> list[Any]:
    """Configurations of all tables of the collections that a module holds."""
    collections: list[Any] = list(module.children())
    return [config for one in collections for config in one.embedding_bag_configs()]


def _narrowest(width: int, world_size: int) -> int:
    """Columns of a part where columns are split: a multiple of 4 that divides the width."""
    fit = [n for n in range(4, width, 4) if width % n == 0]
    enough = [n for n in fit if n * world_size >= width]
    return min(enough) if enough else max(fit, default=width)


def _no_plan(
    module: torch.nn.Module, kinds: Mapping[str, Sequence[str]], cluster: Cluster, batch_rows: int
) -> str:
    gib = 2**30
    sizes = {one.name: one.num_embeddings * one.embedding_dim * 4 for one in _tables(module)}
    largest = max(sizes, key=lambda name: sizes[name])
    whole = "" if "row_wise" in kinds[largest] else f" embedding.sharding={{{largest}: row_wise}},"
    return (
        f"no plan fits: the tables need {sum(sizes.values()) / gib:.2f} GiB and their optimiser's "
        f"state, the largest, {largest}, {sizes[largest] / gib:.2f} GiB "
        f"({' or '.join(kinds[largest])}); each of {cluster.world_size} processes has "
        f"{cluster.memory * (1 - RESERVED) / gib:.2f} GiB for them and for a batch of "
        f"{batch_rows:,} rows. Use more processes,{whole} embedding=multiplexed, a smaller "
        "embedding.dim or a higher data.min_count."
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """The planner warns of how it was called and prints its statistics; errors still come."""
    logger = logging.getLogger("torchrec")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
