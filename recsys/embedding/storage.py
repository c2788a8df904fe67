"""Storage: the matrix of vectors, and how it is looked up and updated.

Every storage answers the same call, whatever updates its rows:

    DenseStorage   a parameter with a dense gradient      any torch optimiser, dense L2
    SparseStorage  a parameter with a row-sparse gradient  LazyAdam
    FusedStorage   FBGEMM's table, updated inside the backward: SGD, Adagrad, row-wise Adagrad

On a CPU FBGEMM's unpooled kernel is an order of magnitude slower than its pooled kernel given bags
of one id, so the fused storage always uses the pooled one.

Letters   R rows, W width, n single rows, m rows in bags, b bags.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.environment import require_compatible_versions
from recsys.errors import ConfigError, did_you_mean

FUSED_OPTIMIZERS = ("sgd", "adagrad", "rowwise_adagrad")


class Storage(nn.Module, ABC):
    """A matrix [R, W] whose row 0 is padding: always zero, never trained."""

    num_rows: int
    width: int
    format: str = "float32"
    """How its numbers are kept; another one only where nothing trains (`compact_rows`)."""

    @abstractmethod
    def forward(
        self,
        rows: Tensor,
        bag_rows: Tensor | None = None,
        bag_offsets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Look up single rows, and sums over bags of rows, in one pass.

        Args:
            rows: [n] int64 rows, none of them padding.
            bag_rows: [m] int64 rows of all bags, end to end; no padding among them.
            bag_offsets: [b + 1] int64 starts of the bags.

        Returns:
            Vectors [n, W], and bag sums [b, W] (None without bags).
        """

    @abstractmethod
    def table(self) -> Tensor:
        """The weights [R, W], detached: reading and writing in place is allowed."""

    def weights(self) -> dict[str, Tensor]:
        """What is read, by name, each [R, ...]: views, which may be written to."""
        return {"weight": self.table()}

    @property
    def device(self) -> torch.device:
        """Where rows are looked up."""
        return self.table().device

    @property
    def num_weights(self) -> int:
        """R * W."""
        return self.num_rows * self.width

    def local_part(self) -> Storage | None:
        """The rows that every process has whole: all, unless the tables are sharded."""
        return self

    def optimizer_state(self) -> dict[str, Tensor]:
        """State of the fused optimiser, by name, each [R, ...]; empty when an optimiser owns it."""
        return {}

    def set_learning_rate(self, lr: float) -> None:
        """Change the fused optimiser's rate; nothing to do when an optimiser owns the rows."""

    @torch.no_grad()
    def initialize(self, std: float) -> None:
        """Draw N(0, std^2) by torch's global generator, and zero the padding row.

        By width, never by height: FBGEMM's own default, U(+-sqrt(1/R)), starts large tables at 0.
        """
        self.table().normal_(0.0, std)
        self.table()[0] = 0.0


