from __future__ import annotations

import math

import pytest
import torch

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.models.ctr.autoint import AutoInt
from tests import contract

PAPER = {"scale": False, "layer_norm": False, "project_residual": True}
BARS_FRAPPE_PLUS = {
    "attention_dim": 128,
    "num_heads": 4,
    "num_layers": 5,
    "dropout": 0.1,
    "hidden_dims": [400, 400, 400],
    "hidden_dropout": 0.1,
    "batch_norm": True,
}
VARIANTS = [
    PAPER,
    {"attention_dim": 8, "num_heads": 1, "num_layers": 1},
    {"residual": False, "layer_norm": False},
    {"norm_first": False},
    {"wide": True},
    {"hidden_dims": [16, 8], "batch_norm": True},
    {"wide": True, "hidden_dims": [16], "dropout": 0.1},
    {"kernel": "torch"},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
@pytest.mark.parametrize("num_dense", [0, 2])
def test_variants_keep_the_contract(options: dict[str, object], num_dense: int) -> None:
    model = contract.build("autoint", num_dense, **options)
    contract.assert_output(model, contract.inputs(9, num_dense))
    contract.assert_gradient_reaches_everything(model, contract.inputs(64, num_dense))
    contract.assert_rows_do_not_mix(model, contract.inputs(9, num_dense))


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_paper_written_out(seed: int) -> None:
    """Eq. 4-9 over loops of Python floats; heads of width 3, two layers, one dense column."""
    embedded = Embedded.random(batch=2, fields=3, dim=4, dense=1, seed=seed)
    torch.manual_seed(seed)
    model = AutoInt(3, 4, 1, attention_dim=6, num_heads=2, num_layers=2, **PAPER)
    layers = [layer.weight.tolist() for layer in model.attention]
    output, bias = model.output.weight[0].tolist(), model.output.bias.item()
    for row in range(2):
        slots = embedded.fields[row].tolist()
        number = float(embedded.dense[row, 0])
        slots.append([number * v for v in model.dense_vectors[0].tolist()])  # Eq. 4
        for weights in layers:
            slots = interacting_layer(slots, *weights, num_heads=2)
        flat = [x for slot in slots for x in slot]
        expected = bias + sum(w * x for w, x in zip(output, flat, strict=True))  # Eq. 9
        assert model(embedded)[row].item() == pytest.approx(expected, abs=1e-4)


def interacting_layer(
    slots: list[list[float]],
    query: list[list[float]],
    key: list[list[float]],
    value: list[list[float]],
    residual: list[list[float]],
    num_heads: int,
) -> list[list[float]]:
    width = len(query) // num_heads

    def project(matrix: list[list[float]], slot: list[float]) -> list[float]:
        return [sum(w * x for w, x in zip(line, slot, strict=True)) for line in matrix]

    out = []
    for slot in slots:
        heads: list[float] = []
        for head in range(num_heads):
            part = slice(head * width, (head + 1) * width)
            q = project(query[part], slot)
            psi = [
                sum(a * b for a, b in zip(q, project(key[part], other), strict=True))
                for other in slots
            ]  # Eq. 5
            total = sum(math.exp(p) for p in psi)
            alpha = [math.exp(p) / total for p in psi]
            values = [project(value[part], other) for other in slots]
            heads += [
                sum(a * v[k] for a, v in zip(alpha, values, strict=True)) for k in range(width)
            ]  # Eq. 6-7
        kept = project(residual, slot)
        out.append([max(0.0, h + r) for h, r in zip(heads, kept, strict=True)])  # Eq. 8
    return out


def test_a_dense_column_is_its_vector_times_its_number() -> None:
    torch.manual_seed(0)
    with_dense = AutoInt(2, 4, 1, attention_dim=8)
    without = AutoInt(3, 4, 0, attention_dim=8)
    without.load_state_dict(with_dense.state_dict(), strict=False)
    embedded = Embedded.random(batch=5, fields=2, dim=4, dense=1)
    vector = embedded.dense.unsqueeze(2) * with_dense.dense_vectors
    same = Embedded(torch.cat([embedded.fields, vector], dim=1), torch.zeros(5, 0))
    torch.testing.assert_close(with_dense(embedded), without(same))


def test_autoint_plus_and_the_wide_term_add_to_the_logit() -> None:
    torch.manual_seed(0)
    model = AutoInt(5, 8, 2, wide=True, hidden_dims=[16]).eval()
    with torch.no_grad():
        model.first_order.dense_weight.normal_()
    bare = AutoInt(5, 8, 2).eval()
    bare.load_state_dict(model.state_dict(), strict=False)
    embedded = contract.inputs(7, 2)
    slots = model._slots(embedded).flatten(1)
    expected = bare(embedded) + model.hidden(slots).squeeze(1)
    expected = (
        expected + embedded.linear.sum(dim=1) + embedded.dense @ model.first_order.dense_weight
    )
    torch.testing.assert_close(model(embedded), expected)


def test_explain_is_the_attention_of_every_layer() -> None:
    model = contract.build("autoint", 2, num_heads=4).eval()
    embedded = contract.inputs(6, 2)
    attention = model.explain(embedded)["attention"]
    assert attention.shape == (6, 3, 4, 7, 7)
    torch.testing.assert_close(attention.sum(dim=4), torch.ones(6, 3, 4, 7))
    slots = model._slots(embedded)
    for layer in range(3):
        weights = model.attention[layer].explain(slots)[1]
        torch.testing.assert_close(attention[:, layer], weights)
        slots = model.attention[layer](slots)


def test_parameter_count_of_autoint_on_frappe() -> None:
    model = AutoInt(
        10, 10, 0, attention_dim=128, num_heads=4, num_layers=6, scale=False, layer_norm=False
    )
    assert 53_890 + contract.num_parameters(model) == 306_051


def test_parameter_count_of_autoint_plus_on_frappe() -> None:
    model = AutoInt(10, 10, 0, **BARS_FRAPPE_PLUS)
    assert 53_890 + contract.num_parameters(model) == 622_180


def test_parameter_count_of_autoint_on_movielens() -> None:
    model = AutoInt(3, 10, 0, attention_dim=128, num_heads=4, num_layers=2, wide=True)
    assert 902_390 + 90_239 + contract.num_parameters(model) == 1_047_798


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"num_heads": 3}, "num_heads is 3 and attention_dim is 32"),
        ({"num_layers": 0}, "num_layers is 0"),
        ({"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_options_out_of_range_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("autoint", **option)


@pytest.mark.parametrize("options", [{}, PAPER], ids=["default", "paper"])
def test_learns_an_interaction(options: dict[str, object]) -> None:
    assert contract.fit_xor("autoint", attention_dim=16, **options) > 0.95
