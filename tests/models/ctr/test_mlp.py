from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.models.ctr.mlp import MLP
from tests import contract


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("training", [True, False])
def test_equals_the_layers_written_out(seed: int, training: bool) -> None:
    """Linear -> BatchNorm -> ReLU per hidden layer, over loops of Python floats."""
    torch.manual_seed(seed)
    embedded = Embedded.random(batch=5, fields=2, dim=3, dense=1, seed=seed)
    model = MLP(num_fields=2, embed_dim=3, num_dense=1, hidden_dims=[4, 3]).train(training)
    linears = [m for m in model.hidden if isinstance(m, nn.Linear)]
    norms = [m for m in model.hidden if isinstance(m, nn.BatchNorm1d)]
    model.requires_grad_(False)
    for norm in norms:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2.0)
    running = [(n.running_mean.tolist(), n.running_var.tolist()) for n in norms]
    hidden = [
        [*embedded.fields[row].flatten().tolist(), *embedded.dense[row].tolist()]
        for row in range(5)
    ]
    for linear, norm, (mean, var) in zip(linears, norms, running, strict=True):
        rows = [affine(linear, row) for row in hidden]
        for unit in range(linear.out_features):
            column = [row[unit] for row in rows]
            center = sum(column) / 5 if training else mean[unit]
            spread = sum((x - center) ** 2 for x in column) / 5 if training else var[unit]
            for row in rows:
                scaled = (row[unit] - center) / math.sqrt(spread + norm.eps)
                row[unit] = max(0.0, scaled * float(norm.weight[unit]) + float(norm.bias[unit]))
        hidden = rows
    expected = [affine(model.output, row)[0] for row in hidden]
    assert model(embedded).tolist() == pytest.approx(expected, abs=1e-4)


def affine(linear: nn.Linear, row: list[float]) -> list[float]:
    return [
        float(linear.bias[j]) + sum(float(linear.weight[j, i]) * x for i, x in enumerate(row))
        for j in range(linear.out_features)
    ]


def test_parameter_count_on_frappe() -> None:
    """BARS' DLRM log on Frappe, which is this network: 53,890 of the table plus 364,001."""
    assert 53_890 + contract.num_parameters(MLP(10, 10, 0)) == 417_891


def test_starts_as_the_benchmark_does() -> None:
    torch.manual_seed(0)
    model = MLP(10, 10, 0, hidden_dims=[400, 300])
    for linear in (m for m in model.modules() if isinstance(m, nn.Linear)):
        assert not linear.bias.any()
    weight = model.hidden[0].weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (100 + 400)), rel=0.03)


def test_options_take_part() -> None:
    dropped = contract.build("mlp", dropout=0.5, batch_norm=False)
    embedded = contract.inputs(16)
    assert not torch.equal(dropped(embedded), dropped(embedded))
    assert torch.equal(dropped.eval()(embedded), dropped(embedded))
    assert not any(isinstance(m, nn.BatchNorm1d) for m in dropped.modules())
    tanh = contract.build("mlp", activation="tanh", batch_norm=False)
    relu = contract.build("mlp", activation="relu", batch_norm=False)
    assert not torch.equal(tanh(embedded), relu(embedded))


def test_without_batch_norm_blocks_of_rows_add_up() -> None:
    contract.assert_blocks_add_up(
        contract.build("mlp", 2, batch_norm=False), contract.inputs(19, 2)
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"hidden_dims": []}, "hidden_dims is"),
        ({"dropout": 1.0}, "dropout is 1.0"),
        ({"activation": "rellu"}, "Did you mean relu"),
    ],
)
def test_options_out_of_range_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("mlp", **option)


def test_learns_an_interaction() -> None:
    assert contract.fit_xor("mlp", hidden_dims=[32, 32]) > 0.95
