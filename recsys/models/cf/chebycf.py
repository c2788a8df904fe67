"""ChebyCF: a Chebyshev polynomial of the item graph's Laplacian, and an ideal low-pass filter.

Source   Kim et al., SIGIR 2025, arXiv:2505.00552, and the authors' configurations.
Differs  The polynomial of degree K is applied exactly where it varies: to the leading singular
         vectors, which the ideal filter needs anyway. On what is left of the spectrum, a narrow
         interval near 0, a polynomial of lower degree that differs by less than `tolerance`
         takes its place: a third of the products. The authors' code rounds the target's grid to
         three decimals; this does not.
Shapes   U users, I items, b users scored at a time, r singular vectors.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.polynomial.chebyshev import Chebyshev
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.errors import ConfigError
from recsys.layers.fitted import Fitted
from recsys.layers.pair_graph import PairGraph
from recsys.layers.sparse_products import sparse_times_dense
from recsys.layers.spectral import economized, singular_vectors
from recsys.models.collaborative import ClosedForm, Progress


def plateau_coefficients(degree: int, flatness: float) -> np.ndarray:
    """Chebyshev coefficients [degree + 1] of the plateau, over Laplacians in [-1, 1].

    The target falls from 1 to 0 and is flat around 0, the more so the larger `flatness` is.

    Example:
        >>> plateau_coefficients(2, 1.0).round(6).tolist()
        [0.5, -0.57735, 0.0]
    """
    grid = np.cos((degree - np.arange(degree + 1)) * np.pi / max(degree, 1))
    target = 0.5 - 0.5 * np.sign(grid) * np.abs(grid) ** flatness
    nodes = (degree + 0.5 - np.arange(degree + 1)) / (degree + 1) * np.pi
    coefficients = np.cos(np.outer(np.arange(degree + 1), nodes)) @ target * 2 / (degree + 1)
    coefficients[0] /= 2
    return coefficients


class ChebyCF(Fitted, ClosedForm):
    """Scores = (p(L) + ideal V V') of a user's items, divided by popularity before and times after.

    Args:
        degree: K of the polynomial, >= 1.
        flatness: phi of the plateau, > 0.
        rank: Singular vectors of the ideal filter, from 1 to min(U, I).
        ideal: Weight of the ideal filter, >= 0.
        item_power: Power of the items' degrees divided by before, and multiplied by after.
        tolerance: How far the response may be from the polynomial where the spectrum is low,
            >= 0; 0 applies the polynomial as it is.

    Example:
        >>> train = Pairs.of(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), 2, 3)
        >>> model = ChebyCF(2, 3, rank=1)
        >>> model.fit(train)
        >>> model.scores(torch.tensor([0])).shape
        torch.Size([1, 3])
    """

    coefficients: Tensor
    bound: Tensor
    vectors: Tensor
    gains: Tensor

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *,
        degree: int = 8,
        flatness: float = 1.5,
        rank: int = 512,
        ideal: float = 0.2,
        item_power: float = 0.4,
        tolerance: float = 0.0001,
    ) -> None:
        super().__init__(num_users, num_items)
        for name, value, least in (("degree", degree, 1), ("rank", rank, 1)):
            if value < least:
                raise ConfigError(f"cf.{name}={value}; it must be at least {least}.")
        for name, number in (("ideal", ideal), ("tolerance", tolerance)):
            if not number >= 0:
                raise ConfigError(f"cf.{name}={number}; it must not be negative.")
        if not flatness > 0:
            raise ConfigError(f"cf.flatness={flatness}; it must be positive.")
        self.degree, self.flatness, self.rank = degree, flatness, rank
        self.ideal, self.item_power, self.tolerance = ideal, item_power, tolerance
        self.graph = PairGraph(num_users, num_items)
        self.register_fitted("coefficients", (None,), torch.float64)
        self.register_fitted("bound", (1,), torch.float64)
        self.register_fitted("vectors", (num_items, None))
        self.register_fitted("gains", (None,))

    def fit(self, train: Pairs, progress: Progress | None = None) -> None:
        self.graph.fit(train)
        values, vectors = singular_vectors(self.graph, self.rank, progress=progress)
        eigenvalues = values.double().square().cpu().numpy()
        # L = 1 - 2 A, and T_j(-x) = (-1)^j T_j(x).
        signs = (-1.0) ** np.arange(self.degree + 1)
        response = Chebyshev(
            signs * plateau_coefficients(self.degree, self.flatness), domain=[0, 1]
        )
        bound = min(1.0, float(eigenvalues[-1]) * 1.05)
        low = economized(response, bound, self.tolerance, eigenvalues)
        gains = self.ideal + response(eigenvalues) - low(eigenvalues)
        self.set_fitted("coefficients", torch.from_numpy(low.coef))
        self.set_fitted("bound", torch.tensor([low.domain[1]]))
        self.set_fitted("gains", torch.from_numpy(gains))
        after = self.graph.item_powers(self.item_power)
        self.set_fitted("vectors", vectors * after.unsqueeze(1))

    def scores(self, users: Tensor) -> Tensor:
        self.check_fitted()
        before = self.graph.item_powers(-self.item_power)
        out = self.graph.filtered(
            users,
            self.coefficients.tolist(),
            bound=float(self.bound),
            before=before,
            after=self.graph.item_powers(self.item_power),
        )
        # The vectors carry the factor after; dividing by it twice leaves the one before.
        rows = self.graph.weighted_rows(users, before.square())
        signal = sparse_times_dense(rows, self.vectors)
        return out.addmm_(signal * self.gains, self.vectors.T)
