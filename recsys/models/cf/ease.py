"""EASE: the linear item model whose diagonal is zero, in closed form.

Source   Steck, "Embarrassingly Shallow Autoencoders for Sparse Data", WWW 2019, arXiv:1905.03375,
         Eq. 8.
Differs  Where there are fewer users than items the matrix inverted is that of users:
         R (R'R + l2)^-1 = (R R' + l2)^-1 R, so scores are exactly the same and the cost is that of
         U^3 and U^2 numbers rather than I^3 and I^2.
Shapes   U users, I items, n the smaller of them, b users scored at a time.
"""

from __future__ import annotations

import psutil
import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.errors import ConfigError
from recsys.layers.fitted import Fitted
from recsys.layers.pair_graph import PairGraph
from recsys.layers.sparse_products import sparse_times_dense, sparse_times_sparse
from recsys.models.collaborative import ClosedForm, Progress

BLOCK = 256  # rows of a square matrix in work


class EASE(Fitted, ClosedForm):
    """Scores = R W, where W = -P / diag(P) by columns with a zero diagonal, P = (R'R + l2)^-1.

    Args:
        l2: Penalty on the squared weights, > 0.

    Example:
        >>> import numpy as np
        >>> train = Pairs.of(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), 2, 3)
        >>> model = EASE(2, 3, l2=1.0)
        >>> model.fit(train)
        >>> model.scores(torch.tensor([0]))
        tensor([[0.4000, 0.5000, 0.2000]])
    """

    inverse: Tensor
    diagonal: Tensor

    def __init__(self, num_users: int, num_items: int, *, l2: float = 80.0) -> None:
        super().__init__(num_users, num_items)
        if not l2 > 0:
            raise ConfigError(f"cf.l2={l2}; it must be positive.")
        self.l2 = l2
        self.by_users = num_users < num_items
        self.size = min(num_users, num_items)
        self.graph = PairGraph(num_users, num_items)
        self.register_fitted("inverse", (self.size, self.size))
        self.register_fitted("diagonal", (num_items,))

    def fit(self, train: Pairs, progress: Progress | None = None) -> None:
        self.graph.fit(train)
        self._check_memory()
        # What an earlier call left makes room first.
        self.inverse = self.inverse.new_empty(0, 0)
        rows, columns = self.graph.of_users, self.graph.of_items
        if not self.by_users:
            rows, columns = columns, rows
        gram = self.inverse.new_empty(self.size, self.size)
        for block in torch.arange(self.size, device=gram.device).split(BLOCK):
            gram[block[0] : block[-1] + 1] = sparse_times_sparse(rows.take(block), columns)
        gram.diagonal().add_(self.l2)
        if progress is not None:
            progress(1, 3)
        _invert(gram)
        if progress is not None:
            progress(2, 3)
        self.inverse = gram
        self.set_fitted("diagonal", self._diagonal() if self.by_users else gram.diagonal().clone())
        if progress is not None:
            progress(3, 3)

    def scores(self, users: Tensor) -> Tensor:
        self.check_fitted()
        rows = self.graph.of_users.take(users)
        if self.by_users:  # R P = K R
            product = sparse_times_dense(self.graph.of_items, self.inverse[users].T.contiguous())
            out = product.T.contiguous()
        else:
            out = sparse_times_dense(rows, self.inverse)
        out.div_(self.diagonal).neg_()
        # The diagonal of -P / diag(P) is -1, and must be 0.
        places = rows.rows() * self.num_items + rows.columns
        out.view(-1).index_add_(0, places, torch.ones_like(places, dtype=out.dtype))
        return out

    def _diagonal(self) -> Tensor:
        """diag(P) = (1 - diag(R' K R)) / l2 where K = (R R' + l2)^-1."""
        total = torch.zeros(self.num_items, dtype=torch.float64, device=self.inverse.device)
        for users in torch.arange(self.num_users, device=total.device).split(BLOCK):
            product = sparse_times_dense(self.graph.of_items, self.inverse[users].T.contiguous())
            rows = self.graph.of_users.take(users)
            entries = product[rows.columns.long(), rows.rows()].double()
            total.index_add_(0, rows.columns.long(), entries)
        return ((1 - total) / self.l2).float()

    def _check_memory(self) -> None:
        needed = 4 * self.size**2
        have = 4 * self.inverse.numel() + psutil.virtual_memory().available
        if self.inverse.device.type == "cpu" and needed > have:
            side = "users" if self.by_users else "items"
            raise MemoryError(
                f"EASE inverts a matrix of {self.size:,} x {self.size:,} {side}, which takes "
                f"{needed:,} bytes; {have:,} are free. Use a machine with more memory, or a model "
                "that needs none of this: cf=gfcf, cf=turbocf or cf=chebycf."
            )


def _invert(matrix: Tensor) -> None:
    """Replace a symmetric positive definite matrix by its inverse, without a second one."""
    turned = matrix.mT  # LAPACK works in place on columns
    info = torch.empty((), dtype=torch.int32, device=matrix.device)
    torch.linalg.cholesky_ex(turned, out=(turned, info))
    if int(info):
        raise ConfigError(
            f"the matrix plus cf.l2 on its diagonal is not positive definite to float32's "
            f"precision (minor {int(info)}); choose a larger cf.l2."
        )
    torch.cholesky_inverse(turned, out=turned)
