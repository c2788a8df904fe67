from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.models.ctr.finalnet import FinalNet
from tests import contract

VARIANTS = [
    {"num_blocks": 1},
    {"residual": "sum", "hidden_dims2": [7]},
    {"field_gate": False, "batch_norm": False},
    {"distillation": 0.0},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_variants_keep_the_contract(options: dict[str, object]) -> None:
    small = {"hidden_dims1": [16, 8], "hidden_dims2": [12]}
    model = contract.build("finalnet", 2, **(small | options))
    contract.assert_output(model, contract.inputs(9, 2))
    contract.assert_gradient_reaches_everything(model, contract.inputs(64, 2))
    contract.assert_rows_do_not_mix(model, contract.inputs(9, 2))


@pytest.mark.parametrize("residual", ["concat", "sum"])
@pytest.mark.parametrize("seed", range(3))
def test_block_equals_the_equations_written_out(residual: str, seed: int) -> None:
    torch.manual_seed(seed)
    options = {"hidden_dims1": [4, 2], "residual": residual, "dropout1": 0.5}
    model = FinalNet(1, 3, 0, num_blocks=1, field_gate=False, **options).double()
    for parameter in model.parameters():
        nn.init.normal_(parameter)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    model.eval()
    embedded = Embedded.random(batch=3, fields=1, dim=3, dtype=torch.float64)
    out = model(embedded)

    def affine(linear: nn.Linear, values: list[float]) -> list[float]:
        rows = zip(linear.weight.tolist(), linear.bias.tolist(), strict=True)
        return [sum(w * v for w, v in zip(row, values, strict=True)) + b for row, b in rows]

    layers = [*model.blocks[0][0]]
    linears = [layer for layer in layers if isinstance(layer, nn.Linear)]
    norms = [layer for layer in layers if isinstance(layer, nn.BatchNorm1d)]
    for row in range(3):
        values = embedded.fields[row, 0].tolist()
        for linear, norm in zip(linears, norms, strict=True):
            h = affine(linear, values)
            half = len(h) // 2
            products = [h[i] * h[half + i] for i in range(half)]
            if residual == "concat":
                joined = h[:half] + products
            else:
                joined = [h[i] + products[i] for i in range(half)]
            values = []
            for i, value in enumerate(joined):
                deviation = math.sqrt(norm.running_var[i].item() + norm.eps)
                centered = (value - norm.running_mean[i].item()) / deviation
                values.append(max(0.0, norm.weight[i].item() * centered + norm.bias[i].item()))
        expected = affine(model.blocks[0][1], values)[0]
        assert out[row].item() == pytest.approx(expected, rel=1e-6)


def test_logit_is_the_mean_of_a_gated_and_a_plain_block() -> None:
    model = contract.build("finalnet", 2).eval()
    nn.init.normal_(model.gate.weight)
    embedded = contract.inputs(3, 2)
    fields, dense = embedded.fields, embedded.dense
    gated = fields * model.gate(fields)
    first = torch.cat([fields.flatten(1), dense, gated.flatten(1)], dim=1)
    expected = (model.blocks[0](first) + model.blocks[1](embedded.flat())).squeeze(1) / 2
    torch.testing.assert_close(model(embedded), expected)
    torch.testing.assert_close(model.explain(embedded)["gates"], model.gate(fields).mean(2))


def test_one_block_has_no_second_opinion() -> None:
    model = contract.build("finalnet", num_blocks=1).eval()
    logit, loss = model.training_outputs(contract.inputs(5))
    assert loss is None
    torch.testing.assert_close(logit, model(contract.inputs(5)))


@pytest.mark.parametrize("weight", [1.0, 0.25])
def test_blocks_learn_the_joint_prediction(weight: float) -> None:
    model = contract.build("finalnet", field_gate=False, distillation=weight).eval()
    embedded = contract.inputs(5)
    logit, loss = model.training_outputs(embedded)
    singles = [block(embedded.flat()).squeeze(1).tolist() for block in model.blocks]
    for row in range(5):
        joint = 1 / (1 + math.exp(-(singles[0][row] + singles[1][row]) / 2))
        expected = 0.0
        for single in singles:
            p = 1 / (1 + math.exp(-single[row]))
            expected -= joint * math.log(p) + (1 - joint) * math.log(1 - p)
        assert loss[row].item() == pytest.approx(weight * expected, rel=1e-5)
    torch.testing.assert_close(logit, model(embedded))


def test_the_teacher_is_not_taught() -> None:
    """The blocks' own losses pull each block towards the joint logit, which stays put."""
    model = contract.build("finalnet", field_gate=False).eval()
    embedded = contract.inputs(6)
    x0 = embedded.flat()
    logits = torch.stack([block(x0).squeeze(1) for block in model.blocks]).detach()
    _, loss = model.training_outputs(embedded)
    loss.sum().backward()
    pull = (logits.sigmoid() - logits.mean(0).sigmoid()).sum(1)
    gradient = torch.stack([block[1].bias.grad[0] for block in model.blocks])
    torch.testing.assert_close(gradient, pull)


def test_parameter_count_on_frappe() -> None:
    model = FinalNet(10, 10, 0, hidden_dims1=[400, 400], hidden_dims2=[400])
    assert 53_990 + contract.num_parameters(model) == 338_502


def test_dense_columns_alone_need_no_gate() -> None:
    model = FinalNet(0, 4, 3)
    assert model.gate is None
    assert model.explain(Embedded.random(batch=2, fields=0, dim=4, dense=3)) == {}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_blocks": 3}, "num_blocks is 3"),
        ({"residual": "conact"}, "Did you mean concat"),
        ({"hidden_dims1": [400, 7]}, "every width must be even"),
        ({"hidden_dims2": []}, "at least one positive width"),
        ({"dropout1": -0.1}, "dropout1 is -0.1"),
        ({"distillation": -1.0}, "distillation is -1.0"),
    ],
)
def test_options_out_of_range_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("finalnet", **option)


@pytest.mark.parametrize("residual", ["concat", "sum"])
def test_learns_an_interaction(residual: str) -> None:
    fitted = contract.fit_xor("finalnet", hidden_dims1=[32], hidden_dims2=[16], residual=residual)
    assert fitted > 0.95
