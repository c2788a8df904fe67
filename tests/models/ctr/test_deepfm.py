from __future__ import annotations

import pytest
import torch
from torch import nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.models.ctr.deepfm import DeepFM
from tests import contract


def deep_by_loops(hidden: nn.Module, output: nn.Module, x0: list[float]) -> float:
    """Linear layers with ReLU between them and one linear unit, number by number."""
    values = x0
    linear = [layer for layer in hidden.modules() if isinstance(layer, nn.Linear)]
    for layer in [*linear, output]:
        sums = [
            sum(w * x for w, x in zip(weights, values, strict=True)) + bias
            for weights, bias in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)
        ]
        values = sums if layer is output else [max(0.0, value) for value in sums]
    (logit,) = values
    return logit


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_equations_written_out(seed: int) -> None:
    """First-order term, pairs and a deep part of two hidden layers, as loops over numbers."""
    embedded = Embedded.random(batch=4, fields=4, dim=3, dense=2, seed=seed)
    torch.manual_seed(seed)
    model = DeepFM(4, 3, 2, hidden_dims=[5, 3], batch_norm=False)
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_()
    assert embedded.linear is not None
    weight = model.first_order.dense_weight.tolist()
    for row, logit in enumerate(model(embedded).tolist()):
        fields, dense = embedded.fields[row].tolist(), embedded.dense[row].tolist()
        expected = sum(embedded.linear[row].tolist())
        expected += sum(w * x for w, x in zip(weight, dense, strict=True))
        for m in range(4):
            for n in range(m + 1, 4):
                expected += sum(fields[m][k] * fields[n][k] for k in range(3))
        x0 = [value for vector in fields for value in vector] + dense
        expected += deep_by_loops(model.hidden, model.output, x0)
        assert logit == pytest.approx(expected, rel=1e-4, abs=1e-4)


def test_parameter_count_on_frappe() -> None:
    """BARS' log: a vector of width 10 and a weight per row, one deep network, no other bias."""
    assert 5_389 * (10 + 1) + contract.num_parameters(DeepFM(10, 10, 0)) == 423_280


def test_learns_an_interaction() -> None:
    assert contract.fit_xor("deepfm", hidden_dims=[16]) > 0.95


def test_options_out_of_range_are_named() -> None:
    with pytest.raises(ConfigError, match="hidden_dims is"):
        contract.build("deepfm", hidden_dims=[])
    with pytest.raises(ConfigError, match="dropout is 1"):
        contract.build("deepfm", dropout=1.0)


def test_first_order_weights_are_required() -> None:
    embedded = contract.inputs(3)
    embedded.linear = None
    with pytest.raises(ValueError, match="DeepFM needs first-order weights"):
        contract.build("deepfm")(embedded)
