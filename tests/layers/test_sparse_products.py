"""Products of sparse rows against dense matrices, by the kernel and by torch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.layers import sparse_products
from recsys.layers.sparse_products import (
    SparseRows,
    scaled_transpose,
    sparse_kernel,
    sparse_times_dense,
    sparse_times_sparse,
)


def draw(rows: int, columns: int, share: float, valued: bool) -> tuple[SparseRows, Tensor]:
    """A sparse matrix, and the same dense in float64."""
    generator = torch.Generator().manual_seed(rows + columns)
    kept = torch.rand(rows, columns, generator=generator) < share
    kept[rows // 2] = False
    dense = kept.double()
    if valued:
        dense *= torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(1).cumsum(0)])
    values = dense[kept].float() if valued else None
    return SparseRows(offsets, kept.nonzero()[:, 1].int(), columns, values), dense


@pytest.fixture(params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(sparse_products, "raw_float32", lambda *_: False)
    elif sparse_kernel() is None:
        pytest.skip("no C++ compiler: the kernel cannot be built")
    return request.param


@pytest.mark.parametrize("width", [1, 7, 32, 64, 133])
@pytest.mark.parametrize("valued", [True, False])
@pytest.mark.parametrize("terms", [0, 1, 2])
def test_times_dense(width: int, valued: bool, terms: int, way: str) -> None:
    sparse, dense = draw(23, 31, 0.3, valued)
    x = torch.randn(31, width)
    scale, plus, more = torch.randn(23), torch.randn(23, width), torch.randn(23, width)
    expected = 3.0 * scale.double().unsqueeze(1) * (dense @ x.double())
    if terms:
        expected += 0.5 * plus
    if terms == 2:
        expected -= 2.0 * more
    out = more if terms == 2 else None
    found = sparse_times_dense(
        sparse,
        x,
        scale=scale,
        alpha=3.0,
        plus=plus if terms else None,
        beta=0.5,
        plus_too=more if terms == 2 else None,
        gamma=-2.0,
        out=out,
    )
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)
    assert out is None or found is out


def test_strides_do_not_matter(way: str) -> None:
    sparse, dense = draw(9, 11, 0.4, True)
    x = torch.randn(5, 11).T
    found = sparse_times_dense(sparse, x)
    torch.testing.assert_close(found.double(), dense @ x.double(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("left_valued", [True, False])
@pytest.mark.parametrize("right_valued", [True, False])
def test_times_sparse(left_valued: bool, right_valued: bool, way: str) -> None:
    left, dense_left = draw(12, 17, 0.3, left_valued)
    right, dense_right = draw(17, 29, 0.2, right_valued)
    found = sparse_times_sparse(left, right)
    torch.testing.assert_close(found.double(), dense_left @ dense_right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (16, 32), (45, 3), (0, 4)])
def test_transpose(shape: tuple[int, int], way: str) -> None:
    x, scale = torch.randn(shape), torch.randn(shape[0])
    out = torch.full(shape[::-1], float("nan"))
    scaled_transpose(x, scale, out)
    torch.testing.assert_close(out, x.T * scale)


@pytest.mark.parametrize("valued", [True, False])
def test_rows_are_taken_in_any_order(valued: bool) -> None:
    sparse, dense = draw(12, 17, 0.3, valued)
    rows = torch.tensor([4, 6, 4, 0])
    taken = sparse.take(rows)
    assert taken.num_rows == 4
    found = sparse_times_dense(taken, torch.eye(17))
    torch.testing.assert_close(found, dense[rows].float())
    assert sparse.take(rows[:0]).num_rows == 0


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    sparse, _ = draw(300, 200, 0.1, True)
    x, before, found = torch.randn(200, 40), torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(sparse_times_dense(sparse, x))
    torch.set_num_threads(before)
    assert torch.equal(*found)
