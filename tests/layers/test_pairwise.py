"""The pairwise loss against its formula, and a batch's rows against indexing."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recsys.data.triples import Triples
from recsys.layers import pairwise
from recsys.layers.pairwise import BatchRows, bpr_loss, pairwise_kernel, squared_norms
from recsys.layers.propagation import Both


def draw_batch(size: int, negatives: int, users: int = 10, items: int = 12) -> Triples:
    generator = torch.Generator().manual_seed(size + negatives)
    return Triples(
        torch.randint(users, (size,), generator=generator),
        torch.randint(items, (size,), generator=generator),
        torch.randint(items, (size, negatives), generator=generator),
    )


def draw_vectors(rows: BatchRows, width: int, dtype: torch.dtype = torch.float64) -> Both:
    generator = torch.Generator().manual_seed(width)
    parts = (
        torch.randn(len(of), width, generator=generator, dtype=torch.float64) * width**-0.5
        for of in rows.once
    )
    return Both(*(part.to(dtype).requires_grad_() for part in parts))


def triples_of(rows: BatchRows, vectors: Both) -> list[tuple[Tensor, Tensor, list[Tensor]]]:
    """User, positive and negatives of every row, one by one."""
    size, n = len(rows.user_at), rows.num_negatives
    return [
        (
            vectors.users[rows.user_at[b]],
            vectors.items[rows.item_at[b]],
            [vectors.items[rows.item_at[size + b * n + k]] for k in range(n)],
        )
        for b in range(size)
    ]


def slow_bpr(rows: BatchRows, vectors: Both) -> Tensor:
    terms = [
        torch.log1p(torch.exp(u @ j - u @ i))
        for u, i, negatives in triples_of(rows, vectors)
        for j in negatives
    ]
    return torch.stack(terms).mean()


@pytest.mark.parametrize("negatives", [1, 3])
@pytest.mark.parametrize("width", [1, 4, 19, 64])
@pytest.mark.parametrize("threads", [1, 2])
def test_bpr_and_its_gradient_equal_the_formula(negatives: int, width: int, threads: int) -> None:
    rows = BatchRows.of(draw_batch(90, negatives))
    exact = draw_vectors(rows, width)
    expected = slow_bpr(rows, exact)
    (3 * expected).backward()
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 3e-6)):
            vectors = draw_vectors(rows, width, dtype)
            found = bpr_loss(rows, vectors)
            (3 * found).backward()
            torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)
            for part, reference in zip(vectors, exact, strict=True):
                assert part.grad is not None
                assert reference.grad is not None
                torch.testing.assert_close(
                    part.grad.double(), reference.grad, rtol=tolerance, atol=tolerance
                )
    finally:
        torch.set_num_threads(before)


def test_the_kernel_is_what_computes_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a compiler the same numbers come of torch's operations."""
    rows = BatchRows.of(draw_batch(50, 2))
    results = []
    for kernel in (pairwise_kernel, lambda: None):
        monkeypatch.setattr(pairwise, "pairwise_kernel", kernel)
        vectors = draw_vectors(rows, 16, torch.float32)
        loss = bpr_loss(rows, vectors)
        loss.backward()
        assert loss.grad_fn is not None
        results.append((loss.grad_fn.name(), loss.detach(), *(v.grad for v in vectors)))
    assert [name for name, *_ in results] == ["_BPRBackward", "MeanBackward0"]
    for fast, plain in zip(results[0][1:], results[1][1:], strict=True):
        torch.testing.assert_close(fast, plain)


def test_the_same_bits_whatever_the_threads() -> None:
    rows = BatchRows.of(draw_batch(3000, 2, 150, 400))
    found = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            vectors = draw_vectors(rows, 24, torch.float32)
            loss = bpr_loss(rows, vectors)
            loss.backward()
            found.append([loss.detach(), *(v.grad for v in vectors)])
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_squared_norms_equal_their_formula() -> None:
    rows = BatchRows.of(draw_batch(30, 3))
    vectors = draw_vectors(rows, 4)
    total = sum(
        x.item() ** 2
        for u, i, negatives in triples_of(rows, vectors)
        for part in (u, i, *negatives)
        for x in part
    )
    torch.testing.assert_close(squared_norms(rows, vectors).item(), total / 60)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_large_margins_are_finite(dtype: torch.dtype) -> None:
    rows = BatchRows.of(Triples(torch.tensor([0]), torch.tensor([0]), torch.tensor([[1]])))
    for sign, expected in ((1.0, 0.0), (-1.0, 2e8)):
        items = torch.tensor([[sign * 1e4], [-sign * 1e4]], dtype=dtype)
        vectors = Both(torch.full((1, 1), 1e4, dtype=dtype).requires_grad_(), items)
        loss = bpr_loss(rows, vectors)
        loss.backward()
        torch.testing.assert_close(loss.item(), expected)
        assert vectors.users.grad is not None
        assert vectors.users.grad.isfinite().all()


def test_a_nan_stays_one() -> None:
    rows = BatchRows.of(draw_batch(8, 1))
    vectors = draw_vectors(rows, 8, torch.float32)
    vectors.users.data[0, 0] = math.nan
    assert bpr_loss(rows, vectors).isnan()


def test_rows_of_a_batch_equal_indexing() -> None:
    batch = draw_batch(20, 3)
    rows = BatchRows.of(batch)
    assert torch.equal(rows.once.users[rows.user_at], batch.users)
    drawn = torch.cat([batch.positives, batch.negatives.flatten()])
    assert torch.equal(rows.once.items[rows.item_at], drawn)
    assert torch.equal(rows.counts.items, torch.bincount(rows.item_at))
    assert torch.equal(rows.counts.users, torch.bincount(rows.user_at))
    assert torch.equal(rows.once.items[rows.positives_once], batch.positives.unique())
