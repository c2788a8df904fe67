"""Leading singular vectors of the normalised matrix of pairs, and functions of its spectrum.

Letters   U users, I items, r vectors wanted, k dimensions of the space they are sought in.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.polynomial.chebyshev import Chebyshev
from torch import Tensor

from recsys.errors import ConfigError
from recsys.layers.pair_graph import PairGraph
from recsys.layers.sparse_products import sparse_times_dense

BLOCK = 64
"""Vectors that are multiplied at a time: as many as a row's sums fill registers."""

SPACE = 2.5
"""Dimensions of the space searched, for each vector wanted."""

POWER = 5
"""Power of the matrix whose vectors are searched, at most."""

RANGE = 1e-4
"""Least ratio of wanted eigenvalues of the power: below, float32 loses them beside the first."""

DENSE = 512
"""Matrices up to this size are decomposed as they are."""

NOTHING = 1e-6
"""Eigenvalues below this are rounding, as the largest is 1."""

Progress = Callable[[int, int], None]


def singular_vectors(
    graph: PairGraph,
    rank: int,
    *,
    space: float = SPACE,
    power: int = POWER,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Tensor, Tensor]:
    """Largest singular values and right singular vectors of Rn = Du^-1/2 R Di^-1/2.

    Block Lanczos without restarts on a power of the smaller of Rn Rn' and Rn' Rn, then
    Rayleigh-Ritz on the matrix itself. The spectrum of a recommender's matrix is flat where it is
    cut. A power spreads it, and sparse products cost far less than keeping a larger space
    orthogonal.

    Args:
        graph: The pairs.
        rank: r, at most min(U, I).
        space: k / r: more is slower and closer, with the square of it.
        power: More is slower and closer; lowered where float32 would lose the last values.
        seed: Of the random vectors.
        progress: Told after each block.

    Returns:
        Values [r] float32 descending, and vectors [I, r] float32, orthonormal, or zeros where the
        value is 0.

    Raises:
        ConfigError: `rank` is not between 1 and min(U, I).
    """
    graph.check_fitted()
    size = min(graph.num_users, graph.num_items)
    if not 1 <= rank <= size:
        raise ConfigError(
            f"rank={rank}, but {graph.num_users:,} users and {graph.num_items:,} items have "
            f"between 1 and {size:,} singular vectors; choose a rank in that range."
        )
    on_users = graph.num_users <= graph.num_items
    near, far = graph.of_users, graph.of_items
    near_scale, far_scale = graph.user_powers(-0.5), graph.item_powers(-0.5)
    if not on_users:
        near, far, near_scale, far_scale = far, near, far_scale, near_scale

    def across(x: Tensor) -> Tensor:
        """Rn' x where x is of users, else Rn x."""
        return sparse_times_dense(far, x * near_scale.unsqueeze(1), scale=far_scale)

    def back(x: Tensor) -> Tensor:
        return sparse_times_dense(near, x * far_scale.unsqueeze(1), scale=near_scale)

    def gram(x: Tensor) -> Tensor:
        return back(across(x))

    steps = -(-int(space * rank) // BLOCK) + 1
    if size <= max(DENSE, steps * BLOCK):
        found = torch.eye(size, device=near_scale.device)
    else:
        basis = _block_lanczos(gram, near_scale, steps, power, seed, progress)
        found = basis[:, : rank + BLOCK].contiguous()
    image = across(found)
    eigenvalues, turns = torch.linalg.eigh((image.T @ image).double())
    eigenvalues, turns = eigenvalues.flip(0)[:rank], turns.flip(1)[:, :rank]
    values = torch.where(eigenvalues > NOTHING, eigenvalues, 0).sqrt()
    if on_users:
        vectors = image @ (turns / values.clamp_min(NOTHING**0.5)).float()
    else:
        vectors = found @ turns.float()
    return values.float(), vectors * (values > 0)


def left_vectors(graph: PairGraph, values: Tensor, vectors: Tensor) -> Tensor:
    """Left singular vectors of Rn that belong to right ones.

    Args:
        graph: The pairs.
        values: [r] as `singular_vectors` returns them.
        vectors: [I, r]

    Returns:
        [U, r] float32, orthonormal, or zeros where the value is 0.
    """
    image = sparse_times_dense(
        graph.of_users,
        vectors * graph.item_powers(-0.5).unsqueeze(1),
        scale=graph.user_powers(-0.5),
    )
    return image * torch.where(values > 0, 1 / values, 0.0)


def _block_lanczos(
    matrix: Callable[[Tensor], Tensor],
    like: Tensor,
    steps: int,
    power: int,
    seed: int,
    progress: Progress | None,
) -> Tensor:
    """Ritz vectors [n, k] of a power of a symmetric matrix [n, n], by descending value."""
    generator = torch.Generator().manual_seed(seed)

    def draw(count: int) -> Tensor:
        drawn = torch.randn(len(like), count, generator=generator)
        return torch.linalg.qr(drawn)[0].to(like)

    fresh = torch.linalg.qr(matrix(draw(BLOCK)))[0]
    # The least Ritz value of random vectors multiplied once is about that of the last one wanted.
    ritz = torch.linalg.eigvalsh(fresh.T @ matrix(fresh)).clamp_min(1e-12)
    power = max(1, min(power, int(math.log(RANGE) / math.log(min(0.9, ritz[0] / ritz[-1])))))
    basis = like.new_empty(steps * BLOCK, len(like))  # vectors as rows
    projected = torch.zeros(len(basis), len(basis), dtype=torch.float64, device=like.device)
    for step in range(steps):
        new = slice(step * BLOCK, (step + 1) * BLOCK)
        basis[new] = fresh.T
        known = basis[: new.stop]
        image = fresh
        for _ in range(power):
            image = matrix(image)
        image = image.T.contiguous()
        overlap = known @ image.T
        projected[: new.stop, new] = overlap.double()
        if progress is not None:
            progress(step + 1, steps)
        if step + 1 < steps:
            image -= overlap.T @ known
            fresh = torch.linalg.qr(image.T)[0]
            # Once more: rounding lies in the basis. What is not left outside of it, where the space
            # is exhausted, random vectors replace.
            for _ in range(4):
                fresh -= known.T @ (known @ fresh)
                fresh, lengths = torch.linalg.qr(fresh)
                lost = lengths.diagonal().abs() < 0.5
                if not lost.any():
                    break
                fresh[:, lost] = draw(int(lost.sum()))
    projected = projected.triu()
    turns = torch.linalg.eigh(projected + projected.triu(1).T)[1]
    return (turns.flip(1).float().T @ basis).T


def economized(
    response: Chebyshev, bound: float, tolerance: float, values: np.ndarray
) -> Chebyshev:
    """The polynomial of least degree that is within `tolerance` of another on [0, bound].

    Args:
        response: A polynomial of the eigenvalues of A.
        bound: Where the interval ends.
        tolerance: Largest difference allowed; 0 returns `response` itself.
        values: Eigenvalues beyond the interval, at which the result must not be so large that
            taking it back costs float32 its digits.
    """
    grid = np.linspace(0, bound, 1000)
    for degree in range(response.degree() if tolerance > 0 else 0):
        fewer = Chebyshev.interpolate(response, degree, domain=[0, bound])
        close = np.abs(fewer(grid) - response(grid)).max() <= tolerance
        if close and np.abs(fewer(values)).max(initial=0) <= 100:
            return fewer
    return response
