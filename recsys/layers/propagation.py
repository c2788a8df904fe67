"""Propagation over the graph of users and items, forward and backward.

Source   He et al., SIGIR 2020, arXiv:2002.02126 (LightGCN), Eq. 3-8; Yu et al., arXiv:2112.08679
         (SimGCL), Eq. 7, for the noise.

One layer is x' = Ahat x, where Ahat = D^-1/2 A D^-1/2 and A joins each user to its items:

    users' = Rhat items     Rhat = D_u^-1/2 R D_i^-1/2     D^-1/2 = 0 where nothing is joined
    items' = Rhat^T users

Only R is kept, once by user and once by item, as row numbers of 4 bytes without values; Rhat comes
of scaling rows before and after. What leaves is a weighted sum of layers, z = sum_k c_k x_k, which
is a polynomial in Ahat. Ahat is symmetric, so the gradient is the same polynomial of the gradient:

    dL/dx_0 = sum_k c_k Ahat^k g = c_0 g + Ahat (c_1 g + Ahat (c_2 g + ...))

No layer is stored for it. Noise as SimGCL's moves no gradient: views with different noise share one
backward pass. Where only the rows of a batch are wanted, the last layer is computed for these alone
and the gradient starts from them.

Letters   U users, I items, E pairs, D width, K layers, n rows wanted.
"""

from __future__ import annotations

import ctypes
import functools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsys.data.pairs import Pairs
from recsys.errors import SchemaError
from recsys.layers.row_noise import Noise, perturbed_rows
from recsys.layers.segments import raw_float32
from recsys.native import load_kernel


class Both(NamedTuple):
    """One thing of the users and one of the items."""

    users: Tensor
    items: Tensor


@dataclass(frozen=True)
class LayerSum:
    """What is wanted of a propagation: sum_k weights[k] x_k, with noise or without.

    Args:
        weights: Of layers 0..K. No layer above the last one that is not zero is computed.
        noise: Added to every layer but the first; equal noises are computed once.

    Example:
        >>> LayerSum.mean(2).weights, LayerSum.mean(2, skip_ego=True).weights
        ((0.333..., 0.333..., 0.333...), (0.0, 0.5, 0.5))
    """

    weights: tuple[float, ...]
    noise: Noise | None = None

    @staticmethod
    def mean(num_layers: int, *, skip_ego: bool = False, noise: Noise | None = None) -> LayerSum:
        """Mean over layers 0..K, or 1..K."""
        count = num_layers + (not skip_ego)
        first = 0.0 if skip_ego else 1.0 / count
        return LayerSum((first, *num_layers * (1.0 / count,)), noise)

    @staticmethod
    def single(layer: int, noise: Noise | None = None) -> LayerSum:
        """One layer as it is."""
        return LayerSum((*layer * (0.0,), 1.0), noise)

    @property
    def depth(self) -> int:
        """The highest layer of a weight that is not zero."""
        return max((k for k, weight in enumerate(self.weights) if weight), default=0)


class _Half(NamedTuple):
    """What `Graph.product` is given, for one side of its result."""

    of: Tensor
    at: Tensor | None
    rows: Tensor | None
    base: Tensor | None
    base_at: Tensor | None


