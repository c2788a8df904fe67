"""FinalMLP: two gated networks whose outputs interact.

Source   Mao et al., AAAI 2023, arXiv:2304.00902, Eq. 4-11.
Differs  A learned context starts at random; at zero, as in the public code, its gate cannot learn
         but for its last bias. Dense columns join the slots, gated like them.
Shapes   B rows, F slots, N dense columns, D embedding, X = F D + N, H heads, S and T outputs per
         head of the first and second network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError, did_you_mean
from recsys.layers.gates import ContextGate
from recsys.layers.mlp import HiddenLayers, check_dropout, init_linear
from recsys.models.base import CTRModel


class FinalMLP(CTRModel):
    """Two networks that see the inputs through different gates, fused by a bilinear form.

    `z = w1 o1 + w2 o2 + b + sum_h o1_h^T W_h o2_h`. A gate looks at the vectors of its context,
    such as the user in one stream and the item in the other; an unnamed context is a learned
    vector.

    Args:
        hidden_dims1: Hidden layers of the first network.
        hidden_dims2: Hidden layers of the second network.
        activation: relu, gelu, silu, tanh, sigmoid, leaky_relu or identity.
        dropout1: Probability after each hidden layer of the first network, in [0, 1).
        dropout2: The same of the second network.
        batch_norm: Normalise each hidden unit over the batch, before the activation.
        feature_selection: Gate the inputs; False: both networks see them as they are.
        context1: Slots (or fields) that the first gate looks at; empty: a learned vector.
        context2: The same of the second gate.
        context_table: Contexts have vectors of their own, in a second table; False: those that
            the networks read.
        gate_dims: Hidden layers of each gate.
        num_heads: Heads H of the fusion; must divide the last entry of both `hidden_dims`.

    Shape:
        fields  [B, F, D]  float32
        dense   [B, N]     float32
        second  [B, F, D]  float32, with a context and `context_table`
        return  [B]        float32 logit

    Example:
        >>> model = FinalMLP(3, 4, 0, slots=("user", "item", "hour"), context1=["user"])
        >>> model(Embedded.random(batch=2, fields=3, dim=4)).shape
        torch.Size([2])
    """

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        slots: tuple[str, ...] | None = None,
        *,
        hidden_dims1: Sequence[int] = (400, 400, 400),
        hidden_dims2: Sequence[int] = (400,),
        activation: str = "relu",
        dropout1: float = 0.0,
        dropout2: float = 0.0,
        batch_norm: bool = True,
        feature_selection: bool = True,
        context1: Sequence[str] = (),
        context2: Sequence[str] = (),
        context_table: bool = True,
        gate_dims: Sequence[int] = (400,),
        num_heads: int = 10,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        check_dropout("dropout1", dropout1)
        check_dropout("dropout2", dropout2)
        in_dim = num_fields * embed_dim + num_dense
        self.hidden1, self.hidden2 = (
            HiddenLayers(in_dim, dims, activation=activation, dropout=rate, batch_norm=batch_norm)
            for dims, rate in ((hidden_dims1, dropout1), (hidden_dims2, dropout2))
        )
        self.fusion = Fusion(self.hidden1.out_dim, self.hidden2.out_dim, num_heads)
        self.gates = nn.ModuleList()
        contexts = [
            context_slots(name, list(names), slots)
            for name, names in (("context1", context1), ("context2", context2))
        ]
        if feature_selection:
            self.needs_second = context_table and any(contexts)
            for index, context in enumerate(contexts):
                dim = max(1, len(context)) * embed_dim
                self.gates.append(ContextGate(dim, gate_dims, in_dim, learned=not context))
                slot = torch.tensor(context, dtype=torch.int64)
                self.register_buffer(f"context{index + 1}", slot, persistent=False)
        self.context1: Tensor
        self.context2: Tensor

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        x1 = x2 = embedded.flat()
        if self.gates:
            gates1, gates2 = self._gates(embedded)
            x1, x2 = x1 * gates1, x2 * gates2  # Eq. 6-7
        logit: Tensor = self.fusion(self.hidden1(x1), self.hidden2(x2))
        return logit.float()

    @torch.no_grad()
    def explain(self, embedded: Embedded) -> dict[str, Tensor]:
        """`gates` [B, F], a slot's mean factor in both streams; `gates1`, `gates2`: in each."""
        self.check_input(embedded)
        if not self.gates:
            return {}
        shape = (self.num_fields, self.embed_dim)
        first, second = (
            gates[:, : shape[0] * shape[1]].unflatten(1, shape).mean(2).expand(len(embedded), -1)
            for gates in self._gates(embedded)
        )
        return {"gates": (first + second) / 2, "gates1": first, "gates2": second}

    def _gates(self, embedded: Embedded) -> tuple[Tensor, Tensor]:
        """Factors of both streams, each [B, X], or [1, X] with a learned context."""
        fields = embedded.fields
        if self.needs_second:
            assert embedded.second is not None
            fields = embedded.second
        first, second = (
            gate(fields.index_select(1, slots).flatten(1) if slots.numel() else None)
            for gate, slots in zip(self.gates, (self.context1, self.context2), strict=True)
        )
        return first, second


class Fusion(nn.Module):
    """`z = w1 o1 + w2 o2 + b + sum_h o1_h^T W_h o2_h`, all heads in one batched product (Eq. 8-11).

    Args:
        first_dim: Width of o1, a multiple of `num_heads`.
        second_dim: Width of o2, a multiple of `num_heads`.
        num_heads: H.

    Shape:
        first   [B, H S]
        second  [B, H T]
        return  [B]
    """

    def __init__(self, first_dim: int, second_dim: int, num_heads: int) -> None:
        super().__init__()
        for name, dim in (("hidden_dims1", first_dim), ("hidden_dims2", second_dim)):
            if num_heads < 1 or dim % num_heads:
                raise ConfigError(
                    f"num_heads is {num_heads}; it must be positive and divide {dim}, the last "
                    f"width of {name}."
                )
        self.linear1 = nn.Linear(first_dim, 1)
        self.linear2 = nn.Linear(second_dim, 1, bias=False)
        init_linear(self)
        shape = (num_heads, first_dim // num_heads, second_dim // num_heads)
        self.bilinear = nn.Parameter(torch.empty(shape))
        # The deviation of the public code, whose Xavier rule sees one output and H S T inputs.
        nn.init.normal_(self.bilinear, std=(2 / (self.bilinear.numel() + 1)) ** 0.5)

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        num_heads = self.bilinear.shape[0]
        heads_HBS = first.unflatten(1, (num_heads, -1)).transpose(0, 1)
        weights_H1T = self.linear2.weight.view(num_heads, 1, -1)
        # o2 meets a weight of its own per row: w2 + o1_h^T W_h.
        weights_BHT = torch.baddbmm(weights_H1T, heads_HBS, self.bilinear).transpose(0, 1)
        logit: Tensor = self.linear1(first).squeeze(1)
        return logit + (weights_BHT.flatten(1) * second).sum(1)


def context_slots(option: str, names: list[str], slots: tuple[str, ...] | None) -> list[int]:
    """Places of the named slots; a field's name stands for all its slots.

    Raises:
        ConfigError: there is no such slot.
    """
    if slots is None:  # no data yet: as many places as names
        return list(range(len(names)))
    places: list[int] = []
    for name in names:
        found = [at for at, slot in enumerate(slots) if slot == name] or [
            at for at, slot in enumerate(slots) if slot.rpartition(".")[0] == name
        ]
        if not found:
            raise ConfigError(
                f'{option} names "{name}", which is no slot.{did_you_mean(name, slots)}'
            )
        places += found
    return places