class DenseStorage(Storage):
    """Weights as one parameter; the gradient is dense (or row-sparse in `SparseStorage`)."""

    sparse_gradient: ClassVar[bool] = False

    def __init__(self, num_rows: int, width: int, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.num_rows, self.width = num_rows, width
        self.weight = nn.Parameter(torch.zeros(num_rows, width, device=device))

    def forward(
        self,
        rows: Tensor,
        bag_rows: Tensor | None = None,
        bag_offsets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        vectors = F.embedding(rows, self.weight, padding_idx=0, sparse=self.sparse_gradient)
        if bag_rows is None or bag_offsets is None:
            return vectors, None
        bags = F.embedding_bag(
            bag_rows,
            self.weight,
            bag_offsets,
            mode="sum",
            include_last_offset=True,
            sparse=self.sparse_gradient,
        )
        return vectors, bags

    def table(self) -> Tensor:
        return self.weight.detach()


class SparseStorage(DenseStorage):
    """As `DenseStorage`, with a gradient that holds only the rows of the batch."""

    sparse_gradient = True


def physical_width(width: int) -> int:
    """Columns that FBGEMM gives a row: the next multiple of 4."""
    return -(-width // 4) * 4


def rowwise_scale(width: int) -> float:
    """What makes FBGEMM's row-wise Adagrad that of the columns there are: it takes its mean over
    the physical width, so that the root of the state is smaller by sqrt(W / V); a learning rate and
    an epsilon that are smaller by as much undo it.

    Example:
        >>> rowwise_scale(16), rowwise_scale(1)
        (1.0, 0.5)
    """
    return math.sqrt(width / physical_width(width))


class FusedStorage(Storage):
    """FBGEMM's table: gradient and optimiser step are one kernel, run inside `backward()`.

    Args:
        num_rows: R, the padding row included.
        width: W; the physical width is the next multiple of 4, FBGEMM's granule.
        optimizer: One of `FUSED_OPTIMIZERS`.
        lr: Learning rate.
        eps: Adagrad's epsilon.
        device: Where the table lives.

    The state starts undefined in FBGEMM when no optimiser is named (it silently trains with
    SGD 0.01); here one must be named.
    """

    def __init__(
        self,
        num_rows: int,
        width: int,
        *,
        optimizer: str,
        lr: float,
        eps: float = 1e-8,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__()
        if optimizer not in FUSED_OPTIMIZERS:
            raise ConfigError(
                f'the fused embedding optimiser "{optimizer}" does not exist on every device.'
                f"{did_you_mean(optimizer, FUSED_OPTIMIZERS)}"
            )
        # A mismatched build dies in its import with an undefined symbol; say what is wrong first.
        require_compatible_versions()
        from fbgemm_gpu.split_embedding_configs import EmbOptimType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
            ComputeDevice,
            PoolingMode,
            SplitTableBatchedEmbeddingBagsCodegen,
        )

        kinds = {
            "sgd": EmbOptimType.EXACT_SGD,
            "adagrad": EmbOptimType.EXACT_ADAGRAD,
            "rowwise_adagrad": EmbOptimType.EXACT_ROWWISE_ADAGRAD,
        }
        on_gpu = torch.device(device).type == "cuda"
        self.num_rows, self.width = num_rows, width
        self.optimizer = optimizer
        self.physical_width = physical_width(width)
        self._scale = rowwise_scale(width) if optimizer == "rowwise_adagrad" else 1.0
        self.kernel = SplitTableBatchedEmbeddingBagsCodegen(
            [
                (
                    num_rows,
                    self.physical_width,
                    EmbeddingLocation.DEVICE if on_gpu else EmbeddingLocation.HOST,
                    ComputeDevice.CUDA if on_gpu else ComputeDevice.CPU,
                )
            ],
            optimizer=kinds[optimizer],
            learning_rate=lr * self._scale,
            eps=eps * self._scale,
            pooling_mode=PoolingMode.SUM,
            device=torch.device(device),
        )

    def forward(
        self,
        rows: Tensor,
        bag_rows: Tensor | None = None,
        bag_offsets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        num_singles = rows.shape[0]
        offsets = torch.arange(num_singles + 1, device=rows.device)
        if bag_rows is not None and bag_offsets is not None:
            offsets = torch.cat([offsets, bag_offsets[1:] + rows.shape[0]])
            rows = torch.cat([rows, bag_rows])
        vectors = self.kernel(rows, offsets)[:, : self.width]
        if bag_offsets is None:
            return vectors, None
        return vectors[:num_singles], vectors[num_singles:]

    def table(self) -> Tensor:
        (weight,) = self.kernel.split_embedding_weights()
        return weight.detach()[:, : self.width]

    def optimizer_state(self) -> dict[str, Tensor]:
        if self.optimizer == "sgd":
            return {}
        (state,) = self.kernel.split_optimizer_states()
        momentum = state[0]
        if self.optimizer == "adagrad":
            momentum = momentum.view(self.num_rows, -1)[:, : self.width]
        return {"sum_of_squares": momentum}

    def set_learning_rate(self, lr: float) -> None:
        self.kernel.set_learning_rate(lr * self._scale)

    def initialize(self, std: float) -> None:
        (weight,) = self.kernel.split_embedding_weights()
        weight.detach().zero_()  # the columns beyond `width` stay zero
        super().initialize(std)
