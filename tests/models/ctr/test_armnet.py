from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.layers.entmax import entmax
from recsys.models.ctr.armnet import MAX_EXPONENT, ARMNet, ExponentialNeurons, describe_crosses
from tests import contract

VARIANTS = [
    {"alpha": 1.0},
    {"alpha": 1.7, "num_heads": 2, "num_neurons": 5},
    {"alpha": 2.0, "num_heads": 3, "batch_norm": False},
    {"deep_dims": [12], "num_neurons": 6},
    {"deep_dims": [12, 8], "num_heads": 2, "dropout": 0.0, "batch_norm": False},
]
every_variant = pytest.mark.parametrize("options", VARIANTS, ids=str)


@every_variant
@pytest.mark.parametrize("num_dense", [0, 2])
def test_variants_keep_the_contract(options: dict[str, object], num_dense: int) -> None:
    model = contract.build("armnet", num_dense, hidden_dims=[16], **options)
    contract.assert_output(model, contract.inputs(9, num_dense))
    contract.assert_gradient_reaches_everything(model, contract.inputs(64, num_dense))
    contract.assert_rows_do_not_mix(model, contract.inputs(9, num_dense))


def by_loops(layer: ExponentialNeurons, slots: Tensor) -> Tensor:
    """The paper's equations, one number at a time."""
    heads, neurons, dim = layer.queries.shape
    batch, num_slots, _ = slots.shape
    out = torch.zeros(batch, heads * neurons, dim, dtype=torch.float64)
    for b in range(batch):
        for k in range(heads):
            for i in range(neurons):
                scores = torch.zeros(num_slots, dtype=torch.float64)
                for j in range(num_slots):
                    for x in range(dim):
                        for y in range(dim):
                            q, w, e = (
                                layer.queries[k, i, x],
                                layer.bilinear[k, x, y],
                                slots[b, j, y],
                            )
                            scores[j] += q * w * e / math.sqrt(dim)
                gates = entmax(scores, layer.alpha)
                for d in range(dim):
                    exponent = sum(
                        gates[j] * layer.powers[k * neurons + i, j] * slots[b, j, d]
                        for j in range(num_slots)
                    )
                    out[b, k * neurons + i, d] = exponent.exp()
    return out


@pytest.mark.parametrize("alpha", [1.0, 1.5, 1.7, 2.0])
@pytest.mark.parametrize("num_heads", [1, 3])
def test_neurons_follow_the_equations(alpha: float, num_heads: int) -> None:
    torch.manual_seed(0)
    layer = ExponentialNeurons(4, 3, num_heads, 2, alpha).double()
    slots = torch.randn(3, 4, 3, dtype=torch.float64) * 2
    found, expected = layer(slots), by_loops(layer, slots)
    torch.testing.assert_close(found, expected)
    layer.float()
    torch.testing.assert_close(layer(slots.float()).double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("alpha", [1.0, 1.5, 2.0])
def test_gradients_of_the_neurons(alpha: float) -> None:
    torch.manual_seed(0)
    layer = ExponentialNeurons(4, 3, 2, 2, alpha).double()
    slots = torch.randn(3, 4, 3, dtype=torch.float64)
    weight = torch.randn(3, 4, 3, dtype=torch.float64)
    (layer(slots) * weight).sum().backward()
    found = {name: p.grad.clone() for name, p in layer.named_parameters() if p.grad is not None}
    layer.zero_grad()
    (by_loops(layer, slots) * weight).sum().backward()
    for name, parameter in layer.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, msg=name)


def test_one_head_is_one_linear_layer() -> None:
    """The authors' one-head model maps the slots by a linear layer instead of a bilinear form."""
    torch.manual_seed(0)
    layer = ExponentialNeurons(5, 4, 1, 3, 1.5)
    slots = torch.randn(6, 5, 4)
    keys = torch.nn.Linear(4, 4, bias=False)
    with torch.no_grad():
        keys.weight.copy_(layer.bilinear[0])
    scores = torch.einsum("bsd,od->bos", keys(slots), layer.queries[0]) / 2.0
    expected = entmax(scores, 1.5) * layer.powers
    torch.testing.assert_close(layer.weights(slots), expected)


def test_plus_is_the_paper_s_ensemble() -> None:
    """Logits of both networks, weighed by numbers that start at a half; tables of their own."""
    model = contract.build("armnet", 2, hidden_dims=[16], deep_dims=[12]).eval()
    embedded = contract.inputs(7, 2)
    alone = contract.build("armnet", 2, hidden_dims=[16]).eval()
    alone.load_state_dict(
        {k: v for k, v in model.state_dict().items() if not k.startswith(("deep", "mix"))}
    )
    own = torch.cat([embedded.second, embedded.dense.unsqueeze(2) * model.deep_vectors], dim=1)
    expected = 0.5 * alone(embedded) + 0.5 * model.deep(own.flatten(1)).squeeze(1)
    torch.testing.assert_close(model(embedded), expected)
    assert model.needs_second
    assert not alone.needs_second
    embedded.second = None
    with pytest.raises(ValueError, match="needs a second table"):
        model(embedded)
    alone(embedded)


