from __future__ import annotations

import pytest
import torch

from recsys.embedding.embedded import Embedded
from recsys.models.ctr.lr import LR
from tests import contract


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_sum_written_out(seed: int) -> None:
    embedded = Embedded.random(batch=4, fields=3, dim=1, dense=2, seed=seed)
    torch.manual_seed(seed)
    model = LR(num_fields=3, embed_dim=1, num_dense=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    first_order = model.first_order.requires_grad_(False)
    weight, bias = first_order.dense_weight, first_order.bias
    assert embedded.linear is not None
    for row in range(4):
        expected = float(bias)
        for field in range(3):
            expected += float(embedded.linear[row, field])
        for column in range(2):
            expected += float(weight[column]) * float(embedded.dense[row, column])
        assert float(model(embedded)[row]) == pytest.approx(expected, abs=1e-5)


def test_starts_at_the_sum_of_the_first_order_weights() -> None:
    embedded = Embedded.random(batch=4, fields=3, dim=1, dense=2)
    assert embedded.linear is not None
    model = LR(num_fields=3, embed_dim=1, num_dense=2)
    assert torch.equal(model(embedded), embedded.linear.sum(dim=1))


def test_parameter_count_on_frappe() -> None:
    assert 5_389 + contract.num_parameters(LR(10, 1, 0)) == 5_390


def test_cannot_learn_an_interaction() -> None:
    assert 0.4 < contract.fit_xor("lr") < 0.6
