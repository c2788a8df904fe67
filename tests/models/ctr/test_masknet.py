from __future__ import annotations

import pytest
import torch

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.models.ctr.masknet import MaskNet
from tests import contract
from tests.layers.test_mask import block_by_loops, linear_by_loops, normalise_by_loops
from tests.models.ctr.test_deepfm import deep_by_loops

VARIANTS = [
    {"structure": "parallel", "num_blocks": 2, "block_dim": 3},
    {"structure": "parallel", "num_blocks": 1, "layer_norm": False},
    {"structure": "parallel", "embedding_layer_norm": False},
    {"structure": "serial"},
    {"structure": "serial", "embedding_layer_norm": False, "layer_norm": False},
]
every_variant = pytest.mark.parametrize("options", VARIANTS, ids=str)


@every_variant
def test_equals_the_equations_written_out(options: dict[str, object]) -> None:
    embedded = Embedded.random(batch=3, fields=3, dim=2, dense=2)
    torch.manual_seed(0)
    model = MaskNet(3, 2, 2, hidden_dims=[4, 3], **options).requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_()
    for row, logit in enumerate(model(embedded).tolist()):
        fields, dense = embedded.fields[row].tolist(), embedded.dense[row].tolist()
        x0 = [value for vector in fields for value in vector] + dense
        masked = list(x0)
        if options.get("embedding_layer_norm", True):
            slots = zip(fields, model.norm.gain.tolist(), model.norm.shift.tolist(), strict=True)
            normal = [normalise_by_loops(*slot) for slot in slots]
            masked = [value for vector in normal for value in vector] + dense
        if options["structure"] == "serial":
            for block in model.blocks:
                masked = block_by_loops(block, x0, masked)
            (expected,) = linear_by_loops(model.output, masked)
        else:
            side_by_side = [block_by_loops(block, x0, masked) for block in model.blocks]
            features = [value for block in side_by_side for value in block]
            expected = deep_by_loops(model.hidden, model.output, features)
        assert logit == pytest.approx(expected, rel=1e-3, abs=1e-3)


@every_variant
def test_variants_keep_the_contract(options: dict[str, object]) -> None:
    model = contract.build("masknet", 2, **(options | {"hidden_dims": [16, 8]}))
    contract.assert_output(model, contract.inputs(9, 2))
    contract.assert_gradient_reaches_everything(model, contract.inputs(64, 2))
    contract.assert_rows_do_not_mix(model, contract.inputs(9, 2))
    contract.assert_blocks_add_up(model, contract.inputs(19, 2))


def test_parameter_count_on_frappe() -> None:
    """BARS' log of 3 parallel blocks of 50, without the layer norm of embeddings."""
    model = MaskNet(10, 10, 0, num_blocks=3, block_dim=50, embedding_layer_norm=False)
    assert 53_890 + contract.num_parameters(model) == 571_691


@pytest.mark.parametrize("structure", ["parallel", "serial"])
def test_learns_an_interaction(structure: str) -> None:
    fitted = contract.fit_xor("masknet", structure=structure, block_dim=16, hidden_dims=[16, 16])
    assert fitted > 0.95


@pytest.mark.parametrize("structure", ["parallel", "serial"])
def test_gates_are_the_masks_of_x0_averaged_over_slots(structure: str) -> None:
    model = contract.build("masknet", 2, structure=structure).eval()
    embedded = contract.inputs(3, 2)
    blocks = model.blocks if structure == "parallel" else model.blocks[:1]
    masks = [block.mask(embedded.flat())[:, :40].view(3, 5, 8) for block in blocks]
    expected = sum(mask.mean(dim=2) for mask in masks) / len(masks)
    torch.testing.assert_close(model.explain(embedded)["gates"], expected.detach())


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"structure": "seriel"}, "Did you mean serial"),
        ({"num_blocks": 0}, "num_blocks is 0"),
        ({"block_dim": 0}, "block_dim is 0"),
        ({"hidden_dims": []}, "hidden_dims is"),
        ({"reduction_ratio": 0.0}, "reduction_ratio is 0"),
        ({"dropout": 1.0}, "dropout is 1"),
    ],
)
def test_options_out_of_range_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("masknet", **option)
