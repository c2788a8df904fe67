from __future__ import annotations

import pytest
import torch

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.models.ctr.xdeepfm import XDeepFM
from tests import contract
from tests.layers.test_cin import by_loops
from tests.models.ctr.test_deepfm import deep_by_loops


@pytest.mark.parametrize("hidden_dims", [[], [5]], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_equals_equation_9_written_out(seed: int, hidden_dims: list[int]) -> None:
    """First-order term, CIN and a deep part of one hidden layer, as loops over numbers."""
    embedded = Embedded.random(batch=4, fields=4, dim=3, dense=2, seed=seed)
    torch.manual_seed(seed)
    model = XDeepFM(4, 3, 2, cin_dims=[3, 2], hidden_dims=hidden_dims, batch_norm=False)
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_()
    assert embedded.linear is not None
    weight = model.first_order.dense_weight.tolist()
    for row, logit in enumerate(model(embedded).tolist()):
        fields, dense = embedded.fields[row].tolist(), embedded.dense[row].tolist()
        expected = sum(embedded.linear[row].tolist())
        expected += sum(w * x for w, x in zip(weight, dense, strict=True))
        expected += by_loops(model.cin, fields)
        if hidden_dims:
            x0 = [value for vector in fields for value in vector] + dense
            expected += deep_by_loops(*model.hidden, x0)
        assert logit == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_parameter_count_on_frappe() -> None:
    """BARS' log: DeepFM's 423,280, a CIN layer of 64 maps with biases, and its linear unit."""
    assert 5_389 * (10 + 1) + contract.num_parameters(XDeepFM(10, 10, 0)) == 429_809


@pytest.mark.parametrize(
    "options",
    [{"hidden_dims": []}, {"hidden_dims": [], "cin_dims": [8, 8]}, {"hidden_dims": [16]}],
    ids=str,
)
def test_learns_an_interaction(options: dict[str, object]) -> None:
    assert contract.fit_xor("xdeepfm", **options) > 0.95


@pytest.mark.parametrize("options", [{"hidden_dims": []}, {"cin_dims": [4, 3, 2]}], ids=str)
def test_variants_keep_the_contract(options: dict[str, object]) -> None:
    model = contract.build("xdeepfm", 2, **options)
    contract.assert_output(model, contract.inputs(9, 2))
    contract.assert_gradient_reaches_everything(model, contract.inputs(64, 2))
    contract.assert_rows_do_not_mix(model, contract.inputs(9, 2))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"cin_dims": []}, "cin_dims is"),
        ({"cin_dims": [4, 0]}, "cin_dims is"),
        ({"hidden_dims": [0]}, "hidden_dims is"),
        ({"dropout": -1.0}, "dropout is -1"),
    ],
)
def test_options_out_of_range_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("xdeepfm", **option)
