"""DIEN: interests as they evolve, extracted by one GRU and followed by a second one.

Source   Zhou et al., AAAI 2019, arXiv:1809.03672, Eq. 2-15.
Differs  The auxiliary loss is a mean over a row's events, not their sum: a long history would drown
         the click. Its negatives are events of other rows of the batch, so that the model needs no
         ids and popular items are drawn as often as they are seen. `attention_dims` exchanges the
         bilinear attention of Eq. 11 for DIN's activation unit, as benchmarks do. One logit instead
         of a softmax over two classes.
Shapes   B rows, F slots, N dense columns, D embedding, P events of all rows, T the longest history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded, History
from recsys.errors import ConfigError
from recsys.layers.gru import AttentionalGRU, HistoryGRU, Steps
from recsys.layers.history_units import HistoryUnits
from recsys.layers.mlp import HiddenLayers, init_linear
from recsys.layers.segments import row_of_event, segment_softmax
from recsys.layers.target_attention import TargetAttention
from recsys.models.base import CTRModel


class DIEN(CTRModel):
    """A deep network on all slots and, per history, the interest that it led to.

    Args:
        joint: Follow all histories side by side, event by event (item and category).
        gru: augru, agru or aigru: how attention enters the second GRU.
        attention_dims: Hidden layers of an activation unit; empty for the bilinear attention.
        attention_activation: dice, prelu, relu, sigmoid, ...: of those layers.
        aux_weight: Of the next-event loss; 0 leaves it out.
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
        >>> model = DIEN(num_fields=3, embed_dim=4, num_dense=0, histories={"bought": 4})
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
        gru: str = "augru",
        attention_dims: Sequence[int] = (),
        attention_activation: str = "dice",
        aux_weight: float = 1.0,
        hidden_dims: Sequence[int] = (200, 80),
        activation: str = "dice",
        dropout: float = 0.0,
        batch_norm: bool = False,
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        self.units = HistoryUnits("DIEN", embed_dim, slots, histories, joint)
        self.joined_histories = self.units.histories if joint else ()
        if aux_weight < 0:
            raise ConfigError(f"aux_weight is {aux_weight}; it must not be negative.")
        self.aux_weight = aux_weight
        widths = self.units.widths.values()
        self.extractors = nn.ModuleList(HistoryGRU(width) for width in widths)
        self.attention = nn.ModuleList(
            TargetAttention(width, attention_dims, activation=attention_activation, softmax=True)
            if attention_dims
            else BilinearAttention(width)
            for width in widths
        )
        self.evolution = nn.ModuleList(AttentionalGRU(width, gru) for width in widths)
        self.hidden = HiddenLayers(
            num_fields * embed_dim + num_dense + sum(widths),
            hidden_dims,
            activation=activation,
            dropout=dropout,
            batch_norm=batch_norm,
        )
        self.output = nn.Linear(self.hidden.out_dim, 1)
        init_linear(self.output)

    def forward(self, embedded: Embedded) -> Tensor:
        return self._run(embedded)[0]

    def training_outputs(self, embedded: Embedded) -> tuple[Tensor, Tensor | None]:
        """Logits [B] and the weighted auxiliary loss [B], Eq. 6."""
        logit, extracted = self._run(embedded)
        if not self.aux_weight:
            return logit, None
        losses = [next_event_loss(history, states) for history, states in extracted]
        return logit, self.aux_weight * torch.stack(losses).sum(dim=0).float()

    def rows_are_independent(self) -> bool:
        """False as well where events of other rows are a row's negatives."""
        return not self.aux_weight and super().rows_are_independent()

    def _run(self, embedded: Embedded) -> tuple[Tensor, list[tuple[History, Tensor]]]:
        self.check_input(embedded)
        features, extracted = [embedded.flat()], []
        for index, (history, target) in enumerate(self.units.of(embedded)):
            steps = Steps.of(history)
            states = self.extractors[index](history, steps)  # Eq. 2-5
            interests = History(states, history.offsets, history.longest)
            weights = self._weights(index, interests, target)
            evolved = self.evolution[index](states, weights, steps, num_rows=len(history))
            features.append(evolved)
            extracted.append((history, states))
        hidden = self.hidden(torch.cat(features, dim=1))
        logit: Tensor = self.output(hidden).squeeze(1)
        return logit.float(), extracted

    def _weights(self, index: int, interests: History, target: Tensor) -> Tensor:
        attention = self.attention[index]
        assert isinstance(attention, TargetAttention | BilinearAttention)
        return attention.weights(interests, target)

    @torch.no_grad()
    def explain(self, embedded: Embedded) -> dict[str, Tensor]:
        """`interest.<history>` [B, T]: attention to the state after each event, oldest first, then
        zeros. Joint histories have one number per event, under the name of the first."""
        self.check_input(embedded)
        found = {}
        for index, (name, (history, target)) in enumerate(
            zip(self.units.widths, self.units.of(embedded), strict=True)
        ):
            states = self.extractors[index](history, Steps.of(history))
            interests = History(states, history.offsets, history.longest)
            weights = self._weights(index, interests, target).unsqueeze(1)
            weighted = History(weights, history.offsets, history.longest)
            found[f"interest.{name}"] = weighted.padded()[0].squeeze(2)
        return found


class BilinearAttention(nn.Module):
    """`softmax over a row's states h of h W q` (Eq. 11).

    Shape:
        interests  History with states [P, D]
        target     [B, D]
        return     [P]
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.matrix = nn.Linear(dim, dim, bias=False)
        init_linear(self)

    def weights(self, interests: History, target: Tensor) -> Tensor:
        """Weight of each state, [P]."""
        of_row = self.matrix(target).index_select(0, interests.row_of_event())
        scores = (interests.values * of_row).sum(dim=1)
        return segment_softmax(scores, interests.offsets)


def next_event_loss(history: History, states: Tensor) -> Tensor:
    """Per row, the mean over its events but the last of how badly the state after the event tells
    the row's next event from one of another row (Eq. 6, with sigma the sigmoid of <h, e>).

    Negatives are drawn uniformly, by torch's generator. Rows without a next event, and a batch
    without events of other rows, have loss 0.

    Shape:
        history  [P, D] of B rows
        states   [P, D]
        return   [B]
    """
    values, offsets = history.values, history.offsets
    num_events = values.shape[0]
    rows = row_of_event(offsets, num_events)
    current = (rows[1:] == rows[:-1]).nonzero().squeeze(1)
    of_row = rows[current]
    start, length = offsets[of_row], history.lengths[of_row]
    others = num_events - length
    drawn = torch.rand(len(current), device=values.device, dtype=torch.float64)
    place = torch.minimum((drawn * others).long(), others - 1).clamp(min=0)
    negative = place + torch.where(place >= start, length, 0)  # skip the row's own events
    negative = negative.clamp(max=max(num_events - 1, 0))
    state = states.index_select(0, current)
    right = (state * values.index_select(0, current + 1)).sum(dim=1)
    wrong = (state * values.index_select(0, negative)).sum(dim=1)
    loss = (nnf.softplus(-right) + nnf.softplus(wrong)) * (others > 0)
    total = loss.new_zeros(len(history)).index_add(0, of_row, loss)
    return total / (history.lengths - 1).clamp(min=1)
