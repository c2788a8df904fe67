"""BSPM: rows are blurred by the item graph and an ideal low-pass filter, then sharpened.

Source   Choi et al., "Blurring-Sharpening Process Models for Collaborative Filtering", SIGIR 2023,
         arXiv:2211.09324, Eq. 9-16, and the authors' code.
Differs  All processes are linear, so the steps of their solvers are multiplied out: scores are
         r p(A) + ideal r Di^-1/2 V V' Di^1/2 q(A) with two polynomials. q(A) is applied once, to
         the singular vectors, when the model is fitted. The ideal filter is one Euler step to
         time 1, which is where the authors leave it.
Shapes   U users, I items, b users scored at a time, r singular vectors.
"""

from __future__ import annotations

import math

import torch
from numpy.polynomial import Chebyshev, Polynomial
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.errors import ConfigError, did_you_mean
from recsys.layers.fitted import Fitted
from recsys.layers.pair_graph import PairGraph
from recsys.layers.sparse_products import sparse_times_dense
from recsys.layers.spectral import singular_vectors
from recsys.models.collaborative import ClosedForm, Progress

ORDERS = {"euler": 1, "rk4": 4}
"""Order of each solver: on a linear equation its step is the exponential's series to that order."""


class BSPM(Fitted, ClosedForm):
    """Blur dr/dt = r (A - 1), add the ideal filter, sharpen dr/dt = -r A; A = Rn' Rn.

    Args:
        rank: r, singular vectors of the ideal filter, from 1 to min(U, I).
        ideal: beta, weight of the ideal filter, >= 0; 0 leaves it out.
        blur_time: Time of blurring, > 0.
        blur_steps: Euler steps of blurring, >= 1.
        sharpen_time: Time of sharpening, >= 0; 0 leaves it out.
        sharpen_steps: Steps of sharpening, >= 1.
        solver: Of sharpening, euler or rk4.
        merge: When the ideal filter is added: early, before sharpening, or late, after.
        average: Mean of the rows after every step of blurring and sharpening, not the last ones.

    Example:
        >>> import numpy as np
        >>> train = Pairs.of(np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2]), 2, 3)
        >>> model = BSPM(2, 3, rank=1, ideal=0, sharpen_time=0)
        >>> model.fit(train)
        >>> model.scores(torch.tensor([0]))
        tensor([[0.8536, 0.8536, 0.3536]])
    """

    vectors: Tensor
    sharpened: Tensor

    def __init__(
        self,
        num_users: int,
        num_items: int,
        *,
        rank: int = 448,
        ideal: float = 0.2,
        blur_time: float = 1.0,
        blur_steps: int = 1,
        sharpen_time: float = 2.5,
        sharpen_steps: int = 1,
        solver: str = "rk4",
        merge: str = "early",
        average: bool = False,
    ) -> None:
        super().__init__(num_users, num_items)
        counts = {"rank": rank, "blur_steps": blur_steps, "sharpen_steps": sharpen_steps}
        for name, count in counts.items():
            if count < 1:
                raise ConfigError(f"cf.{name}={count}; it must be at least 1.")
        for name, value in (("ideal", ideal), ("sharpen_time", sharpen_time)):
            if not value >= 0:
                raise ConfigError(f"cf.{name}={value}; it must not be negative.")
        if not blur_time > 0:
            raise ConfigError(f"cf.blur_time={blur_time}; it must be positive.")
        if solver not in ORDERS:
            raise ConfigError(f"cf.solver={solver} does not exist.{did_you_mean(solver, ORDERS)}")
        if merge not in ("early", "late"):
            raise ConfigError(f"cf.merge={merge}; it must be early or late.")
        self.rank, self.ideal = rank, ideal
        self.of_rows, self.of_ideal = _polynomials(
            (blur_time, blur_steps), (sharpen_time, sharpen_steps), solver, merge, average
        )
        self.graph = PairGraph(num_users, num_items)
        self.register_fitted("vectors", (num_items, None))
        self.register_fitted("sharpened", (num_items, None))

    def fit(self, train: Pairs, progress: Progress | None = None) -> None:
        self.graph.fit(train)
        vectors = torch.zeros(self.num_items, 0, device=self.vectors.device)
        if self.ideal:
            _, vectors = singular_vectors(self.graph, self.rank, progress=progress)
        self.set_fitted("vectors", vectors)
        after = vectors * self.graph.item_powers(0.5).unsqueeze(1)
        self.set_fitted("sharpened", self.graph.polynomial(after, _chebyshev(self.of_ideal)))

    def scores(self, users: Tensor) -> Tensor:
        self.check_fitted()
        out = self.graph.filtered(users, _chebyshev(self.of_rows))
        if self.ideal:
            rows = self.graph.weighted_rows(users, self.graph.item_powers(-0.5))
            signal = sparse_times_dense(rows, self.vectors)
            out.addmm_(signal, self.sharpened.T, alpha=self.ideal)
        return out


def _polynomials(
    blur: tuple[float, int], sharpen: tuple[float, int], solver: str, merge: str, average: bool
) -> tuple[Polynomial, Polynomial]:
    """What a row, and what the ideal filter's output, is multiplied by."""
    time, steps = blur
    blurring = [Polynomial([1 - time / steps, time / steps]) ** k for k in range(1, steps + 1)]
    time, steps = sharpen
    terms = range(ORDERS[solver] + 1)
    step = Polynomial([(-time / steps) ** k / math.factorial(k) for k in terms])
    sharpening = [step**k for k in range(1, steps + 1)] if time else []
    points = blurring + [blurring[-1] * one for one in sharpening]
    of_rows, of_ideal = points[-1], (sharpening or [Polynomial([1.0])])[-1]
    if average:
        of_rows = sum(points, Polynomial([0.0])) / len(points)
        of_ideal = sum(sharpening, Polynomial([0.0])) / len(points)
    if merge == "late" or not sharpening:
        of_ideal = Polynomial([1.0])
    return of_rows, of_ideal


def _chebyshev(polynomial: Polynomial) -> list[float]:
    """Coefficients in Chebyshev polynomials on [0, 1]."""
    found: list[float] = polynomial.convert(kind=Chebyshev, domain=[0, 1]).coef.tolist()
    return found
