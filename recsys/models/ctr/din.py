"""DIN: the interest in the item at hand, read from what a person did before.

Source   Zhou et al., KDD 2018, arXiv:1706.06978, Sec. 4-5, Eq. 3 and 9; inputs of the activation
         unit and its widths as in the authors' code.
Differs  Dice sees events only, never padding. One logit instead of a softmax over two classes. The
         authors' code makes the weights add up to 1, the paper does not: `softmax` chooses, and the
         paper's form is the default. Mini-batch aware regularisation (Eq. 4-7) belongs to the
         tables: `optimizer.embedding_mba`.
Shapes   B rows, F slots, N dense columns, D embedding, P events of all rows, T the longest history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded, History
from recsys.layers.history_units import HistoryUnits
from recsys.layers.mlp import HiddenLayers, init_linear
from recsys.layers.target_attention import TargetAttention, check_pooling, pool
from recsys.models.base import CTRModel


class DIN(CTRModel):
    """A deep network on all slots and, per history, the events that matter to the target.

    Args:
        joint: Attend over all histories side by side, event by event (item and category).
        pooling: attention; or sum or mean of a history's events, without regard to the target.
        attention_dims: Hidden layers of the activation unit.
        attention_activation: dice, prelu, relu, sigmoid, ...: of those layers.
        attention_dropout: Probability after each of them, in [0, 1).
        softmax: Make a row's weights add up to 1.
        hidden_dims: Hidden layers of the deep network.
        activation: dice, prelu, relu, ...: of the deep network.
        dropout: Probability after each hidden layer, in [0, 1).
        batch_norm: Normalise each hidden unit over the batch.

    Shape:
        fields   [B, F, D]                 float32
        dense    [B, N]                    float32
        history  name -> [P, D], jagged    float32
        target   name -> [B, D]            float32
        return   [B]                       float32 logit

    Example:
        >>> model = DIN(num_fields=3, embed_dim=4, num_dense=0, histories={"bought": 4})
        >>> model(Embedded.random(batch=2, fields=3, dim=4, histories={"bought": 5})).shape
        torch.Size([2])
    """

    needs_history: ClassVar[bool] = True

    def __init__(
        self,
        num_fields: int,
        embed_dim: int,
        num_dense: int,
        slots: tuple[str, ...] | None = None,
        histories: Mapping[str, int] | None = None,
        *,
        joint: bool = False,
        pooling: str = "attention",
        attention_dims: Sequence[int] = (80, 40),
        attention_activation: str = "dice",
        attention_dropout: float = 0.0,
        softmax: bool = False,
        hidden_dims: Sequence[int] = (200, 80),
        activation: str = "dice",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        self.units = HistoryUnits("DIN", embed_dim, slots, histories, joint)
        self.joined_histories = self.units.histories if joint else ()
        self.pooling = check_pooling(pooling)
        self.attention: nn.ModuleList | None = None
        if pooling == "attention":
            self.attention = nn.ModuleList(
                TargetAttention(
                    width,
                    attention_dims,
                    activation=attention_activation,
                    dropout=attention_dropout,
                    softmax=softmax,
                )
                for width in self.units.widths.values()
            )
        self.hidden = HiddenLayers(
            num_fields * embed_dim + num_dense + sum(self.units.widths.values()),
            hidden_dims,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.output = nn.Linear(self.hidden.out_dim, 1)
        init_linear(self.output)

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        units = self.units.of(embedded)
        if self.attention is None:
            interests = [pool(history, self.pooling) for history, _ in units]
        else:  # Eq. 3: v_U = sum_j a(e_j, v_A) e_j
            interests = [a(*unit) for a, unit in zip(self.attention, units, strict=True)]
        hidden = self.hidden(torch.cat([embedded.flat(), *interests], dim=1))
        logit: Tensor = self.output(hidden).squeeze(1)
        return logit.float()

    @torch.no_grad()
    def explain(self, embedded: Embedded) -> dict[str, Tensor]:
        """`interest.<history>` [B, T]: the weight of each event, oldest first, then zeros. Joint
        histories have one weight per event, under the name of the first."""
        self.check_input(embedded)
        found = {}
        for index, (name, (history, target)) in enumerate(
            zip(self.units.widths, self.units.of(embedded), strict=True)
        ):
            if self.attention is not None:
                unit = self.attention[index]
                assert isinstance(unit, TargetAttention)
                weights = unit.weights(history, target)
            else:
                lengths = history.lengths.to(target.dtype)
                each = torch.ones_like(lengths) if self.pooling == "sum" else 1 / lengths
                weights = each[history.row_of_event()]
            weighted = History(weights.unsqueeze(1), history.offsets, history.longest)
            found[f"interest.{name}"] = weighted.padded()[0].squeeze(2)
        return found
