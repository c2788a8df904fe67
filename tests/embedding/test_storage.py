"""Every storage answers the same lookup, and the fused update equals the row-sparse one."""

from collections.abc import Callable

import pytest
import torch

from recsys.embedding.storage import (
    DenseStorage,
    FusedStorage,
    SparseStorage,
    Storage,
    rowwise_scale,
)
from recsys.errors import ConfigError
from recsys.training.row_sparse import RowwiseAdagrad

STORAGES: dict[str, Callable[[int, int], Storage]] = {
    "dense": DenseStorage,
    "sparse": SparseStorage,
    "fused": lambda rows, width: FusedStorage(rows, width, optimizer="rowwise_adagrad", lr=0.1),
}


def filled(make: Callable[[int, int], Storage], rows: int = 20, width: int = 4) -> Storage:
    torch.manual_seed(0)
    storage = make(rows, width)
    storage.initialize(1.0)
    return storage


@pytest.mark.parametrize("name", STORAGES)
def test_singles_bags_and_padding(name: str) -> None:
    storage = filled(STORAGES[name])
    table = storage.table().clone()
    rows = torch.tensor([3, 0, 7, 7])
    vectors, bags = storage(rows, torch.tensor([1, 2, 2]), torch.tensor([0, 2, 2, 3]))
    assert torch.equal(vectors, table[rows])
    assert bags is not None
    expected = torch.stack([table[1] + table[2], torch.zeros(4), table[2]])
    torch.testing.assert_close(bags, expected)
    assert torch.equal(table[0], torch.zeros(4))


@pytest.mark.parametrize("name", ["dense", "sparse"])
def test_padding_is_never_trained(name: str) -> None:
    storage = filled(STORAGES[name])
    vectors, _ = storage(torch.tensor([0, 5, 0]))
    vectors.sum().backward()
    if name == "dense":
        assert torch.equal(storage.weight.grad[0], torch.zeros(4))
    if name == "sparse":
        assert 0 not in storage.weight.grad.coalesce().indices()[0].tolist() or torch.equal(
            storage.weight.grad.to_dense()[0], torch.zeros(4)
        )
    assert torch.equal(storage.table()[0], torch.zeros(4))


@pytest.mark.parametrize("width", [4, 5])
def test_fused_and_row_sparse_adagrad_train_alike(width: int) -> None:
    """At a width that FBGEMM fills up with zeros too, which its mean over a row counts."""
    sparse = filled(STORAGES["sparse"], width=width)
    fused = filled(STORAGES["fused"], width=width)
    fused.table().copy_(sparse.table())
    optimizer = RowwiseAdagrad(sparse.parameters(), lr=0.1)
    generator = torch.Generator().manual_seed(3)
    for _ in range(10):
        rows = torch.randint(1, 20, (30,), generator=generator)
        bags = torch.randint(1, 20, (12,), generator=generator)
        offsets = torch.tensor([0, 5, 5, 12])
        weight = torch.randn(33, width, generator=generator)
        for storage in (sparse, fused):
            optimizer.zero_grad()
            vectors, sums = storage(rows, bags, offsets)
            (torch.cat([vectors, sums]) * weight).sum().backward()
            if storage is sparse:
                optimizer.step()
    torch.testing.assert_close(sparse.table(), fused.table(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        optimizer.state[sparse.weight]["sum_of_squares"],
        fused.optimizer_state()["sum_of_squares"] / rowwise_scale(width) ** 2,
        rtol=1e-5,
        atol=1e-6,
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "rowwise_adagrad"])
def test_fused_widths_that_are_no_multiple_of_four(optimizer: str) -> None:
    storage = FusedStorage(10, 6, optimizer=optimizer, lr=0.1)
    storage.initialize(1.0)
    vectors, _ = storage(torch.tensor([1, 2]))
    assert vectors.shape == (2, 6)
    before = storage.table().clone()
    vectors.sum().backward()
    moved = (storage.table() != before).any(1)
    assert moved.tolist() == [False, True, True] + [False] * 7
    for state in storage.optimizer_state().values():
        assert state.shape[0] == 10


def test_fused_learning_rate_can_change() -> None:
    storage = FusedStorage(4, 4, optimizer="sgd", lr=0.1)
    storage.set_learning_rate(0.0)
    before = storage.table().clone()
    storage(torch.tensor([1]))[0].sum().backward()
    assert torch.equal(storage.table(), before)


def test_an_optimiser_that_is_not_fused_is_refused() -> None:
    with pytest.raises(ConfigError, match="adam"):
        FusedStorage(4, 4, optimizer="adam", lr=0.1)
