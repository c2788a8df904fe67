from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recsys.embedding.embedded import Embedded
from recsys.models.base import CTRModel


class Sum(CTRModel):
    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        return embedded.flat().sum(dim=1)


class WithLinear(Sum):
    needs_linear = True


def test_sizes_are_kept() -> None:
    model = Sum(num_fields=3, embed_dim=4, num_dense=2)
    assert (model.num_fields, model.embed_dim, model.num_dense) == (3, 4, 2)


def test_nothing_to_read_is_an_error() -> None:
    with pytest.raises(ValueError, match="neither fields nor dense columns"):
        Sum(num_fields=0, embed_dim=4, num_dense=0)


def test_check_input_passes_and_counts() -> None:
    model = Sum(num_fields=3, embed_dim=4, num_dense=2)
    assert model(Embedded.random(batch=5, fields=3, dim=4, dense=2)).shape == (5,)
    with pytest.raises(ValueError, match=r"fields \[5, 3, 4\] and dense \[5, 0\]"):
        model(Embedded.random(batch=5, fields=3, dim=4))


def test_first_order_weights_are_asked_for() -> None:
    model = WithLinear(num_fields=3, embed_dim=4, num_dense=0)
    embedded = Embedded.random(batch=5, fields=3, dim=4)
    model.check_input(embedded)
    embedded.linear = None
    with pytest.raises(ValueError, match="linear=True"):
        model.check_input(embedded)


def test_defaults_are_neutral() -> None:
    model = Sum(num_fields=3, embed_dim=4, num_dense=0)
    assert torch.equal(model.regularization(), torch.zeros(()))
    assert model.explain(Embedded.random(batch=2, fields=3, dim=4)) == {}


@pytest.mark.parametrize("norm", [nn.BatchNorm1d, nn.LazyBatchNorm1d, nn.SyncBatchNorm])
def test_batch_normalisation_ties_rows_together(norm: type[nn.Module]) -> None:
    model = Sum(num_fields=3, embed_dim=4, num_dense=0)
    assert model.rows_are_independent()
    model.norm = nn.Sequential(norm() if norm is nn.LazyBatchNorm1d else norm(4))
    assert not model.rows_are_independent()
