from __future__ import annotations

import pytest
import torch

from recsys.embedding.embedded import Embedded, History


@pytest.fixture
def embedded() -> Embedded:
    return Embedded.random(batch=6, fields=3, dim=4, dense=2, histories={"h": 5}, seed=1)


def test_random_has_the_shapes_of_the_contract(embedded: Embedded) -> None:
    assert len(embedded) == 6
    assert embedded.fields.shape == (6, 3, 4)
    assert embedded.dense.shape == (6, 2)
    assert embedded.linear is not None
    assert embedded.linear.shape == (6, 3)
    assert embedded.second is not None
    assert embedded.second.shape == (6, 3, 4)
    history = embedded.history["h"]
    assert len(history) == 6
    assert history.values.shape == (int(history.offsets[-1]), 4)
    assert int(history.lengths.max()) <= history.longest == 5
    assert embedded.target["h"].shape == (6, 4)


def test_padded_histories_start_with_their_events_and_end_in_zeros(embedded: Embedded) -> None:
    history = embedded.history["h"]
    values, mask = history.padded()
    assert values.shape == (6, 5, 4)
    assert mask.shape == (6, 5)
    assert not values[~mask].any()
    assert torch.equal(values[mask], history.values)
    assert torch.equal(mask.sum(1), history.lengths)
    assert torch.equal(mask.long().cumprod(dim=1).bool(), mask)


def test_events_know_their_row(embedded: Embedded) -> None:
    history = embedded.history["h"]
    expected = [b for b, n in enumerate(history.lengths.tolist()) for _ in range(n)]
    assert history.row_of_event().tolist() == expected


def test_a_batch_without_a_single_event_has_padding_only() -> None:
    history = History(torch.zeros(0, 3), torch.zeros(3, dtype=torch.int64), 1)
    values, mask = history.padded()
    assert values.shape == (2, 1, 3)
    assert not mask.any()
    assert history.row_of_event().shape == (0,)


def test_padding_passes_gradients_to_every_event() -> None:
    values = torch.randn(3, 2, requires_grad=True)
    padded, _ = History(values, torch.tensor([0, 2, 2, 3]), 2).padded()
    (padded * torch.arange(12.0).view(3, 2, 2)).sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [[0.0, 1.0], [2.0, 3.0], [8.0, 9.0]]


def test_random_follows_its_seed_alone() -> None:
    torch.manual_seed(0)
    first = Embedded.random(batch=2, fields=3, dim=4, seed=5)
    torch.manual_seed(1)
    assert torch.equal(Embedded.random(batch=2, fields=3, dim=4, seed=5).fields, first.fields)
    assert not torch.equal(Embedded.random(batch=2, fields=3, dim=4, seed=6).fields, first.fields)


def test_flat_is_fields_in_order_then_dense(embedded: Embedded) -> None:
    flat = embedded.flat()
    assert flat.shape == (6, 14)
    for field in range(3):
        assert torch.equal(flat[:, 4 * field : 4 * field + 4], embedded.fields[:, field])
    assert torch.equal(flat[:, 12:], embedded.dense)


def test_flat_without_dense_is_a_view() -> None:
    embedded = Embedded.random(batch=2, fields=3, dim=4)
    assert embedded.flat().data_ptr() == embedded.fields.data_ptr()


def test_rows_are_views_of_every_tensor(embedded: Embedded) -> None:
    part = embedded.rows(2, 5)
    assert len(part) == 3
    assert part.linear is not None
    assert embedded.linear is not None
    assert part.second is not None
    assert embedded.second is not None
    history, start = embedded.history["h"], int(embedded.history["h"].offsets[2])
    mine = part.history["h"]
    assert torch.equal(mine.lengths, history.lengths[2:5])
    assert torch.equal(mine.values, history.values[start : start + len(mine.values)])
    assert mine.values.untyped_storage().data_ptr() == history.values.untyped_storage().data_ptr()
    for mine, whole in [
        (part.fields, embedded.fields),
        (part.dense, embedded.dense),
        (part.linear, embedded.linear),
        (part.second, embedded.second),
        (part.target["h"], embedded.target["h"]),
    ]:
        assert torch.equal(mine, whole[2:5])
        assert mine.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def test_rows_without_first_order_weights(embedded: Embedded) -> None:
    embedded.linear = None
    assert embedded.rows(0, 2).linear is None
