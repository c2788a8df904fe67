"""Row gates: one number per storage row that says whether the row is worth its memory.

Source   Lyu et al., "Optimizing Feature Set for Click-Through Rate Prediction" (OptFS), WWW 2023,
         arXiv:2301.10909, Sec. 3.1 and 3.2.
Differs  Rows kept are those with c_j > 0, what the hard gate will do, at every temperature; the
         authors' code counts gates that have not yet underflown to exactly 0.
Letters  R storage rows, W storage width, n single rows, m rows in bags, b bags.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from recsys.embedding.storage import Storage


class RowGates(nn.Module):
    """Multiplies every row that is read by its gate: g_j = s * sigmoid(tau * c_j), later
    s * [c_j > 0], with s = 1 / sigmoid(c_init), so that all gates start at exactly 1.

    A gate multiplies the whole storage row (vector, second vector, first-order weight), id by id,
    before lists are pooled. So an interaction survives when both of its values do.

    Args:
        num_rows: R; row 0 is the padding, which is zero whatever its gate.
        init: c_init, above 0.
        device: Where the table lies.

    Example:
        >>> gates = RowGates(num_rows=3)
        >>> gates(torch.tensor([1, 2])).tolist()
        [1.0, 1.0]
    """

    def __init__(
        self, num_rows: int, init: float = 0.5, device: torch.device | str = "cpu"
    ) -> None:
        super().__init__()
        if init <= 0:
            raise ValueError(f"init={init}; gates start open, so it must be above 0.")
        self.logits = nn.Parameter(torch.full((num_rows,), float(init), device=device))
        self.init = init
        self.scale = 1.0 + math.exp(-init)
        self.temperature = 1.0
        self.kept: Tensor | None
        self.register_buffer("kept", None, persistent=False)

    def forward(self, rows: Tensor) -> Tensor:
        """Gates of rows of any shape."""
        if self.kept is not None:
            return self.kept[rows] * self.scale
        logits = self.logits.index_select(0, rows.reshape(-1)).view(rows.shape)
        # Divided by its own first value: 1 to the last bit at the start.
        start = torch.sigmoid(logits.new_tensor(self.init))
        return torch.sigmoid(self.temperature * logits) / start

    def read(
        self,
        storage: Storage,
        rows: Tensor,
        bag_rows: Tensor | None = None,
        bag_offsets: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """As `storage(...)`, with every row times its gate.

        Shape:
            rows         [n], bag_rows [m], bag_offsets [b + 1]
            return       vectors [n, W] and bag sums [b, W]
        """
        if bag_rows is None or bag_offsets is None:
            vectors, _ = storage(rows)
            return vectors * self(rows).unsqueeze(1), None
        every = torch.cat([rows, bag_rows])
        vectors, _ = storage(every)
        gated = vectors * self(every).unsqueeze(1)
        num_bags = bag_offsets.shape[0] - 1
        bags = torch.arange(num_bags, device=rows.device)
        bag_of_row = bags.repeat_interleave(bag_offsets.diff(), output_size=bag_rows.shape[0])
        sums = gated.new_zeros(num_bags, gated.shape[1])
        singles = rows.shape[0]
        return gated[:singles], sums.index_add(0, bag_of_row, gated[singles:])

    @torch.no_grad()
    def add_penalty_gradient(self, weight: float) -> None:
        """Add the gradient of weight * sum_j sigmoid(tau c_j), over all rows but the padding."""
        if self.logits.grad is None:
            self.logits.grad = torch.zeros_like(self.logits)
        gate = torch.sigmoid(self.temperature * self.logits)
        slope = (weight * self.temperature) * gate * (1 - gate)
        slope[0] = 0.0
        self.logits.grad += slope

    @torch.no_grad()
    def open_rows(self, among: Tensor) -> Tensor:
        """The rows of a mask [R] whose gate is open, c_j > 0."""
        return (self.logits > 0) & among.to(self.logits.device)

    @torch.no_grad()
    def harden(self, among: Tensor) -> None:
        """From here on the gate is s for the open rows of a mask [R] and 0 for all others."""
        kept = self.open_rows(among)
        kept[0] = False
        self.kept = kept
        self.logits.requires_grad_(False)
        self.logits.grad = None

    def extra_repr(self) -> str:
        state = "soft" if self.kept is None else f"hard, kept={int(self.kept.sum()):,}"
        return f"rows={self.logits.shape[0]:,}, {state}"
