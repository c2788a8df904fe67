"""Mixtures of experts: one block whose mask makes MMoE, PLE or HoME of it.

Letters   B rows, G experts, R readers (mostly tasks), S inputs, I input width, O output width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.layers.expert_mixture import fused_mixture
from recsys.layers.mlp import check_dropout
from recsys.layers.stacked import StackedHidden, StackedLinear, StackedNorm


class Experts(StackedHidden):
    """Networks of one shape, each with a name: what `StackedHidden` is.

    Args:
        names: Of each expert, such as `shared.0`; G of them.
        in_dim: I.
        hidden_dims, counts, activation, dropout, batch_norm, norm_eps: as `StackedHidden` has them.

    Shape:
        x       [B, I], which all read, or [B, S, I]
        return  [B, G, out_dim]
    """

    def __init__(
        self,
        names: Sequence[str],
        in_dim: int,
        hidden_dims: Sequence[int],
        *,
        counts: Sequence[int] | None = None,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
        norm_eps: float = 1e-5,
    ) -> None:
        super().__init__(
            len(names),
            in_dim,
            hidden_dims,
            counts=counts,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
            norm_eps=norm_eps,
        )
        self.names = tuple(names)

    def mixed(self, x: Tensor, weights: Tensor) -> Tensor:
        """What readers see of the experts: `mix(weights, self(x))`, on a CPU in float32 without the
        experts' outputs ever being written.

        Shape:
            x        [B, I], which all read, or [B, S, I]
            weights  [B, R, G]
            return   [B, R, out_dim]
        """
        *layers, activation = self
        norm = None
        if isinstance(layers[-1], StackedNorm):
            norm = layers[-1]
            layers.pop()
        watched = self._forward_hooks or activation._forward_hooks
        if watched or not isinstance(layers[-1], StackedLinear):
            return mix(weights, self(x))  # somebody looks on, or dropout comes last
        for layer in layers:
            x = layer(x)
        found = fused_mixture(x, weights, norm, activation)
        if found is None:
            found = mix(weights, activation(x if norm is None else norm(x)))
        return found

    def first_layer(self) -> StackedLinear:
        """The maps that read the input: their gradients tell which experts learn."""
        first = self[0]
        assert isinstance(first, StackedLinear)
        return first


class Gates(nn.Module):
    """Softmax weights of R readers over the experts that a mask lets each of them see.

    A reader that sees a single expert has a softmax of 1 whatever its input is; `sigmoid_alone`
    gives it sigmoid(logit) instead.

    Args:
        readers: Name of each reader.
        names: Name of each expert.
        in_dim: I.
        mask: [R, G] True where a reader sees an expert; each row has at least one.
        dropout: Probability that a weight is dropped, the others then making up for it.
        sigmoid_alone: Sigmoid for readers of a single expert.

    Shape:
        x       [B, I], which all readers have, or [B, R, I]
        return  [B, R, G]  zero where the mask is False

    Example:
        >>> gates = Gates(("a", "b"), ("e", "f"), 3, torch.tensor([[True, True], [False, True]]))
        >>> gates(torch.zeros(1, 3)).tolist()
        [[[0.5, 0.5], [0.0, 1.0]]]
    """

    mask: Tensor
    alone: Tensor

    def __init__(
        self,
        readers: Sequence[str],
        names: Sequence[str],
        in_dim: int,
        mask: Tensor,
        *,
        dropout: float = 0.0,
        sigmoid_alone: bool = False,
    ) -> None:
        super().__init__()
        if mask.shape != (len(readers), len(names)) or not mask.any(dim=1).all():
            raise ValueError(
                f"the mask is {list(mask.shape)} for {len(readers)} readers and {len(names)} "
                "experts, or a reader sees no expert"
            )
        self.readers, self.names = tuple(readers), tuple(names)
        self.dropout = check_dropout("gate_dropout", dropout)
        self.logits = StackedLinear(len(readers), in_dim, len(names), bias=False)
        alone = (mask.sum(dim=1, keepdim=True) == 1) & mask & sigmoid_alone
        self.hides, self.has_alone = not bool(mask.all()), bool(alone.any())
        device = torch.get_default_device()
        self.register_buffer("mask", mask.to(device), persistent=False)
        self.register_buffer("alone", alone.to(device), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.logits(x)
        seen = logits.masked_fill(~self.mask, -torch.inf) if self.hides else logits
        weights = seen.softmax(dim=2)
        if self.has_alone:
            weights = torch.where(self.alone, logits.sigmoid(), weights)
        if self.dropout and self.training:
            weights = nn.functional.dropout(weights, self.dropout)
        return weights


def mix(weights: Tensor, experts: Tensor) -> Tensor:
    """Each reader's weighted sum of the experts.

    Shape:
        weights  [B, R, G]
        experts  [B, G, O]
        return   [B, R, O]
    """
    return torch.bmm(weights, experts)


class Towers(nn.Module):
    """A network with one logit for each task.

    Args:
        num: Tasks, R.
        in_dim: I.
        hidden_dims: Width of each hidden layer; none: a linear map.
        activation: A name from `recsys.layers.mlp.ACTIVATIONS`.
        dropout: Probability after each hidden layer, in [0, 1).
        batch_norm: Normalise hidden units over the batch.

    Shape:
        x       [B, R, I], or [B, I] which all tasks read
        return  [B, R]  float32

    Example:
        >>> Towers(3, 4, [8])(torch.zeros(2, 3, 4)).shape
        torch.Size([2, 3])
    """

    def __init__(
        self,
        num: int,
        in_dim: int,
        hidden_dims: Sequence[int],
        *,
        activation: str = "relu",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__()
        self.hidden: StackedHidden | None = None
        if hidden_dims:
            self.hidden = StackedHidden(
                num,
                in_dim,
                hidden_dims,
                activation=activation,
                dropout=dropout,
                batch_norm=batch_norm,
            )
            in_dim = self.hidden.out_dim
        self.output = StackedLinear(num, in_dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        if self.hidden is not None:
            x = self.hidden(x)
        logits: Tensor = self.output(x).squeeze(2)
        return logits.float()


def expert_names(groups: Sequence[tuple[str, int]]) -> tuple[str, ...]:
    """`group.0`, `group.1`, ... of each group in turn.

    Example:
        >>> expert_names([("shared", 2), ("click", 1)])
        ('shared.0', 'shared.1', 'click.0')
    """
    return tuple(f"{group}.{number}" for group, count in groups for number in range(count))


def visible(groups: Sequence[tuple[str, int]], readers: Sequence[Sequence[str]]) -> Tensor:
    """The mask of readers that each see some groups, [R, G] bool.

    Args:
        groups: Name and size of each group of experts.
        readers: Names of the groups that each reader sees.

    Example:
        >>> visible([("shared", 2), ("click", 1)], [["shared"], ["shared", "click"]]).tolist()
        [[True, True, False], [True, True, True]]
    """
    owners = [group for group, count in groups for _ in range(count)]
    return torch.tensor([[owner in seen for owner in owners] for seen in readers], device="cpu")
