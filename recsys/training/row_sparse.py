"""Row-sparse optimisers: only the rows of the batch are read, moved and written.

    LazyAdam         two moments per weight; the updates of torch's `SparseAdam`
    RowwiseAdagrad   one number per row; the updates of FBGEMM's EXACT_ROWWISE_ADAGRAD
    Adagrad          one number per weight; the updates of torch's `Adagrad`
    SGD              no state; the updates of torch's `SGD`

All sum duplicate ids without sorting them, which on a CPU makes them faster than torch's and
FBGEMM's own (`tests/benchmarks/bench_embedding.py`).

Source   Kingma and Ba, ICLR 2015, arXiv:1412.6980, Algorithm 1; Duchi et al., JMLR 2011, with the
         accumulator averaged over the row as in FBGEMM.
Differs  LazyAdam: moments of a row decay only when the row is in a batch, and bias correction
         counts all steps, as in `SparseAdam`.
Letters  n ids in the batch, u distinct rows, R table rows, W width.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor


class RowSparseOptimizer(torch.optim.Optimizer):
    """A step over the distinct rows of each row-sparse gradient.

    Args:
        params: Parameters [R, W]; their gradients must be sparse.
        defaults: Settings, `lr` among them.
    """

    def __init__(self, params: Iterable[Tensor], defaults: dict[str, Any]) -> None:
        if defaults["lr"] < 0:
            raise ValueError(f"lr={defaults['lr']}; it must not be negative.")
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                if not weight.grad.is_sparse:
                    name = type(self).__name__
                    raise RuntimeError(f"{name} needs row-sparse gradients; use Adam for others.")
                rows, gradient = sum_duplicates(weight.grad)
                self._update(weight, rows, gradient, group)
        return loss

    @abstractmethod
    def _update(
        self, weight: Tensor, rows: Tensor, gradient: Tensor, group: dict[str, Any]
    ) -> None:
        """Move `weight[rows]`, [u, W], by its summed gradient [u, W]."""


class LazyAdam(RowSparseOptimizer):
    """Adam for parameters whose gradients are row-sparse (`sparse=True` lookups).

    Args:
        params: Parameters [R, W]; their gradients must be sparse.
        lr: Learning rate.
        betas: Decay of the two moments.
        eps: Added to the root of the second moment.

    Against a dense Adam over R rows, a step costs O(n W) instead of O(R W).
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas}; both must be in [0, 1).")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def _update(
        self, weight: Tensor, rows: Tensor, gradient: Tensor, group: dict[str, Any]
    ) -> None:
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros(())
            state["exp_avg"] = torch.zeros_like(weight)
            state["exp_avg_sq"] = torch.zeros_like(weight)
        state["step"] += 1
        step = int(state["step"])
        beta1, beta2 = group["betas"]
        first = state["exp_avg"].index_select(0, rows).lerp_(gradient, 1 - beta1)
        second = state["exp_avg_sq"].index_select(0, rows)
        second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        state["exp_avg"].index_copy_(0, rows, first)
        state["exp_avg_sq"].index_copy_(0, rows, second)
        step_size = group["lr"] * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        update = first.div_(second.sqrt_().add_(group["eps"])).mul_(-step_size)
        weight.index_add_(0, rows, update)


class RowwiseAdagrad(RowSparseOptimizer):
    """Adagrad with one accumulator per row: the mean over the row of its squared gradients.

    Args:
        params: Parameters [R, W]; their gradients must be sparse.
        lr: Learning rate.
        eps: Added to the root of the accumulator.

    State is 1 / W of Adagrad's and 1 / 2W of Adam's.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-2, eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

    def _update(
        self, weight: Tensor, rows: Tensor, gradient: Tensor, group: dict[str, Any]
    ) -> None:
        state = self.state[weight]
        if not state:
            state["sum_of_squares"] = weight.new_zeros(weight.shape[0])
        total = state["sum_of_squares"].index_select(0, rows)
        total += torch.linalg.vecdot(gradient, gradient) / gradient.shape[1]
        state["sum_of_squares"].index_copy_(0, rows, total)
        step_size = total.sqrt_().add_(group["eps"]).reciprocal_().mul_(-group["lr"])
        weight.index_add_(0, rows, gradient * step_size.unsqueeze(1))


class Adagrad(RowSparseOptimizer):
    """Adagrad with one accumulator per weight, read and written for the rows of the batch.

    Args:
        params: Parameters [R, W]; their gradients must be sparse.
        lr: Learning rate.
        eps: Added to the root of the accumulator.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-2, eps: float = 1e-8) -> None:
        super().__init__(params, {"lr": lr, "eps": eps})

    def _update(
        self, weight: Tensor, rows: Tensor, gradient: Tensor, group: dict[str, Any]
    ) -> None:
        state = self.state[weight]
        if not state:
            state["sum_of_squares"] = torch.zeros_like(weight)
        total = state["sum_of_squares"].index_select(0, rows)
        total.addcmul_(gradient, gradient)
        state["sum_of_squares"].index_copy_(0, rows, total)
        update = gradient.div(total.sqrt_().add_(group["eps"])).mul_(-group["lr"])
        weight.index_add_(0, rows, update)


class SGD(RowSparseOptimizer):
    """Gradient descent on the rows of the batch.

    Args:
        params: Parameters [R, W]; their gradients must be sparse.
        lr: Learning rate.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 1e-2) -> None:
        super().__init__(params, {"lr": lr})

    def _update(
        self, weight: Tensor, rows: Tensor, gradient: Tensor, group: dict[str, Any]
    ) -> None:
        weight.index_add_(0, rows, gradient, alpha=-group["lr"])


def sum_duplicates(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct rows of a sparse gradient and the sums of their entries; nothing is sorted.

    Every row elects one of its entries by a scatter (whichever wins, the same row results), winners
    are numbered in the order in which they stand, and all entries are added to their winner's sum.

    Shape:
        gradient  sparse [R, W] with n entries
        return    rows [u] int64, sums [u, W]
    """
    if gradient.is_coalesced():
        return gradient.indices()[0], gradient.values()
    rows, values = gradient._indices()[0], gradient._values()
    position = torch.arange(rows.shape[0], device=rows.device)
    elected = torch.zeros(gradient.shape[0], dtype=torch.int64, device=rows.device)
    # amax rather than a plain scatter: which of several writers wins must not depend on threads.
    elected.scatter_reduce_(0, rows, position, "amax", include_self=True)
    winner = elected.index_select(0, rows)
    wins = winner == position
    number = wins.cumsum(0) - 1
    distinct = rows[wins]
    sums = values.new_zeros(distinct.shape[0], values.shape[1])
    sums.index_add_(0, number.index_select(0, winner), values)
    return distinct, sums