class Graph(nn.Module):
    """Who has what, stored by user and by item: 8 bytes a pair and 12 a user or item.

    Args:
        train: The pairs; users and items without any keep zeros in every layer but the first.

    Raises:
        SchemaError: there is no pair at all.
    """

    user_offsets: Tensor
    user_items: Tensor
    item_offsets: Tensor
    item_users: Tensor
    user_scale: Tensor
    item_scale: Tensor

    def __init__(self, train: Pairs) -> None:
        super().__init__()
        if not len(train):
            raise SchemaError(
                f"the graph of {train.num_users:,} users and {train.num_items:,} items has no "
                "pair: nothing can be propagated. Give at least one training pair."
            )
        by_item = train.transposed()
        arrays = {
            "user_offsets": train.offsets,
            "user_items": train.items,
            "item_offsets": by_item.offsets,
            "item_users": by_item.items,
            "user_scale": _inverse_root(train.user_degrees),
            "item_scale": _inverse_root(by_item.user_degrees),
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.array(array)))

    @property
    def nbytes(self) -> int:
        """Memory of the whole graph."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def propagate(
        self,
        users: Tensor,
        items: Tensor,
        wanted: Sequence[LayerSum],
        rows: Both | None = None,
    ) -> list[Both]:
        """Weighted sums of layers, of all rows or of some.

        Differentiable once, towards `users` and `items`.

        Args:
            users: First layer of the users.
            items: First layer of the items.
            wanted: Sums to compute; layers that several need are computed once.
            rows: Users [n] and items [m] whose sums are wanted, each at most once; None for all.

        Shape:
            users    [U, D]
            items    [I, D]
            return   per sum: [U, D] and [I, D], or [n, D] and [m, D]
        """
        _check(users, self.user_scale, "users")
        _check(items, self.item_scale, "items")
        flat = _Propagate.apply(users, items, self, tuple(wanted), rows)
        return [Both(*flat[at : at + 2]) for at in range(0, len(flat), 2)]

    def product(
        self,
        of: Both,
        *,
        at: Both | None = None,
        rows: Both | None = None,
        base: Both | None = None,
        base_at: Both | None = None,
        noise: Noise | None = None,
        layer: int = 1,
    ) -> Both:
        """Ahat x, plus noise, plus a base; no gradient.

        Args:
            of: x, all rows, or those of `at`.
            at: Where in `of` a user [U] and an item [I] lies, -1 where its row is zero; int32.
            rows: Rows to compute; None for all.
            base: Added; all rows, or those of `base_at`.
            base_at: As `at`, for the base.
            noise: Added, as that of `layer`.
            layer: Number of the layer that this makes.
        """
        sides = []
        for side in (0, 1):
            part = _Half(
                of[1 - side],
                None if at is None else at[1 - side],
                None if rows is None else rows[side],
                None if base is None else base[side],
                None if base_at is None else base_at[side],
            )
            key = None if noise is None else noise.key(layer, side)
            sides.append(self._half(side, part, 0.0 if noise is None else noise.eps, key))
        return Both(*sides)

    def _scale(self, side: int) -> Tensor:
        return self.item_scale if side else self.user_scale

    def _half(self, side: int, given: _Half, eps: float, key: np.ndarray | None) -> Tensor:
        """The rows of one side from those of the other."""
        offsets = self.item_offsets if side else self.user_offsets
        indices = self.item_users if side else self.user_items
        inner, outer = self._scale(1 - side), self._scale(side)
        of, at, rows, base, base_at = given
        if raw_float32(of, inner) and propagation_kernel() is not None:
            num_rows = len(outer) if rows is None else len(rows)
            out = of.new_empty(num_rows, of.shape[1])
            sizes = (num_rows, of.shape[1], len(indices))
            arguments = (rows, offsets, indices, outer, inner, of, at, base, base_at)
            _call("propagate", sizes, *arguments, eps, key, out)
            return out
        scaled = _all_rows(of, at) * inner.unsqueeze(1).to(of.dtype)
        out = _sum_of_neighbours(offsets, indices, scaled) * outer.unsqueeze(1).to(of.dtype)
        if key is not None:
            out = perturbed_rows(out, eps, key)
        if base is not None:
            out = out + _all_rows(base, base_at)
        return out if rows is None else out[rows]

    def perturbed(self, of: Both, noise: Noise, layer: int) -> Both:
        """A layer with its noise added; no gradient."""
        sides = []
        for side, source in enumerate(of):
            key = noise.key(layer, side)
            if raw_float32(source) and propagation_kernel() is not None:
                out = torch.empty_like(source)
                _call("perturb", tuple(source.shape), source, noise.eps, key, out)
            else:
                out = perturbed_rows(source, noise.eps, key)
            sides.append(out)
        return Both(*sides)

    def places(self, rows: Both) -> Both:
        """Per user and per item, its place among some rows, -1 where it is not one of them."""
        sides = []
        for side in (0, 1):
            at = torch.full_like(self._scale(side), -1, dtype=torch.int32)
            at[rows[side]] = torch.arange(len(rows[side]), dtype=torch.int32, device=at.device)
            sides.append(at)
        return Both(*sides)


class _Propagate(torch.autograd.Function):
    """All sums; the gradients of all of them go back together, in one polynomial."""

    @staticmethod
    def forward(
        ctx: Any,
        users: Tensor,
        items: Tensor,
        graph: Graph,
        wanted: tuple[LayerSum, ...],
        rows: Both | None,
    ) -> tuple[Tensor, ...]:
        ctx.graph, ctx.wanted, ctx.rows = graph, wanted, rows
        ctx.set_materialize_grads(False)
        ego = Both(users.detach().contiguous(), items.detach().contiguous())
        first = _picked(ego, rows)
        sums = [Both(*(part * one.weights[0] for part in first)) for one in wanted]
        # The first layer before its noise, which views with different noise share.
        noises = dict.fromkeys(one.noise for one in wanted if one.depth)
        shared = graph.product(ego) if len(noises) > 1 else None
        for noise in noises:
            mine = [k for k, one in enumerate(wanted) if one.noise == noise]
            depth, x = max(wanted[k].depth for k in mine), ego
            for layer in range(1, depth + 1):
                last = rows if layer == depth else None
                if layer == 1 and shared is not None:
                    x = shared if noise is None else graph.perturbed(shared, noise, layer)
                    here = _picked(x, last)
                else:
                    here = x = graph.product(x, rows=last, noise=noise, layer=layer)
                if rows is not None and last is None:
                    here = _picked(x, rows)
                for k in mine:
                    if layer <= wanted[k].depth and (weight := wanted[k].weights[layer]):
                        for total, part in zip(sums[k], here, strict=True):
                            total.add_(part, alpha=weight)
        return tuple(part for one in sums for part in one)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        graph, rows = ctx.graph, ctx.rows
        # c_k g for every k, on the wanted rows; Horner's form needs no layer twice.
        depth = max(one.depth for one in ctx.wanted)
        sizes = [len(graph._scale(s)) if rows is None else len(rows[s]) for s in (0, 1)]
        terms: list[Both | None] = [
            _weighted_sum(ctx.wanted, gradients, layer, sizes) for layer in range(depth + 1)
        ]
        places = None if rows is None else graph.places(rows)
        x, at = terms[depth], places
        for layer in range(depth - 1, -1, -1):
            base = terms[layer]
            if x is None:
                x = base
            else:  # from the first product on, x has all rows
                x, at = graph.product(x, at=at, base=base, base_at=places), None
        if x is None:
            return None, None, None, None, None
        if at is not None:
            x = Both(_all_rows(x.users, at.users), _all_rows(x.items, at.items))
        return x.users, x.items, None, None, None


def _weighted_sum(
    wanted: Sequence[LayerSum],
    gradients: Sequence[Tensor | None],
    layer: int,
    sizes: Sequence[int],
) -> Both | None:
    """sum of weights[layer] * gradient over all that is wanted; None where that is nothing."""
    given = next((gradient for gradient in gradients if gradient is not None), None)
    totals: list[Tensor | None] = [None, None]
    for k, one in enumerate(wanted):
        weight = one.weights[layer] if layer < len(one.weights) else 0.0
        for side in (0, 1):
            gradient = gradients[2 * k + side]
            if gradient is None or not weight:
                continue
            before = totals[side]
            if before is None:
                totals[side] = gradient * weight
            else:
                before.add_(gradient, alpha=weight)
    if given is None or (totals[0] is None and totals[1] is None):
        return None
    zeros = (given.new_zeros(size, given.shape[1]) for size in sizes)
    return Both(*(z if t is None else t.contiguous() for t, z in zip(totals, zeros, strict=True)))


def _picked(of: Both, rows: Both | None) -> Both:
    return of if rows is None else Both(of.users[rows.users], of.items[rows.items])


def _all_rows(some: Tensor, at: Tensor | None) -> Tensor:
    """Every row, zeros where `at` is -1."""
    if at is None:
        return some
    padded = torch.cat([some, some.new_zeros(1, some.shape[1])])
    return padded[at.long()]  # -1 is the last


def _sum_of_neighbours(offsets: Tensor, indices: Tensor, of: Tensor) -> Tensor:
    """R x: row r is the sum of x over the neighbours of r."""
    kind = torch.int32 if len(indices) < 2**31 else torch.int64
    ones = torch.ones(len(indices), dtype=of.dtype, device=of.device)
    shape = (len(offsets) - 1, len(of))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse", UserWarning)  # "CSR support is in beta"
        matrix = torch.sparse_csr_tensor(
            offsets.to(kind), indices.to(kind), ones, shape, check_invariants=False
        )
        return matrix @ of


def _inverse_root(degrees: np.ndarray) -> np.ndarray:
    """d^-1/2, and 0 where d is 0."""
    roots = np.sqrt(np.maximum(degrees, 1, dtype=np.float64))
    return np.where(degrees > 0, 1.0 / roots, 0.0).astype(np.float32)


def _check(given: Tensor, scale: Tensor, name: str) -> None:
    if given.dim() != 2 or len(given) != len(scale):
        raise SchemaError(
            f"{name} has shape {list(given.shape)}; the graph needs [{len(scale)}, D]: one row for "
            f"each of its {name}."
        )


@functools.cache
def propagation_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    i32, i64, f32, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    library.propagate.argtypes = [*3 * [i64], *9 * [ptr], f32, ptr, ptr, i32]
    library.perturb.argtypes = [i64, i64, ptr, f32, ptr, ptr, i32]
    library.propagate.restype = library.perturb.restype = None
    return library


def _call(
    name: str, sizes: tuple[int, ...], *arguments: Tensor | np.ndarray | float | None
) -> None:
    """Call the kernel with sizes, then everything, then the threads."""
    library = propagation_kernel()
    assert library is not None
    passed: list[float | int | None] = []
    for one in arguments:
        if isinstance(one, Tensor):
            assert one.is_contiguous()
            passed.append(one.data_ptr())
        else:
            passed.append(one.ctypes.data if isinstance(one, np.ndarray) else one)
    getattr(library, name)(*sizes, *passed, torch.get_num_threads())
