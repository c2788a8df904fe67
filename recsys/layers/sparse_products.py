"""Products of a sparse matrix, kept as rows, with dense and with sparse ones.

Letters   N rows of the sparse matrix, M its columns, E its entries, W width of dense ones.
"""

from __future__ import annotations

import ctypes
import functools
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from recsys.layers.segments import raw_float32, row_of_event
from recsys.native import load_kernel


class SparseRows(NamedTuple):
    """A sparse matrix [N, M] as rows, each entry at most once in a row.

    Shape:
        offsets  [N + 1]  int64, where each row starts among the entries
        columns  [E]      int32
        values   [E]      float32; None for ones
    """

    offsets: Tensor
    columns: Tensor
    num_columns: int
    values: Tensor | None = None

    @property
    def num_rows(self) -> int:
        return self.offsets.shape[0] - 1

    def take(self, rows: Tensor) -> SparseRows:
        """Some rows [n] int64, in that order, repeats allowed."""
        starts = self.offsets[rows]
        lengths = self.offsets[rows + 1] - starts
        offsets = torch.zeros(len(rows) + 1, dtype=torch.int64, device=lengths.device)
        torch.cumsum(lengths, 0, out=offsets[1:])
        of = row_of_event(offsets, int(offsets[-1]))
        entries = torch.arange(len(of), device=of.device) - offsets[of] + starts[of]
        values = None if self.values is None else self.values[entries]
        return SparseRows(offsets, self.columns[entries], self.num_columns, values)

    def rows(self) -> Tensor:
        """The row of every entry, [E] int64."""
        return row_of_event(self.offsets, len(self.columns))


def sparse_times_dense(
    sparse: SparseRows,
    x: Tensor,
    *,
    scale: Tensor | None = None,
    alpha: float = 1.0,
    plus: Tensor | None = None,
    beta: float = 1.0,
    plus_too: Tensor | None = None,
    gamma: float = 1.0,
    out: Tensor | None = None,
) -> Tensor:
    """alpha * scale * (sparse @ x) + beta * plus + gamma * plus_too, in one pass.

    Args:
        sparse: [N, M].
        x: [M, W] float32.
        scale: [N], a factor of each row of the product; ones by default.
        plus: [N, W], like `plus_too`; nothing by default.
        out: [N, W], where to write; may be `plus` or `plus_too`, but not `x`.

    Returns:
        [N, W]

    Example:
        >>> rows = SparseRows(torch.tensor([0, 2, 2]), torch.tensor([0, 2]).int(), 3)
        >>> sparse_times_dense(rows, torch.tensor([[1.0], [2.0], [4.0]]), alpha=10)
        tensor([[50.],
                [ 0.]])
    """
    assert x.shape[0] == sparse.num_columns, (x.shape, sparse.num_columns)
    if out is None:
        out = x.new_empty(sparse.num_rows, x.shape[1])
    x = x.contiguous()
    given = [t for t in (x, out, sparse.values, scale, plus, plus_too) if t is not None]
    library = sparse_kernel() if raw_float32(*given) else None
    if library is not None and all(t.is_contiguous() for t in given):
        pointers = _pointers(
            sparse.offsets, sparse.columns, sparse.values, scale, x, plus, plus_too, out
        )
        library.sparse_times_dense(
            *out.shape, *pointers, alpha, beta, gamma, torch.get_num_threads()
        )
        return out
    values = torch.ones_like(sparse.columns, dtype=x.dtype)
    if sparse.values is not None:
        values = sparse.values
    places = torch.stack([sparse.rows(), sparse.columns.long()])
    shape = (sparse.num_rows, sparse.num_columns)
    product = torch.sparse_coo_tensor(
        places, values, shape, is_coalesced=True, check_invariants=False
    )
    product = product @ x
    if scale is not None:
        product *= scale.unsqueeze(1)
    product *= alpha
    for term, factor in ((plus, beta), (plus_too, gamma)):
        if term is not None:
            product.add_(term, alpha=factor)
    return out.copy_(product)


def sparse_times_sparse(left: SparseRows, right: SparseRows) -> Tensor:
    """left @ right as a dense matrix: few rows at a time.

    Args:
        left: [N, K].
        right: [K, M].

    Returns:
        [N, M] float32

    Example:
        >>> rows = SparseRows(torch.tensor([0, 2, 3]), torch.tensor([0, 1, 1]).int(), 2)
        >>> sparse_times_sparse(rows, rows)
        tensor([[1., 2.],
                [0., 1.]])
    """
    assert left.num_columns == right.num_rows, (left.num_columns, right.num_rows)
    shape = (left.num_rows, right.num_columns)
    out = torch.empty(shape, device=left.offsets.device)
    given = [t for t in (out, left.values, right.values) if t is not None]
    library = sparse_kernel() if raw_float32(*given) else None
    if library is not None and all(t.is_contiguous() for t in given):
        pointers = _pointers(*left[:2], left.values, *right[:2], right.values, out)
        library.sparse_times_sparse(*shape, *pointers, torch.get_num_threads())
        return out
    picked = right.take(left.columns.long())
    of = picked.rows()
    values = torch.ones_like(of, dtype=torch.float32)
    if left.values is not None:
        values = left.values[of]
    if picked.values is not None:
        values = values * picked.values
    flat = left.rows()[of] * right.num_columns + picked.columns
    return out.zero_().view(-1).index_add_(0, flat, values).view(shape)


def scaled_transpose(x: Tensor, scale: Tensor, out: Tensor) -> None:
    """Write (scale * x)' to `out`: torch would go through one of them number by number.

    Shape:
        x      [N, W]  float32
        scale  [N]     float32
        out    [W, N]  float32
    """
    library = sparse_kernel() if raw_float32(x, scale, out) else None
    if library is not None and x.is_contiguous() and out.is_contiguous():
        library.scaled_transpose(*x.shape, *_pointers(scale, x, out), torch.get_num_threads())
    else:
        torch.mul(x.T, scale, out=out)


@functools.cache
def sparse_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    i32, i64, f32, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_float, ctypes.c_void_p
    function = library.sparse_times_dense
    function.argtypes, function.restype = [i64, i64, *8 * [ptr], *3 * [f32], i32], None
    function = library.sparse_times_sparse
    function.argtypes, function.restype = [i64, i64, *7 * [ptr], i32], None
    function = library.scaled_transpose
    function.argtypes, function.restype = [i64, i64, *3 * [ptr], i32], None
    return library


def _pointers(*tensors: Tensor | None) -> list[int | None]:
    return [None if tensor is None else tensor.data_ptr() for tensor in tensors]
