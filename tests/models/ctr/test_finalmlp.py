from __future__ import annotations

import pytest
import torch

from recsys.errors import ConfigError
from recsys.models.ctr.finalmlp import FinalMLP, Fusion
from tests import contract

SLOTS = ("user", "item", "hour", "day", "city", "cost", "weather", "home", "end", "country")
VARIANTS = [
    {"feature_selection": False},
    {"context1": ["field1"], "context2": ["field3", "field0"]},
    {"context1": ["field2"], "context_table": False},
    {"context2": ["field4"], "batch_norm": False, "gate_dims": [6, 5]},
]


@pytest.mark.parametrize("options", VARIANTS, ids=str)
def test_variants_keep_the_contract(options: dict[str, object]) -> None:
    small = {"hidden_dims1": [16], "hidden_dims2": [8], "num_heads": 4, "gate_dims": [6]}
    model = contract.build("finalmlp", 2, **(small | options))
    contract.assert_output(model, contract.inputs(9, 2))
    contract.assert_gradient_reaches_everything(model, contract.inputs(64, 2))
    contract.assert_rows_do_not_mix(model, contract.inputs(9, 2))


@pytest.mark.parametrize("num_heads", [1, 2])
@pytest.mark.parametrize("seed", range(3))
def test_fusion_equals_the_loop_over_heads(num_heads: int, seed: int) -> None:
    torch.manual_seed(seed)
    fusion = Fusion(6, 4, num_heads).double()
    torch.nn.init.normal_(fusion.linear1.bias)
    first, second = torch.randn(3, 6).double(), torch.randn(3, 4).double()
    out = fusion(first, second)
    for row in range(3):
        o1, o2 = first[row].tolist(), second[row].tolist()
        z = fusion.linear1.bias.item()
        z += sum(w * o for w, o in zip(fusion.linear1.weight[0].tolist(), o1, strict=True))
        z += sum(w * o for w, o in zip(fusion.linear2.weight[0].tolist(), o2, strict=True))
        wide, narrow = 6 // num_heads, 4 // num_heads
        for h in range(num_heads):
            for i in range(wide):
                for j in range(narrow):
                    weight = fusion.bilinear[h, i, j].item()
                    z += o1[h * wide + i] * weight * o2[h * narrow + j]
        assert out[row].item() == pytest.approx(z, rel=1e-10)


def test_gates_see_their_contexts_own_vectors() -> None:
    """The first stream's gate depends on its slot of the second table, and on nothing else."""
    model = contract.build("finalmlp", context1=["field1"], context2=["field3"], gate_dims=[8])
    assert model.needs_second
    embedded = contract.inputs(4)
    before = model.explain(embedded)
    assert embedded.second is not None
    embedded.second[:, 1] += 1.0
    after = model.explain(embedded)
    assert not torch.equal(after["gates1"], before["gates1"])
    assert torch.equal(after["gates2"], before["gates2"])
    embedded.fields += 1.0
    embedded.second[:, [0, 2, 4]] += 1.0
    assert torch.equal(model.explain(embedded)["gates1"], after["gates1"])


def test_contexts_may_share_the_networks_vectors() -> None:
    model = contract.build("finalmlp", context1=["field1"], context_table=False)
    assert not model.needs_second
    embedded = contract.inputs(4)
    embedded.second = None
    before = model.explain(embedded)["gates1"]
    embedded.fields[:, 1] += 1.0
    assert not torch.equal(model.explain(embedded)["gates1"], before)


def test_streams_are_gated_then_fused() -> None:
    model = contract.build("finalmlp", 2, context1=["field1"], gate_dims=[8]).eval()
    embedded = contract.inputs(3, 2)
    assert embedded.second is not None
    gates1, gates2 = model.gates[0](embedded.second[:, 1]), model.gates[1](None)
    flat = embedded.flat()
    expected = model.fusion(model.hidden1(flat * gates1), model.hidden2(flat * gates2))
    torch.testing.assert_close(model(embedded), expected)
    means = gates1[:, :40].reshape(3, 5, 8).mean(2), gates2[:, :40].reshape(1, 5, 8).mean(2)
    explained = model.explain(embedded)
    torch.testing.assert_close(explained["gates1"], means[0])
    torch.testing.assert_close(explained["gates"], (means[0] + means[1]) / 2)


def test_parameter_count_on_frappe() -> None:
    """That of the public run, whose contexts have tables of their own rows only (user and item,
    5,040 rows), and whose logit has a second bias."""
    model = FinalMLP(
        10, 10, 0, SLOTS, hidden_dims1=[400], hidden_dims2=[100], gate_dims=[400],
        context1=["user"], context2=["item"], num_heads=5,
    )  # fmt: skip
    assert 53_990 + 50_400 + contract.num_parameters(model) + 1 == 253_392


def test_a_fields_name_stands_for_all_its_slots() -> None:
    slots = ("user.0", "user.1", "item")
    model = FinalMLP(3, 4, 0, slots, context1=["user"], context2=["user.1"])
    assert model.context1.tolist() == [0, 1]
    assert model.context2.tolist() == [1]


def test_names_cannot_be_checked_before_data_is_read() -> None:
    model = FinalMLP(64, 4, 0, None, context1=["anything", "else"])
    assert model.gates[0].hidden[0].in_features == 8


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"context1": ["feild1"]}, 'context1 names "feild1".*Did you mean field1'),
        ({"context2": ["field9"], "context1": []}, "context2 names"),
        ({"num_heads": 0}, "num_heads is 0"),
        ({"hidden_dims2": [25]}, "divide 25, the last width of hidden_dims2"),
        ({"dropout2": 1.0}, "dropout2 is 1.0"),
        ({"gate_dims": []}, "at least one positive width"),
    ],
)
def test_options_out_of_range_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("finalmlp", **option)


def test_learns_an_interaction() -> None:
    small = {"hidden_dims1": [32], "hidden_dims2": [16], "num_heads": 4, "gate_dims": [16]}
    assert contract.fit_xor("finalmlp", context1=["a"], context2=["b"], **small) > 0.95
