"""A batch moves as a whole."""

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
