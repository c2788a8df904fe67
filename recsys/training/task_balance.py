"""How the losses of several labels become one.

Source   Uncertainty: Kendall et al., CVPR 2018, arXiv:1705.07115, Sec. 3.2, for classification.
         DWA: Liu et al., CVPR 2019, arXiv:1803.10704, Sec. 3.3.
Letters  K labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from recsys.errors import ConfigError, did_you_mean

BALANCES = ("fixed", "uncertainty", "dwa")
DWA_TEMPERATURE = 2.0


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """What `tasks` of a configuration holds."""

    balance: str = "fixed"
    weights: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.balance not in BALANCES:
            raise ConfigError(
                f'tasks.balance="{self.balance}" does not exist.'
                f"{did_you_mean(self.balance, BALANCES)}"
            )
        for name, weight in self.weights.items():
            if not isinstance(weight, int | float) or not 0 <= weight < float("inf"):
                raise ConfigError(f"tasks.weights.{name}={weight}; it must be a number >= 0.")


class TaskBalance(nn.Module):
    """The sum of K losses, each with a weight that stays, is learnt, or follows their pace.

        fixed        sum_k w_k L_k
        uncertainty  sum_k w_k exp(-s_k) L_k + s_k / 2, s learnt with the model
        dwa          sum_k w_k c_k L_k, c = K softmax(r / 2), r_k = L_k(last epoch) / L_k(the one
                     before): labels whose loss falls slowest count most; 1 in the first two epochs

    Args:
        names: Labels.
        options: Balance, and weights of labels that have another than 1.

    Raises:
        ConfigError: a weight is of no label, or all are 0.

    Example:
        >>> balance = TaskBalance(("click", "like"), TaskOptions(weights={"like": 3.0}))
        >>> balance(torch.tensor([1.0, 2.0]), share=1.0)
        tensor(7.)
    """

    weights: Tensor
    epoch_sum: Tensor
    epoch_steps: Tensor
    before: Tensor

    def __init__(self, names: Sequence[str], options: TaskOptions) -> None:
        super().__init__()
        for name in options.weights:
            if name not in names:
                raise ConfigError(
                    f"tasks.weights.{name} is of no label.{did_you_mean(name, tuple(names))}"
                )
        weights = torch.tensor([float(options.weights.get(name, 1.0)) for name in names])
        if not weights.any():
            raise ConfigError(f"tasks.weights={dict(options.weights)} leave no label to learn.")
        self.kind = options.balance
        self.register_buffer("weights", weights)
        # Of DWA: sums over this epoch's steps; means of the two epochs before, the older first.
        self.register_buffer("epoch_sum", torch.zeros(len(names), dtype=torch.float64))
        self.register_buffer("epoch_steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("before", torch.full((2, len(names)), torch.nan, dtype=torch.float64))
        self.log_variance: nn.Parameter | None = None
        if options.balance == "uncertainty":
            self.log_variance = nn.Parameter(torch.zeros(len(names)))

    def forward(self, losses: Tensor, share: float) -> Tensor:
        """One loss of K.

        Args:
            losses: [K] of a part of a batch.
            share: Of the batch that this part is: what does not depend on rows counts once.
        """
        total = (self.current() * losses).sum()
        if self.log_variance is not None:
            total = total + share * self.log_variance.sum() / 2
        return total

    def current(self) -> Tensor:
        """What each loss is multiplied by now, [K]."""
        if self.log_variance is not None:
            return self.weights * torch.exp(-self.log_variance)
        if self.kind == "dwa" and not self.before.isnan().any():
            pace = self.before[1] / self.before[0].clamp(min=1e-12)
            factors = (pace / DWA_TEMPERATURE).softmax(dim=0) * len(self.weights)
            return self.weights * factors.to(self.weights.dtype)
        return self.weights

    @torch.no_grad()
    def stepped(self, losses: Tensor) -> None:
        """Take in the K losses of a whole batch."""
        self.epoch_sum += losses
        self.epoch_steps += 1

    @torch.no_grad()
    def epoch_done(self) -> None:
        """An epoch is over: its mean losses are the last ones."""
        self.before[0] = self.before[1]
        self.before[1] = self.epoch_sum / self.epoch_steps.clamp(min=1)
        self.epoch_sum.zero_()
        self.epoch_steps.zero_()
