"""Row-sparse optimisers against torch's SparseAdam, FBGEMM's row-wise Adagrad and a plain loop."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from recsys.training.row_sparse import (
    SGD,
    Adagrad,
    LazyAdam,
    RowwiseAdagrad,
    sum_duplicates,
)


def train(optimizer: torch.optim.Optimizer, weight: torch.nn.Parameter, sparse: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    for _ in range(20):
        rows = torch.randint(0, weight.shape[0], (50,), generator=generator)
        target = torch.randn(50, weight.shape[1], generator=generator)
        optimizer.zero_grad()
        loss = ((F.embedding(rows, weight, sparse=sparse) - target) ** 2).sum()
        loss.backward()
        optimizer.step()


def test_equals_sparse_adam() -> None:
    start = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    train(LazyAdam([ours], lr=0.05), ours, sparse=True)
    train(torch.optim.SparseAdam([theirs], lr=0.05), theirs, sparse=True)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_equals_adam_when_every_row_is_seen() -> None:
    start = torch.randn(1, 4, generator=torch.Generator().manual_seed(0))
    ours, theirs = (torch.nn.Parameter(start.clone()) for _ in range(2))
    train(LazyAdam([ours], lr=0.05), ours, sparse=True)
    train(torch.optim.Adam([theirs], lr=0.05), theirs, sparse=False)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(Adagrad, torch.optim.Adagrad), (SGD, torch.optim.SGD)]
)
def test_rows_move_as_torch_moves_all(
    ours: type[torch.optim.Optimizer], theirs: type[torch.optim.Optimizer]
) -> None:
    """Rows without a gradient do not move by these rules, so that sparse and dense agree."""
    start = torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    mine, other = (torch.nn.Parameter(start.clone()) for _ in range(2))
    train(ours([mine], lr=0.05), mine, sparse=True)
    train(theirs([other], lr=0.05), other, sparse=False)
    assert not torch.equal(mine, start)
    torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)


def test_rowwise_adagrad_equals_a_float64_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(6, 3, generator=generator))
    expected, total = weight.detach().double().clone(), torch.zeros(6, dtype=torch.float64)
    optimizer = RowwiseAdagrad([weight], lr=0.1, eps=1e-8)
    for _ in range(10):
        rows = torch.randint(0, 6, (8,), generator=generator)
        gradient = torch.randn(8, 3, generator=generator)
        optimizer.zero_grad()
        F.embedding(rows, weight, sparse=True).backward(gradient)
        optimizer.step()
        for row in set(rows.tolist()):
            summed = gradient[rows == row].double().sum(0)
            total[row] += (summed**2).mean()
            expected[row] -= 0.1 * summed / (total[row] ** 0.5 + 1e-8)
    torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-5, atol=1e-6)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=40))
def test_sum_duplicates_equals_coalesce(rows: list[int]) -> None:
    values = torch.arange(len(rows) * 3, dtype=torch.float32).view(-1, 3)
    gradient = torch.sparse_coo_tensor(torch.tensor([rows]), values, (10, 3), check_invariants=True)
    expected = gradient.coalesce()
    distinct, sums = sum_duplicates(gradient)
    order = distinct.argsort()
    assert torch.equal(distinct[order], expected.indices()[0])
    torch.testing.assert_close(sums[order], expected.values())


def test_untouched_rows_keep_their_bits() -> None:
    weight = torch.nn.Parameter(torch.randn(10, 4))
    before = weight.detach().clone()
    optimizer = LazyAdam([weight])
    F.embedding(torch.tensor([2, 2, 5]), weight, sparse=True).sum().backward()
    optimizer.step()
    touched = torch.tensor([2, 5])
    assert (weight[touched] != before[touched]).all()
    rest = torch.tensor([i for i in range(10) if i not in (2, 5)])
    assert torch.equal(weight[rest], before[rest])


def test_a_dense_gradient_is_refused() -> None:
    weight = torch.nn.Parameter(torch.randn(10, 4))
    F.embedding(torch.tensor([2]), weight).sum().backward()
    with pytest.raises(RuntimeError, match="use Adam"):
        LazyAdam([weight]).step()


def test_bad_arguments_are_refused() -> None:
    weight = torch.nn.Parameter(torch.zeros(1, 1))
    with pytest.raises(ValueError, match="lr=-1"):
        LazyAdam([weight], lr=-1)
    for kind in (RowwiseAdagrad, Adagrad, SGD):
        with pytest.raises(ValueError, match="lr=-1"):
            kind([weight], lr=-1)
    with pytest.raises(ValueError, match="betas"):
        LazyAdam([weight], betas=(0.9, 1.0))
