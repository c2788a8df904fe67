from __future__ import annotations

import pytest
import torch
from torch import nn

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.models.ctr.dlrm import DLRM
from tests import contract
from tests.models.ctr.test_deepfm import deep_by_loops


@pytest.mark.parametrize("interaction", ["dot", "cat"])
@pytest.mark.parametrize("num_dense", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_equals_the_network_written_out(seed: int, num_dense: int, interaction: str) -> None:
    embedded = Embedded.random(batch=4, fields=4, dim=3, dense=num_dense, seed=seed)
    torch.manual_seed(seed)
    model = DLRM(4, 3, num_dense, interaction=interaction, bottom_dims=[4], top_dims=[5, 2])
    model.requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_()
    for row, logit in enumerate(model(embedded).tolist()):
        vectors = embedded.fields[row].tolist()
        dense: list[float] = []
        if num_dense:
            hidden, last, _ = model.bottom
            for unit in range(3):  # one unit of the last layer at a time
                single = nn.Linear(4, 1)
                single.weight.data, single.bias.data = last.weight[[unit]], last.bias[[unit]]
                dense.append(max(0.0, deep_by_loops(hidden, single, embedded.dense[row].tolist())))
            vectors = [dense, *vectors]
        if interaction == "dot":
            features = []
            for m in range(len(vectors)):
                for n in range(m + 1, len(vectors)):
                    features.append(sum(vectors[m][k] * vectors[n][k] for k in range(3)))
            features += dense
        else:
            features = [value for vector in vectors for value in vector]
        expected = deep_by_loops(model.top, model.output, features)
        assert logit == pytest.approx(expected, rel=1e-4, abs=1e-3)


def test_parameter_count_on_frappe() -> None:
    """BARS' log: an MLP, since its interaction is cat and Frappe has no dense columns."""
    model = DLRM(10, 10, 0, interaction="cat", top_dims=[400, 400, 400], batch_norm=True)
    assert 53_890 + contract.num_parameters(model) == 417_891


def test_parameter_count_of_the_criteo_script() -> None:
    """13-512-256-64-16, then 351 pairs of 27 vectors beside the first vector, 512-256-1."""
    bottom = 13 * 512 + 512 + 512 * 256 + 256 + 256 * 64 + 64 + 64 * 16 + 16
    top = (351 + 16) * 512 + 512 + 512 * 256 + 256 + 256 + 1
    assert contract.num_parameters(DLRM(26, 16, 13)) == bottom + top


@pytest.mark.parametrize(
    "options",
    [{"interaction": "cat"}, {"interaction": "dot", "batch_norm": True, "dropout": 0.1}],
    ids=str,
)
@pytest.mark.parametrize("num_dense", [0, 3])
def test_variants_keep_the_contract(options: dict[str, object], num_dense: int) -> None:
    model = contract.build("dlrm", num_dense, top_dims=[16], **options)
    contract.assert_output(model, contract.inputs(9, num_dense))
    contract.assert_gradient_reaches_everything(model, contract.inputs(64, num_dense))
    contract.assert_rows_do_not_mix(model, contract.inputs(9, num_dense))


@pytest.mark.parametrize("interaction", ["dot", "cat"])
def test_learns_an_interaction(interaction: str) -> None:
    assert contract.fit_xor("dlrm", interaction=interaction, top_dims=[16]) > 0.95


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"interaction": "dott"}, "Did you mean dot"),
        ({"top_dims": []}, "hidden_dims is"),
        ({"bottom_dims": [0]}, "hidden_dims is"),
        ({"bottom_dropout": 1.0}, "dropout is 1"),
    ],
)
def test_options_out_of_range_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("dlrm", 2, **option)


def test_one_vector_has_no_pair() -> None:
    with pytest.raises(ConfigError, match="one field and no dense column"):
        DLRM(1, 4, 0)
