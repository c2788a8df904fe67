"""Several processes training one model: who we are, and what is summed over all of us.

Dense parts, and tables that are not sharded, are replicated: every rank applies the same update, so
that N processes compute what one does on the same global batches. (Sharded tables exchange ids,
vectors and gradients by themselves, behind the lookup.)

Letters   R table rows, W width, n entries of a row-sparse gradient.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from recsys.embedding.sharding import agreed
from recsys.metrics.task_report import Report

_LOST = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Broken pipe",
    "NCCL",
    "Timed out",
)
"""What gloo and NCCL say when a process they wait for has died."""

T = TypeVar("T")


def restarts() -> int:
    """How often torchrun has started this process again after a failure (`--max-restarts`)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@dataclass(frozen=True)
class Ranks:
    """This process among `world_size` processes.

    Example:
        >>> Ranks().is_first, Ranks(rank=1, world_size=2).is_first
        (True, False)
    """

    rank: int = 0
    world_size: int = 1

    @classmethod
    def join(cls, device: torch.device, needs_group: bool = False) -> Ranks:
        """Join the group that `torchrun` describes in the environment; alone without it.

        Args:
            device: Chooses the backend: NCCL for GPUs, gloo for CPUs.
            needs_group: Alone, too, make a group (of one), which sharded tables want.
        """
        backend = "nccl" if device.type == "cuda" else "gloo"
        if device.type == "cuda":
            torch.cuda.set_device(device)
        if "WORLD_SIZE" not in os.environ:
            if needs_group and not dist.is_initialized():
                alone: Any = dist.HashStore()  # type: ignore[attr-defined]
                dist.init_process_group(backend, store=alone, rank=0, world_size=1)
            return cls()
        if not dist.is_initialized() and restarts():
            # torchrun's store outlives the processes it starts again, and still names the addresses
            # of the first ones: gloo would knock at doors that are gone.
            rendezvous: Any = dist.rendezvous("env://")  # type: ignore[attr-defined]
            store, rank, world_size = next(rendezvous)
            fresh: Any = dist.PrefixStore(f"restart-{restarts()}", store)  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=fresh, rank=rank, world_size=world_size)
        if not dist.is_initialized():
            dist.init_process_group(backend)
        return cls(dist.get_rank(), dist.get_world_size())

    @property
    def is_first(self) -> bool:
        """True for the one process that prints, tracks and saves."""
        return self.rank == 0

    def leave(self) -> None:
        """Leave the group."""
        if dist.is_initialized():
            dist.destroy_process_group()

    def lost_by(self, error: RuntimeError) -> bool:
        """True where an error says that another process is gone, whose own error is the cause."""
        text = str(error)
        return self.world_size > 1 and any(sign in text for sign in _LOST)

    def lost_text(self, error: RuntimeError) -> str:
        """What to tell of such an error."""
        reason = str(error).splitlines()[0][:200]
        return (
            "stopped, because another process did (its own error, or the launcher's report, says "
            f"why). Here: {reason}"
        )

    def wait(self) -> None:
        """Return once every rank is here."""
        if self.world_size > 1:
            dist.barrier()

    def sum(self, value: Tensor) -> Tensor:
        """Sum of a tensor over all ranks."""
        if self.world_size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def any(self, flag: bool, device: torch.device) -> bool:
        """True on every rank when it is true on one."""
        if self.world_size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=device)))

    def share(self, text: str) -> str:
        """The first rank's text, on every rank."""
        if self.world_size == 1:
            return text
        box = [text]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def first(self, make: Callable[[], T]) -> T:
        """What the first rank makes, on every rank.

        Raises:
            ConfigError, SchemaError, CheckpointError, OSError: on every rank, the first one's.
        """
        return make() if self.world_size == 1 else agreed(make)

    def gather(self, value: T) -> list[T]:
        """The value of every rank, on every rank."""
        if self.world_size == 1:
            return [value]
        found: list[Any] = [None for _ in self._all()]
        dist.all_gather_object(found, value)
        return found

    def copy_buffers(self, module: torch.nn.Module) -> None:
        """Give every rank the first one's buffers: batch norm sees another share of the rows on
        each rank, and all must evaluate the one model that is saved."""
        if self.world_size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def sum_gradients(self, parameters: list[torch.nn.Parameter]) -> None:
        """Sum dense gradients over all ranks, in one message; a rank without rows adds zero."""
        if self.world_size == 1 or not parameters:
            return
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        pieces = flat.split([gradient.numel() for gradient in gradients])
        for gradient, piece in zip(gradients, pieces, strict=True):
            gradient.copy_(piece.view_as(gradient))

    def sum_table_gradient(self, table: torch.nn.Parameter, sparse: bool) -> None:
        """Sum the gradient of a replicated table: all entries reach every rank, in rank order."""
        if self.world_size == 1:
            return
        if not sparse:
            self.sum_gradients([table])
            return
        gradient = table.grad
        if gradient is None:
            rows = torch.zeros(0, dtype=torch.int64, device=table.device)
            values = table.detach().new_zeros(0, table.shape[1])
        else:
            rows, values = gradient._indices()[0], gradient._values()
        counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in self._all()]
        dist.all_gather(counts, torch.tensor([rows.shape[0]], device=rows.device))
        longest = max(int(count) for count in counts)
        all_rows = self._gather_padded(rows, longest)
        all_values = self._gather_padded(values, longest)
        rows = torch.cat([r[: int(c)] for r, c in zip(all_rows, counts, strict=True)])
        values = torch.cat([v[: int(c)] for v, c in zip(all_values, counts, strict=True)])
        table.grad = torch.sparse_coo_tensor(
            rows.unsqueeze(0), values, table.shape, check_invariants=False
        )

    def merge_reports(self, report: Report) -> Report:
        """The rows of every rank's report in one, on every rank; metrics are then exact."""
        if self.world_size == 1:
            return report
        parts: list[dict[str, Tensor]] = [{} for _ in self._all()]
        dist.all_gather_object(parts, report.tensors())
        merged: Report = report.with_rows(parts[0])
        for part in parts[1:]:
            merged.merge(report.with_rows(part))
        return merged

    def _all(self) -> range:
        return range(self.world_size)

    def _gather_padded(self, tensor: Tensor, length: int) -> list[Tensor]:
        padded = tensor.new_zeros(length, *tensor.shape[1:])
        padded[: tensor.shape[0]] = tensor
        out = [torch.empty_like(padded) for _ in self._all()]
        dist.all_gather(out, padded)
        return out
