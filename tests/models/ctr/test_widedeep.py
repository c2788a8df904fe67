from __future__ import annotations

import pytest
import torch

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.models.ctr.widedeep import WideDeep
from tests import contract
from tests.models.ctr.test_deepfm import deep_by_loops


@pytest.mark.parametrize("seed", range(3))
def test_equals_equation_3_written_out(seed: int) -> None:
    embedded = Embedded.random(batch=4, fields=4, dim=3, dense=2, seed=seed)
    torch.manual_seed(seed)
    model = WideDeep(4, 3, 2, hidden_dims=[5, 3], batch_norm=False).requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_()
    assert embedded.linear is not None
    weight = model.wide.dense_weight.tolist()
    for row, logit in enumerate(model(embedded).tolist()):
        dense = embedded.dense[row].tolist()
        x0 = [value for vector in embedded.fields[row].tolist() for value in vector] + dense
        expected = sum(embedded.linear[row].tolist())
        expected += sum(w * x for w, x in zip(weight, dense, strict=True))
        expected += deep_by_loops(model.deep, model.output, x0)
        assert logit == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_parameter_count_on_frappe() -> None:
    """BARS' log: as DeepFM, whose pairs have no parameters."""
    assert 5_389 * (10 + 1) + contract.num_parameters(WideDeep(10, 10, 0)) == 423_280


def test_learns_an_interaction() -> None:
    assert contract.fit_xor("widedeep", hidden_dims=[16]) > 0.95


def test_options_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError, match="hidden_dims is"):
        contract.build("widedeep", hidden_dims=[])
    with pytest.raises(ConfigError, match='"swish" is not an activation'):
        contract.build("widedeep", activation="swish")


def test_first_order_weights_are_required() -> None:
    embedded = contract.inputs(3)
    embedded.linear = None
    with pytest.raises(ValueError, match="WideDeep needs first-order weights"):
        contract.build("widedeep")(embedded)
