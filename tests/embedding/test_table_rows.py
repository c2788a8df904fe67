"""Rows taken on the device are the rows that the table itself takes."""

import numpy as np
import pytest
import torch

from recsys.data.encode import EncodedTable
from recsys.embedding.table_rows import TableRows


def table(rows: int = 6) -> EncodedTable:
    rng = np.random.default_rng(0)
    lengths = {"list": np.array([2, 0, 3, 1, 0, 4]), "a.b": np.ones(6, np.int64)}
    ragged = {
        name: (
            rng.integers(3, 9, one.sum()).astype(np.int32),
            np.concatenate([[0], np.cumsum(one)]),
        )
        for name, one in lengths.items()
    }
    ids = rng.integers(0, 9, (rows, 2)).astype(np.int32)
    return EncodedTable(ids, rng.normal(size=(rows, 1)).astype(np.float32), ragged)


@pytest.mark.parametrize("rows", [[5, 0, 2, 2], [1], [4, 1], []])
def test_rows_are_those_of_the_table(rows: list[int]) -> None:
    found = TableRows(table())(torch.tensor(rows, dtype=torch.int64))
    expected = table().take(np.array(rows, np.int64)).to_batch()
    assert len(found) == len(rows)
    assert torch.equal(found.ids, expected.ids)
    assert torch.equal(found.dense, expected.dense)
    for name, one in expected.ragged.items():
        assert torch.equal(found.ragged[name].values, one.values)
        assert torch.equal(found.ragged[name].offsets, one.offsets)


def test_the_table_is_no_part_of_the_weights_but_moves_with_them() -> None:
    rows = TableRows(table())
    assert len(rows) == 6
    assert rows.state_dict() == {}
    moved = rows.to("meta")
    assert all(buffer.is_meta for buffer in moved.buffers())
    assert len(list(moved.buffers())) == 6