def test_neurons_are_normalised_over_rows_and_width() -> None:
    model = contract.build("armnet", num_neurons=6)
    seen: list[Tensor] = []
    model.hidden.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    model(contract.inputs(200))
    crosses = seen[0].unflatten(1, (6, 8))
    torch.testing.assert_close(crosses.mean(dim=(0, 2)), torch.zeros(6), rtol=0, atol=1e-5)
    torch.testing.assert_close(crosses.var(dim=(0, 2)), torch.ones(6), rtol=0, atol=1e-2)


def test_exponents_cannot_overflow() -> None:
    model = contract.build("armnet", hidden_dims=[16])
    with torch.no_grad():
        model.neurons.powers.mul_(1e4)
    embedded = contract.inputs(32)
    assert model.neurons(embedded.fields).max().item() == pytest.approx(math.exp(MAX_EXPONENT))
    gradients = contract.gradients(model, embedded)
    assert all(torch.isfinite(grad).all() for grad in gradients.values())


@pytest.mark.parametrize("num_dense", [0, 2])
def test_crosses_are_the_powers_that_make_the_neurons(num_dense: int) -> None:
    model = contract.build("armnet", num_dense, num_heads=2, num_neurons=7, alpha=2.0).eval()
    embedded = contract.inputs(50, num_dense)
    crosses = model.explain(embedded)["crosses"]
    assert crosses.shape == (50, 14, 5 + num_dense)
    slots = embedded.fields
    if num_dense:
        scaled = embedded.dense.unsqueeze(2) * model.dense_vectors
        slots = torch.cat([slots, scaled], dim=1)
    torch.testing.assert_close(
        torch.einsum("bjs,bsd->bjd", crosses, slots).exp(), model.neurons(slots)
    )
    assert 0.1 < (crosses == 0).float().mean() < 0.9
    assert (crosses < 0).any()


@pytest.mark.parametrize("deep_dims", [[], [6]])
def test_contributions_are_the_logit_less_that_without_the_neuron(deep_dims: list[int]) -> None:
    model = contract.build("armnet", 1, num_neurons=4, hidden_dims=[16], deep_dims=deep_dims)
    embedded = contract.inputs(20, 1)
    contract.gradients(model, embedded)  # moves running statistics
    with torch.no_grad():
        model.norm.bias.normal_()
    model.train()
    found = model.contributions(embedded)
    assert model.training
    assert found.shape == (20, 4)
    model.eval()
    whole = model(embedded)
    for neuron in range(4):
        with torch.no_grad():
            gain = model.norm.weight[neuron].clone()
            model.norm.weight[neuron] = 0.0  # the output is then the neuron's mean
            torch.testing.assert_close(
                found[:, neuron], whole - model(embedded), rtol=1e-4, atol=1e-5
            )
            model.norm.weight[neuron] = gain


def test_a_report_names_the_slots_of_the_top_neurons() -> None:
    crosses = torch.tensor([[0.0, 0.5, -0.25], [2.0, 0.0, 0.0], [0.0, 0.0, 0.1]])
    names = ["user", "item", "price"]
    lines = describe_crosses(crosses, names, torch.tensor([0.3, -0.1, 0.2]), top=2).splitlines()
    assert lines[0].split() == ["neuron", "logit", "crosses"]
    assert lines[1].split(maxsplit=2) == ["0", "+0.300", "item^+0.50 * price^-0.25"]
    assert lines[2].split(maxsplit=2) == ["2", "+0.200", "price^+0.10"]
    assert len(lines) == 3
    assert describe_crosses(crosses, names).splitlines()[1].split()[0] == "1"
    with pytest.raises(ValueError, match=r"\[3, 3\], but 2 slots"):
        describe_crosses(crosses, names[:2])


def test_parameter_count() -> None:
    """W_att, q and v; batch norm; [320 -> 20 -> 1]; ARM-Net+ adds [100 -> 30 -> 1] and the mix."""
    sizes = {"num_heads": 4, "num_neurons": 8, "hidden_dims": [20], "batch_norm": False}
    arm = 400 + 320 + 320 + 64 + (320 * 20 + 20) + (20 + 1)
    assert contract.num_parameters(ARMNet(10, 10, 0, **sizes)) == arm
    plus = (100 * 30 + 30) + (30 + 1) + 3
    assert contract.num_parameters(ARMNet(10, 10, 0, deep_dims=[30], **sizes)) == arm + plus


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"alpha": 0.5}, r"alpha is 0.5.* at least 1"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"num_neurons": 0}, "num_neurons is 0"),
        ({"hidden_dims": []}, "hidden_dims is"),
        ({"deep_dims": [8, 0]}, r"deep_dims is \[8, 0\]"),
        ({"dropout": 1.0}, "dropout is 1.0"),
    ],
)
def test_options_out_of_range_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("armnet", **option)


@pytest.mark.parametrize("options", [{"alpha": 1.5}, {"alpha": 2.0, "deep_dims": [32]}], ids=str)
def test_learns_an_interaction(options: dict[str, object]) -> None:
    assert contract.fit_xor("armnet", num_neurons=16, hidden_dims=[32], **options) > 0.95


def test_dense_columns_alone() -> None:
    model = contract.make("armnet", contract.model_inputs(3, num_fields=0), deep_dims=[8])
    embedded = Embedded.random(batch=4, fields=0, dim=8, dense=3)
    assert model.eval().explain(embedded)["crosses"].shape == (4, 32, 3)
    contract.assert_output(model, embedded)
