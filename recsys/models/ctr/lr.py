"""LR: logistic regression, one weight per feature value.

Source   Richardson et al., WWW 2007, Sec. 5 (logistic regression for click prediction).
Differs  none known.
Shapes   B rows, F slots, N dense columns.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from recsys.embedding.embedded import Embedded
from recsys.layers.linear import FirstOrder
from recsys.models.base import CTRModel


class LR(CTRModel):
    """Sum of one weight per coded value, a weight times each dense number, and a bias.

    The yardstick: it sees no interaction, so what another model gains over it is what
    interactions are worth on this data.

    Shape:
        linear  [B, F]  float32
        dense   [B, N]  float32
        return  [B]     float32 logit

    Example:
        >>> model = LR(num_fields=3, embed_dim=1, num_dense=2)
        >>> model(Embedded.random(batch=2, fields=3, dim=1, dense=2)).shape
        torch.Size([2])
    """

    needs_fields: ClassVar[bool] = False

    def __init__(self, num_fields: int, embed_dim: int, num_dense: int) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        self.needs_linear = True
        self.first_order = FirstOrder(num_dense)

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        assert embedded.linear is not None
        logit: Tensor = self.first_order(embedded.linear, embedded.dense)
        return logit.float()
