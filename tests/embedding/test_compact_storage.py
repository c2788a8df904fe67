"""Compact storage: what the kernel reads is, to the bit, what torch's operations read."""

from __future__ import annotations

import pytest
import torch

from recsys.data.batch import Batch
from recsys.data.schema import Field, Schema
from recsys.embedding import compact_storage
from recsys.embedding.compact_rows import FORMATS, CompactRows
from recsys.embedding.compact_storage import CompactStorage, CompactTables, compact_kernel
from recsys.embedding.lookup import EmbeddingLookup, EmbeddingOptions
from recsys.embedding.storage import DenseStorage
from recsys.errors import ConfigError

SHAPES = [(16, 16), (17, 16), (33, 16), (10, 10), (11, 5), (7, 7), (23, 11), (1, 0), (128, 64)]
every_shape = pytest.mark.parametrize(("width", "dim"), SHAPES)
every_format = pytest.mark.parametrize("form", FORMATS)


def make(
    form: str, width: int, dim: int, num_rows: int = 50
) -> tuple[CompactStorage, torch.Tensor]:
    torch.manual_seed(width)
    weights = torch.randn(num_rows, width) * 10.0 ** torch.randint(-7, 1, (num_rows, 1))
    weights[0] = 0
    storage = CompactStorage(num_rows, CompactRows(form, width, dim))
    storage.fill(weights)
    return storage, weights


def bags(num_rows: int) -> tuple[torch.Tensor, torch.Tensor]:
    lengths = torch.tensor([3, 0, 1, 9, 0])
    return torch.randint(1, num_rows, (13,)), torch.cat([torch.zeros(1).long(), lengths.cumsum(0)])


@every_format
@every_shape
def test_the_kernel_reads_what_torch_reads(
    form: str, width: int, dim: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert compact_kernel() is not None, "the kernel could not be built"
    storage, _ = make(form, width, dim)
    rows, (bag_rows, offsets) = torch.randint(0, 50, (300,)), bags(50)
    vectors, sums = storage(rows, bag_rows, offsets)
    assert storage(rows)[1] is None
    monkeypatch.setattr(compact_storage, "compact_kernel", lambda: None)
    expected, expected_sums = storage(rows, bag_rows, offsets)
    assert torch.equal(vectors, expected)
    assert torch.equal(vectors, storage.table()[rows])
    assert sums is not None
    torch.testing.assert_close(sums, expected_sums, rtol=1e-6, atol=1e-7)
    assert not sums[1].any()


@every_format
def test_threads_change_nothing(form: str) -> None:
    storage, _ = make(form, 17, 16, num_rows=1000)
    rows = torch.randint(0, 1000, (20_000,))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one, _ = storage(rows)
        torch.set_num_threads(3)
        assert torch.equal(storage(rows)[0], one)
    finally:
        torch.set_num_threads(before)


@every_format
def test_it_is_near_the_dense_storage(form: str) -> None:
    storage, weights = make(form, 17, 16)
    dense = DenseStorage(50, 17)
    dense.table().copy_(weights)
    rows, (bag_rows, offsets) = torch.randint(0, 50, (64,)), bags(50)
    found, wanted = storage(rows, bag_rows, offsets), dense(rows, bag_rows, offsets)
    largest = (storage.table() - weights).abs().amax()
    assert (found[0] - wanted[0]).abs().amax() <= largest
    assert (found[1] - wanted[1]).abs().amax() <= 9 * largest + 1e-6
    assert largest > 0


@pytest.mark.parametrize("row", [-1, 50])
def test_a_row_outside_the_table_is_an_error(row: int) -> None:
    storage, _ = make("int8", 16, 16)
    with pytest.raises(IndexError, match=f"row {row} is outside the table of 50 rows"):
        storage(torch.tensor([1, row]))
    with pytest.raises(IndexError, match=f"row {row}"):
        storage(torch.tensor([1]), torch.tensor([2, row]), torch.tensor([0, 2]))


def test_bytes_are_counted() -> None:
    storage, _ = make("int4", 17, 16)
    assert storage.weights()["int4"].nbytes == 50 * (4 + 2 + 8)
    assert CompactTables("int4", 16).row_bytes(17) == 14
    assert storage.num_weights == 50 * 17


@every_format
@pytest.mark.parametrize("layout", ["full", "hashed", "multiplexed", "unified"])
def test_a_lookup_reads_it_under_every_layout(form: str, layout: str) -> None:
    schema = Schema(
        fields=(
            Field(name="user", kind="categorical", encoding="vocabulary", size=30),
            Field(name="city", kind="categorical", encoding="vocabulary", size=9),
        ),
        labels=("click",),
    )
    options = EmbeddingOptions(layout=layout, dim=8, ratio=0.7 if layout != "full" else 1.0)
    torch.manual_seed(0)
    whole = EmbeddingLookup(schema, options, DenseStorage, linear=True)
    small = EmbeddingLookup(schema, options, CompactTables(form, 8), linear=True)
    storage = small.storage
    assert isinstance(storage, CompactStorage)
    storage.fill(whole.storage.table())
    assert {name.rpartition(".")[2] for name in small.tables_state()} == {form}
    batch = Batch(torch.tensor([[3, 0], [29, 8]]), torch.zeros(2, 0), torch.zeros(2))
    found, wanted = small(batch), whole(batch)
    torch.testing.assert_close(found.fields, wanted.fields, rtol=0, atol=3e-3)
    torch.testing.assert_close(found.linear, wanted.linear, rtol=1e-3, atol=1e-6)
    assert not found.fields[0, 1].any(), "padding is zero"
    assert small.memory()["weights"] < whole.memory()["weights"]


def test_numbers_that_do_not_fit_leave_a_reason() -> None:
    with pytest.raises(ConfigError, match="Use tables=float32"):
        CompactStorage(2, CompactRows("int8", 16, 16)).fill(torch.full((2, 16), 1e6))
