"""A batch of triples moves as a whole."""

import torch

from recsys.data.triples import Triples


def test_length_and_device() -> None:
    batch = Triples(torch.arange(3), torch.arange(3), torch.zeros(3, 5, dtype=torch.int64))
    assert len(batch) == 3
    moved = batch.to(torch.device("meta"))
    assert {t.device.type for t in (moved.users, moved.positives, moved.negatives)} == {"meta"}
    assert moved.negatives.shape == (3, 5)
