"""The local activation unit: how much each past event says about the item at hand.

Source    Zhou et al., KDD 2018, arXiv:1706.06978, Sec. 4.3, Eq. 3, with the inputs of the authors'
          code: target, event, their difference and their product.
Differs   Histories are jagged: a padded position does not exist, so nothing has to be masked. The
          first layer is W [q; k; q - k; q * k] without the concatenation, see `PairLinear`.
Letters   B rows, P events of all rows end to end, T the longest history, D width, H units.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recsys.embedding.embedded import History
from recsys.errors import ConfigError, did_you_mean
from recsys.layers.mlp import build_activation, check_dropout, check_hidden_dims, init_linear
from recsys.layers.segments import raw_float32, row_of_event, segment_softmax, segment_sum
from recsys.native import load_kernel

POOLINGS = ("attention", "sum", "mean")


class PairLinear(nn.Linear):
    """`W [q; k; q - k; q * k] + b` of each event k and its row's target q.

    As `(W_q + W_d) q + (W_k - W_d) k + W_p (q * k)`: the first term is one product per row, not per
    event, and no [P, 4 D] tensor is ever made, nor kept for the backward pass. On a CPU in float32
    the last two terms are one product with the row's own matrix, `W_k - W_d + W_p diag(q)`.

    Args:
        dim: D.
        out_dim: H.

    Shape:
        events   [P, D]
        offsets  [B + 1]  int64
        target   [B, D]
        return   [P, H]

    Example:
        >>> layer = PairLinear(4, 3)
        >>> layer(torch.zeros(5, 4), torch.tensor([0, 2, 5]), torch.zeros(2, 4)).shape
        torch.Size([5, 3])
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__(4 * dim, out_dim)

    def forward(self, events: Tensor, offsets: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        of_query, of_key, of_difference, of_product = self.weight.chunk(4, dim=1)
        with _no_autocast(events.device):
            events, target = events.to(self.weight.dtype), target.to(self.weight.dtype)
            row_terms = nnf.linear(target, of_query + of_difference, self.bias)
            out: Tensor = _Pair.apply(
                events, offsets, target, row_terms, of_key - of_difference, of_product
            )
        return out


class TargetAttention(nn.Module):
    """One vector per row: the sum of its events, each weighted by a small network of it and the
    target.

    Args:
        dim: Width D of events and target.
        hidden_dims: Hidden layers of the network, at least one.
        activation: Of the hidden layers; a name that `build_activation` knows.
        dropout: Probability after each activation, in [0, 1).
        softmax: Make the weights of a row add up to 1. The paper does not: their sum says how
            strong the interest is.

    Shape:
        history  History of B rows, P events [P, D]
        target   [B, D]
        return   [B, D]; zeros for a row without events

    Example:
        >>> history = History(torch.zeros(3, 4), torch.tensor([0, 2, 2, 3]), 2)
        >>> TargetAttention(4, [8])(history, torch.zeros(3, 4)).shape
        torch.Size([3, 4])
    """

    def __init__(
        self,
        dim: int,
        hidden_dims: Sequence[int],
        *,
        activation: str = "dice",
        dropout: float = 0.0,
        softmax: bool = False,
    ) -> None:
        super().__init__()
        check_hidden_dims(hidden_dims)
        check_dropout("attention_dropout", dropout)
        self.softmax = softmax
        self.first = PairLinear(dim, hidden_dims[0])
        rest: list[nn.Module] = []
        for index, width in enumerate(hidden_dims):
            if index:
                rest.append(nn.Linear(hidden_dims[index - 1], width))
            rest.append(build_activation(activation, width))
            if dropout:
                rest.append(nn.Dropout(dropout))
        # A softmax is blind to what it adds to every score, so that a bias would learn nothing.
        rest.append(nn.Linear(hidden_dims[-1], 1, bias=not softmax))
        self.rest = nn.Sequential(*rest)
        init_linear(self)

    def forward(self, history: History, target: Tensor) -> Tensor:
        weights = self.weights(history, target)
        return segment_sum(history.values, history.offsets, weights)

    def weights(self, history: History, target: Tensor) -> Tensor:
        """Weight of each event, [P]."""
        hidden = self.first(history.values, history.offsets, target)
        scores: Tensor = self.rest(hidden).squeeze(1).to(history.values.dtype)
        return segment_softmax(scores, history.offsets) if self.softmax else scores


def pool(history: History, pooling: str) -> Tensor:
    """`sum` or `mean` of each row's events, [B, D]; zeros for a row without events."""
    total = segment_sum(history.values, history.offsets)
    if pooling == "sum":
        return total
    return total / history.lengths.clamp(min=1).unsqueeze(1)


def check_pooling(pooling: str) -> str:
    """Return `pooling` when it is one of `POOLINGS`, else raise ConfigError."""
    if pooling not in POOLINGS:
        raise ConfigError(f'pooling is "{pooling}".{did_you_mean(pooling, POOLINGS)}')
    return pooling


def _no_autocast(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Autocast knows no function of our own: it computes in the type of its weights."""
    if device.type == "meta":
        return contextlib.nullcontext()
    return torch.autocast(device.type, enabled=False)


@functools.cache
def target_attention_kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built (the first call says why)."""
    library = load_kernel(Path(__file__).with_suffix(".cpp"))
    if library is None:
        return None
    i32, i64, ptr = ctypes.c_int32, ctypes.c_int64, ctypes.c_void_p
    for name, pointers in (("pair_forward", 7), ("pair_backward", 12)):
        function = getattr(library, name)
        function.argtypes, function.restype = [*3 * [i64], *pointers * [ptr], i32], None
    library.pair_groups.restype = i64
    return library


class _Pair(torch.autograd.Function):
    """`row_terms of the event's row + W_k k + W_p (q * k)`; the product is made again in backward.

    Shape:
        keys       [P, D]
        queries    [B, D]
        row_terms  [B, H]
        w_key      [H, D]
        w_product  [H, D]
        return     [P, H]
    """

    @staticmethod
    def forward(
        ctx: Any,
        keys: Tensor,
        offsets: Tensor,
        queries: Tensor,
        row_terms: Tensor,
        w_key: Tensor,
        w_product: Tensor,
    ) -> Tensor:
        floats = [one.contiguous() for one in (keys, queries, row_terms, w_key, w_product)]
        keys, queries, row_terms, w_key, w_product = floats
        ctx.native = raw_float32(*floats) and target_attention_kernel() is not None
        ctx.save_for_backward(keys, offsets, queries, w_key, w_product)
        if ctx.native:
            z = keys.new_empty(keys.shape[0], row_terms.shape[1])
            _call("pair_forward", w_key, offsets, *floats, z)
            return z
        rows = row_of_event(offsets, keys.shape[0])
        z = row_terms.index_select(0, rows).addmm_(keys, w_key.T)
        return z.addmm_(keys * queries.index_select(0, rows), w_product.T)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dz: Tensor) -> tuple[Tensor | None, ...]:
        keys, offsets, queries, w_key, w_product = ctx.saved_tensors
        dz = dz.contiguous()
        if ctx.native:
            wanted = ctx.needs_input_grad[0]
            return _backward(dz, keys, offsets, queries, w_key, w_product, wanted)
        rows = row_of_event(offsets, keys.shape[0])
        d_row_terms = dz.new_zeros(queries.shape[0], dz.shape[1]).index_add_(0, rows, dz)
        of_row = queries.index_select(0, rows)
        d_w_key, d_w_product = dz.T @ keys, dz.T @ (keys * of_row)
        d_product = dz @ w_product
        d_queries = torch.zeros_like(queries).index_add_(0, rows, d_product * keys)
        d_keys = d_product.mul_(of_row).addmm_(dz, w_key)
        return d_keys, None, d_queries, d_row_terms, d_w_key, d_w_product


def _backward(
    dz: Tensor,
    keys: Tensor,
    offsets: Tensor,
    queries: Tensor,
    w_key: Tensor,
    w_product: Tensor,
    wants_keys: bool,
) -> tuple[Tensor | None, ...]:
    library = target_attention_kernel()
    assert library is not None
    d_keys = torch.empty_like(keys) if wants_keys else None
    d_queries, d_row_terms = torch.empty_like(queries), dz.new_empty(len(queries), dz.shape[1])
    d_w_key, d_w_product = torch.empty_like(w_key), torch.empty_like(w_product)
    partial = dz.new_empty(library.pair_groups(), 2, *w_key.shape)
    results = (d_keys, d_queries, d_row_terms, d_w_key, d_w_product)
    inputs = (offsets, keys, queries, w_key, w_product, dz, partial)
    _call("pair_backward", w_key, *inputs, *results)
    return d_keys, None, d_queries, d_row_terms, d_w_key, d_w_product


def _call(name: str, w_key: Tensor, *arguments: Tensor | None) -> None:
    """Call the kernel with B, D and H, then everything, then the threads."""
    library = target_attention_kernel()
    assert library is not None
    offsets = arguments[0]
    assert offsets is not None
    num_units, dim = w_key.shape
    pointers = (None if one is None else one.data_ptr() for one in arguments)
    num_rows = offsets.shape[0] - 1
    getattr(library, name)(num_rows, dim, num_units, *pointers, torch.get_num_threads())
