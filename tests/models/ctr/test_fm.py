from __future__ import annotations

import pytest
import torch

from recsys.embedding.embedded import Embedded
from recsys.models.ctr.fm import FM
from tests import contract


@pytest.mark.parametrize("seed", range(3))
def test_equals_equation_1_written_out(seed: int) -> None:
    embedded = Embedded.random(batch=4, fields=5, dim=3, dense=2, seed=seed)
    torch.manual_seed(seed)
    model = FM(num_fields=5, embed_dim=3, num_dense=2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_()
    first_order = model.first_order.requires_grad_(False)
    weight, bias = first_order.dense_weight, first_order.bias
    assert embedded.linear is not None
    fields = embedded.fields.double()
    for row in range(4):
        expected = float(bias)
        for field in range(5):
            expected += float(embedded.linear[row, field])
        for column in range(2):
            expected += float(weight[column]) * float(embedded.dense[row, column])
        for m in range(5):
            for n in range(m + 1, 5):
                for k in range(3):
                    expected += float(fields[row, m, k] * fields[row, n, k])
        assert float(model(embedded)[row]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("rows", "count"), [(5_389, 59_280), (90_239, 992_630)])
def test_parameter_count_of_the_benchmark(rows: int, count: int) -> None:
    """BARS' Frappe and MovieLens logs: a vector of width 10 and a weight per row, one bias."""
    assert rows * (10 + 1) + contract.num_parameters(FM(10, 10, 0)) == count


def test_learns_an_interaction() -> None:
    assert contract.fit_xor("fm") > 0.95
