"""Recurrent layers over jagged histories: no padded position is ever computed.

Events are put in time-major order, rows with the longest history first: the events of step t are
then one block, and each block is no longer than the one before.

    row 0   a b c          step 0   d a g
    row 1   d e f h        step 1   e b
    row 2   g              step 2   f c
                           step 3   h

How many steps there are is a number of the batch. A model that is exported (`torch.export`) may not
ask for it: it takes the steps of the longest history there can be, over all rows, and a mask holds
the state of those that are through.

Source    Zhou et al., AAAI 2019, arXiv:1809.03672, Eq. 2-3 and 6-15.
Letters   B rows, P events of all rows end to end, T the longest history, D width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from recsys.embedding.embedded import History
from recsys.errors import ConfigError, did_you_mean

CELLS = ("augru", "agru", "aigru")


@dataclass(frozen=True)
class Steps:
    """The time-major order of a batch's events.

    Shape:
        order  [P]     event at each place; with a mask, the place of each event
        rows   [B']    rows that have events, the longest first; with a mask all B as they are
        sizes  T ints: events of each step; with a mask, B each
        mask   [T, B]  True where a row has an event; None unless the model is exported
    """

    order: Tensor
    rows: Tensor
    sizes: list[int]
    mask: Tensor | None = None

    @classmethod
    def of(cls, history: History) -> Steps:
        """Plan a batch. (Numbers of a meta tensor are unknown: there, all rows count as full.)"""
        offsets, num_rows = history.offsets, len(history)
        if torch.compiler.is_exporting():
            return cls._rectangle(history)
        if offsets.is_meta:
            order = offsets.new_zeros(num_rows * history.longest)
            return cls(order, torch.empty_like(offsets[1:]), [num_rows] * history.longest)
        lengths = history.lengths
        rows = lengths.argsort(descending=True, stable=True)
        rank = torch.empty_like(rows)
        rank[rows] = torch.arange(num_rows, device=rows.device)
        of_event = history.row_of_event()
        step = torch.arange(of_event.shape[0], device=rows.device) - offsets[of_event]
        order = (step * num_rows + rank[of_event]).argsort()
        sizes = torch.bincount(step).tolist()
        return cls(order, rows[: sizes[0] if sizes else 0], sizes)

    @classmethod
    def _rectangle(cls, history: History) -> Steps:
        lengths, of_event = history.lengths, history.row_of_event()
        num_rows, device = lengths.shape[0], lengths.device
        step = torch.arange(of_event.shape[0], device=device) - history.offsets[of_event]
        mask = torch.arange(history.longest, device=device).unsqueeze(1) < lengths
        rows = torch.arange(num_rows, device=device)
        return cls(step * num_rows + of_event, rows, [num_rows] * history.longest, mask)

    def ordered(self, events: Tensor) -> Tensor:
        """From the history's own order to the time-major one, [P, D]; with a mask [T * B, D], zeros
        where there is no event."""
        if self.mask is None:
            return events.index_select(0, self.order)
        empty = events.new_zeros(self.mask.numel(), events.shape[1])
        return empty.index_copy(0, self.order, events)

    def back(self, ordered: Tensor) -> Tensor:
        """From time-major order to the history's own."""
        if self.order.is_meta:
            return ordered
        if self.mask is not None:
            return ordered.index_select(0, self.order)
        place = torch.empty_like(self.order)
        place[self.order] = torch.arange(self.order.shape[0], device=self.order.device)
        return ordered.index_select(0, place)


class HistoryGRU(nn.GRU):
    """torch's GRU over each row's events; the state after every event.

    Args:
        dim: D, of events and states.

    Shape:
        history  History with events [P, D]
        return   [P, D], events in the history's order

    Example:
        >>> history = History(torch.zeros(3, 4), torch.tensor([0, 2, 2, 3]), 2)
        >>> HistoryGRU(4)(history, Steps.of(history)).shape
        torch.Size([3, 4])
    """

    def __init__(self, dim: int) -> None:
        super().__init__(dim, dim)

    def forward(self, history: History, steps: Steps) -> Tensor:  # type: ignore[override]
        values = history.values
        if steps.mask is not None:
            return steps.back(self._step_by_step(steps.ordered(values), steps))
        if not values.shape[0] or values.is_meta:
            return values
        packed = PackedSequence(steps.ordered(values), torch.tensor(steps.sizes))
        states: Tensor = super().forward(packed)[0].data
        return steps.back(states)

    def _step_by_step(self, ordered: Tensor, steps: Steps) -> Tensor:
        """torch traces a GRU cell, but no GRU. States beyond a row's last event are nobody's."""
        names = ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")
        weights = [self.get_parameter(name) for name in names]
        state = ordered.new_zeros(len(steps.rows), ordered.shape[1])
        states = []
        for events in ordered.unflatten(0, (len(steps.sizes), len(steps.rows))):
            state = torch.gru_cell(events, state, *weights)
            states.append(state)
        return torch.cat(states)


class AttentionalGRU(nn.Module):
    """A GRU that attention holds back: the state moves by the events that matter to the target.

        augru   u' = a u       h = (1 - u') h + u' candidate     (Eq. 14-15)
        agru                   h = (1 - a) h + a candidate       (Eq. 13)
        aigru   input a i      h = (1 - u) h + u candidate       (Eq. 12)

    Args:
        dim: D, of events and states.
        cell: One of `CELLS`.

    Shape:
        events   [P, D]
        weights  [P]     attention of each event
        steps    their plan
        return   [B, D]  the last state; zeros for a row without events

    Example:
        >>> history = History(torch.zeros(3, 4), torch.tensor([0, 2, 2, 3]), 2)
        >>> gru = AttentionalGRU(4)
        >>> gru(history.values, torch.ones(3), Steps.of(history), num_rows=3).shape
        torch.Size([3, 4])
    """

    def __init__(self, dim: int, cell: str = "augru") -> None:
        super().__init__()
        if cell not in CELLS:
            raise ConfigError(f'gru is "{cell}".{did_you_mean(cell, CELLS)}')
        self.cell = cell
        gates = 2 if cell == "agru" else 3  # agru has attention in place of the update gate
        self.of_event = nn.Linear(dim, gates * dim)
        self.of_state = nn.Linear(dim, gates * dim, bias=False)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -(dim**-0.5), dim**-0.5)

    def forward(self, events: Tensor, weights: Tensor, steps: Steps, *, num_rows: int) -> Tensor:
        attention = steps.ordered(weights.unsqueeze(1))
        ordered = steps.ordered(events)
        if self.cell == "aigru":
            ordered = ordered * attention
        from_events = self.of_event(ordered)  # one product for all steps
        state = from_events.new_zeros(len(steps.rows), events.shape[1])
        finished: list[Tensor] = []
        start = 0
        for step, size in enumerate(steps.sizes):
            if size < state.shape[0]:  # the shortest of the rows are through
                finished.append(state[size:])
                state = state[:size]
            stop = start + size
            moved = self._step(from_events[start:stop], state, attention[start:stop])
            if steps.mask is not None:
                moved = torch.where(steps.mask[step].unsqueeze(1), moved, state)
            state, start = moved, stop
        finished.append(state)
        last = torch.cat(finished[::-1])
        return last.new_zeros(num_rows, last.shape[1]).index_copy(0, steps.rows, last)

    def _step(self, from_events: Tensor, state: Tensor, attention: Tensor) -> Tensor:
        dim = state.shape[1]
        gates, candidate = from_events.split([from_events.shape[1] - dim, dim], dim=1)
        of_gates, of_candidate = self.of_state.weight.split([gates.shape[1], dim])
        opened = torch.sigmoid(gates + state @ of_gates.T)
        reset = opened[:, :dim]
        candidate = torch.tanh(candidate + (reset * state) @ of_candidate.T)
        if self.cell == "agru":
            update = attention
        else:
            update = opened[:, dim:]
            if self.cell == "augru":
                update = attention * update
        return torch.lerp(state, candidate, update.expand_as(state).to(state.dtype))
