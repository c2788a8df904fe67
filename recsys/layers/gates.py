"""Gates: learned factors on a model's inputs.

Source    Mao et al., AAAI 2023, arXiv:2304.00902, Eq. 5-7 (`ContextGate`); Zhu et al., SIGIR 2023,
          "FINAL: Factorized Interaction Layer for CTR Prediction" (`FieldGate`).
Letters   B rows, F slots, D width of a slot, C width of a context, O outputs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.layers.mlp import HiddenLayers, init_linear


class ContextGate(nn.Module):
    """A factor in (0, 2) for every input of a network, from a context: `2 sigmoid(MLP(c))`.

    Args:
        context_dim: Width of the context.
        hidden_dims: Hidden layers (ReLU), at least one.
        out_dim: Numbers to gate.
        learned: The context is one learned vector, the same for all rows, instead of an input.

    Shape:
        context  [B, context_dim]; None when it is learned
        return   [B, out_dim], or [1, out_dim] when it is learned

    Example:
        >>> ContextGate(3, [8], 5)(torch.zeros(2, 3))
        tensor([[1., 1., 1., 1., 1.],
                [1., 1., 1., 1., 1.]], grad_fn=<MulBackward0>)
    """

    def __init__(
        self, context_dim: int, hidden_dims: Sequence[int], out_dim: int, *, learned: bool = False
    ) -> None:
        super().__init__()
        # Not zero, as in the public code: with zero biases the ReLU would then let no gradient
        # through, ever, and of the whole network only the last bias would learn.
        self.context = nn.Parameter(torch.randn(1, context_dim)) if learned else None
        self.hidden = HiddenLayers(context_dim, hidden_dims)
        self.output = nn.Linear(self.hidden.out_dim, out_dim)
        init_linear(self.output)

    def forward(self, context: Tensor | None) -> Tensor:
        if self.context is not None:
            context = self.context
        gates: Tensor = self.output(self.hidden(context)).sigmoid()
        return gates * 2  # 1 leaves an input as it is


class FieldGate(nn.Module):
    """A factor for every coordinate of every slot, linear in the same coordinate of all slots.

    `gate[f, d] = b[f] + sum_g W[f, g] e[g, d]`. W starts at zero and b at one: nothing is gated.

    Args:
        num_fields: F.

    Shape:
        fields  [B, F, D]
        return  [B, F, D], the gates

    Example:
        >>> FieldGate(2)(torch.randn(1, 2, 1)).flatten().tolist()
        [1.0, 1.0]
    """

    def __init__(self, num_fields: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_fields, num_fields))
        self.bias = nn.Parameter(torch.ones(num_fields))

    def forward(self, fields: Tensor) -> Tensor:
        return self.weight @ fields + self.bias.unsqueeze(1)
