"""FM: factorisation machine, every pair of slots weighed by an inner product.

Source   Rendle, ICDM 2010, "Factorization Machines", Eq. 1 and Lemma 3.1.
Differs  Dense columns enter the linear term only. Why: a number has no vector here; bucket it
         in the data options to let it interact.
Shapes   B rows, F slots, D embedding, N dense columns.
"""

from __future__ import annotations

from torch import Tensor

from recsys.embedding.embedded import Embedded
from recsys.layers.interaction import pairwise_product_sum
from recsys.layers.linear import FirstOrder
from recsys.models.base import CTRModel


class FM(CTRModel):
    """Logistic regression plus the inner product of every pair of field vectors.

    Shape:
        fields  [B, F, D]  float32
        linear  [B, F]     float32
        dense   [B, N]     float32
        return  [B]        float32 logit

    Example:
        >>> model = FM(num_fields=3, embed_dim=4, num_dense=0)
        >>> model(Embedded.random(batch=2, fields=3, dim=4)).shape
        torch.Size([2])
    """

    def __init__(self, num_fields: int, embed_dim: int, num_dense: int) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        self.needs_linear = True
        self.first_order = FirstOrder(num_dense)

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        assert embedded.linear is not None
        first_order: Tensor = self.first_order(embedded.linear, embedded.dense)
        return (first_order + pairwise_product_sum(embedded.fields)).float()
