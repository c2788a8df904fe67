from __future__ import annotations

import pytest
import torch

from recsys.errors import ConfigError
from recsys.models.ctr.dcnv2 import DCNv2
from tests import contract

VARIANTS = [
    {"structure": "parallel"},
    {"structure": "stacked", "batch_norm": False},
    {"structure": "crossnet"},
    {"structure": "parallel", "low_rank": 3},
    {"structure": "stacked", "low_rank": 3, "num_experts": 2},
    {"structure": "crossnet", "low_rank": 3, "num_experts": 1},
]
every_variant = pytest.mark.parametrize("options", VARIANTS, ids=str)


@every_variant
def test_variants_keep_the_contract(options: dict[str, object]) -> None:
    model = contract.build("dcnv2", 2, hidden_dims=[16], **options)
    contract.assert_output(model, contract.inputs(9, 2))
    contract.assert_gradient_reaches_everything(model, contract.inputs(64, 2))
    contract.assert_rows_do_not_mix(model, contract.inputs(9, 2))


@every_variant
def test_options_are_what_is_built(options: dict[str, object]) -> None:
    """Where the crosses and the deep network stand, by switching one of them off."""
    model = contract.build("dcnv2", hidden_dims=[16], **(options | {"batch_norm": False})).eval()
    embedded = contract.inputs(4)
    x0 = embedded.flat()
    crossed = model.cross(x0)
    if options["structure"] == "crossnet":
        features = crossed
    elif options["structure"] == "stacked":
        features = model.hidden(crossed)
    else:
        features = torch.cat([crossed, model.hidden(x0)], dim=1)
    expected = features @ model.output.weight[0] + model.output.bias
    torch.testing.assert_close(model(embedded), expected)


def test_parameter_count_on_frappe() -> None:
    model = DCNv2(10, 10, 0, num_cross_layers=4)
    assert 53_890 + contract.num_parameters(model) == 458_391


def test_parameter_count_on_criteo() -> None:
    with torch.device("meta"):
        model = DCNv2(39, 16, 0, num_cross_layers=3, hidden_dims=[1000] * 5)
    assert 910_747 * 16 + contract.num_parameters(model) == 20_382_577


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"structure": "paralel"}, "Did you mean parallel"),
        ({"num_cross_layers": 0}, "num_cross_layers is 0"),
        ({"low_rank": 41}, r"low_rank is 41.*\[1, 40\]"),
        ({"low_rank": 2, "num_experts": 0}, "num_experts is 0"),
    ],
)
def test_options_out_of_range_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("dcnv2", **option)


@pytest.mark.parametrize("low_rank", [0, 4])
def test_learns_an_interaction(low_rank: int) -> None:
    fitted = contract.fit_xor("dcnv2", hidden_dims=[32], low_rank=low_rank, num_experts=2)
    assert fitted > 0.95


def test_crosses_alone_learn_an_interaction() -> None:
    assert contract.fit_xor("dcnv2", structure="crossnet") > 0.95
