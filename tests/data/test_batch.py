"""A batch moves as a whole."""

import pytest
import torch

from recsys.data.batch import Batch, Ragged


def batch(full: bool) -> Batch:
    extra = torch.arange(3)
    return Batch(
        ids=torch.ones(3, 2, dtype=torch.int32),
        dense=torch.zeros(3, 1),
        label=torch.tensor([0.0, 1.0, 0.0]),
        ragged={"h": Ragged(torch.tensor([4, 5, 6]), torch.tensor([0, 1, 1, 3]))},
        weight=extra.float() if full else None,
        group=extra if full else None,
        row=extra if full else None,
    )


def test_length_and_list_lengths() -> None:
    assert len(batch(True)) == 3
    assert batch(True).ragged["h"].lengths.tolist() == [1, 0, 2]


def test_every_tensor_moves_and_none_stays_none() -> None:
    moved = batch(True).to(torch.device("meta"))
    tensors = [moved.ids, moved.dense, moved.label, moved.weight, moved.group, moved.row]
    tensors += [moved.ragged["h"].values, moved.ragged["h"].offsets]
    assert {t.device.type for t in tensors} == {"meta"}
    bare = batch(False).to(torch.device("cpu"))
    assert (bare.weight, bare.group, bare.row) == (None, None, None)
    assert bare.ids.dtype == torch.int32


def test_take_is_the_rows_in_that_order() -> None:
    batch = Batch(
        ids=torch.tensor([[1, 2], [3, 4], [5, 6], [7, 8]], dtype=torch.int32),
        dense=torch.tensor([[0.1], [0.2], [0.3], [0.4]]),
        label=torch.tensor([0.0, 1.0, 0.0, 1.0]),
        ragged={"h": Ragged(torch.tensor([4, 5, 6, 9]), torch.tensor([0, 1, 1, 3, 4]))},
        weight=torch.tensor([1.0, 2.0, 3.0, 4.0]),
        row=torch.arange(10, 14),
    )
    part = batch.take(torch.tensor([2, 1, 0, 2]))
    assert part.ids.tolist() == [[5, 6], [3, 4], [1, 2], [5, 6]]
    assert part.dense.squeeze(1).tolist() == pytest.approx([0.3, 0.2, 0.1, 0.3])
    assert part.label.tolist() == [0, 1, 0, 0]
    assert part.weight is not None
    assert part.weight.tolist() == [3, 2, 1, 3]
    assert part.row is not None
    assert part.row.tolist() == [12, 11, 10, 12]
    assert part.group is None
    assert part.ragged["h"].values.tolist() == [5, 6, 4, 5, 6]
    assert part.ragged["h"].offsets.tolist() == [0, 2, 2, 3, 5]
    none = batch.take(torch.tensor([], dtype=torch.int64))
    assert len(none) == 0
    assert none.ragged["h"].offsets.tolist() == [0]
