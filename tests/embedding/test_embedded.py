from __future__ import annotations

import pytest
import torch

from recsys.embedding.embedded import Embedded


@pytest.fixture
def embedded() -> Embedded:
    return Embedded.random(batch=6, fields=3, dim=4, dense=2, histories={"h": 5}, seed=1)


def test_random_has_the_shapes_of_the_contract(embedded: Embedded) -> None:
    assert len(embedded) == 6
    assert embedded.fields.shape == (6, 3, 4)
    assert embedded.dense.shape == (6, 2)
    assert embedded.linear is not None
    assert embedded.linear.shape == (6, 3)
    assert embedded.history["h"].values.shape == (6, 5, 4)
    assert embedded.history["h"].mask.shape == (6, 5)
    assert embedded.history["h"].mask.dtype == torch.bool
    assert embedded.target["h"].shape == (6, 4)


def test_random_histories_are_zero_where_masked_and_start_with_events(embedded: Embedded) -> None:
    history = embedded.history["h"]
    assert not history.values[~history.mask].any()
    assert history.values[history.mask].any()
    first_gap = history.mask.long().cumprod(dim=1)
    assert torch.equal(first_gap.bool(), history.mask)


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
    for mine, whole in [
        (part.fields, embedded.fields),
        (part.dense, embedded.dense),
        (part.linear, embedded.linear),
        (part.history["h"].values, embedded.history["h"].values),
        (part.history["h"].mask, embedded.history["h"].mask),
        (part.target["h"], embedded.target["h"]),
    ]:
        assert torch.equal(mine, whole[2:5])
        assert mine.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()


def test_rows_without_first_order_weights(embedded: Embedded) -> None:
    embedded.linear = None
    assert embedded.rows(0, 2).linear is None
