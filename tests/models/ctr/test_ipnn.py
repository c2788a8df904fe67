from __future__ import annotations

import pytest
import torch

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.models.ctr.ipnn import IPNN
from tests import contract
from tests.models.ctr.test_deepfm import deep_by_loops


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_equations_written_out(seed: int) -> None:
    """Vectors, dense columns and products, through one hidden layer, as loops over numbers."""
    embedded = Embedded.random(batch=4, fields=4, dim=3, dense=2, seed=seed)
    torch.manual_seed(seed)
    model = IPNN(4, 3, 2, hidden_dims=[5]).requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_()
    for row, logit in enumerate(model(embedded).tolist()):
        fields = embedded.fields[row].tolist()
        signals = [value for vector in fields for value in vector] + embedded.dense[row].tolist()
        for m in range(4):
            for n in range(m + 1, 4):
                signals.append(sum(fields[m][k] * fields[n][k] for k in range(3)))
        expected = deep_by_loops(model.hidden, model.output, signals)
        assert logit == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_parameter_count_on_frappe() -> None:
    """BARS' log: 5,389 vectors of width 10, a network on 100 numbers and 45 products."""
    assert 53_890 + contract.num_parameters(IPNN(10, 10, 0)) == 433_491


@pytest.mark.parametrize("batch_norm", [False, True])
def test_learns_an_interaction(batch_norm: bool) -> None:
    assert contract.fit_xor("ipnn", hidden_dims=[16], batch_norm=batch_norm) > 0.95


def test_one_field_has_no_pairs() -> None:
    model = IPNN(1, 4, 0, hidden_dims=[3])
    assert model.hidden[0].in_features == 4
    contract.assert_output(model, Embedded.random(batch=2, fields=1, dim=4))


def test_options_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError, match="hidden_dims is"):
        contract.build("ipnn", hidden_dims=[0])
    with pytest.raises(ConfigError, match="dropout is 1"):
        contract.build("ipnn", dropout=1.0)
