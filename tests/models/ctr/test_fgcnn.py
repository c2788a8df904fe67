from __future__ import annotations

import pytest
import torch

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.models.base import ModelInputs
from recsys.models.ctr.fgcnn import CLASSIFIERS, FGCNN
from recsys.models.ctr.ipnn import IPNN
from tests import contract

VARIANTS = [{"classifier": name, "batch_norm": name != "ipnn"} for name in CLASSIFIERS] + [
    {"share_embedding": True, "conv_batch_norm": False, "num_new_maps": 1},
    {"channels": [5, 3], "pool_size": 3, "kernel_size": 3, "dropout": 0.0},
]
every_variant = pytest.mark.parametrize("options", VARIANTS, ids=str)


@every_variant
@pytest.mark.parametrize("num_dense", [0, 2])
def test_variants_keep_the_contract(options: dict[str, object], num_dense: int) -> None:
    model = contract.build("fgcnn", num_dense, hidden_dims=[16], **options)
    contract.assert_output(model, contract.inputs(9, num_dense))
    contract.assert_gradient_reaches_everything(model, contract.inputs(64, num_dense))
    contract.assert_rows_do_not_mix(model, contract.inputs(9, num_dense))


@pytest.mark.parametrize("share_embedding", [True, False])
@pytest.mark.parametrize("classifier", CLASSIFIERS)
def test_the_classifier_reads_old_and_new_fields(classifier: str, share_embedding: bool) -> None:
    options = {"classifier": classifier, "share_embedding": share_embedding}
    model = contract.build("fgcnn", 2, hidden_dims=[16], **options).eval()
    embedded = contract.inputs(6, 2)
    raw = embedded.fields if share_embedding else embedded.second
    new = model.generation(raw)
    assert new.shape == (6, 3 * (3 + 2 + 1), 8)
    fields = torch.cat([embedded.fields, new], dim=1)
    expected = model.classifier(Embedded(fields, embedded.dense, linear=embedded.linear))
    assert torch.equal(model(embedded), expected)
    assert isinstance(model.classifier, CLASSIFIERS[classifier])
    assert model.needs_linear == (classifier in ("deepfm", "xdeepfm"))


def test_the_second_table_is_asked_for_unless_shared() -> None:
    own, shared = (contract.build("fgcnn", share_embedding=one) for one in (False, True))
    embedded = contract.inputs(3)
    embedded.second = None
    with pytest.raises(ValueError, match="needs a second table"):
        own(embedded)
    assert shared(embedded).shape == (3,)


def test_sizes_on_criteo() -> None:
    """BARS' settings: 114 new fields, 153 in all, 11,628 inner products; the weights are in the
    recombinations and in the first hidden layer."""
    with torch.device("meta"):
        model = FGCNN(
            39, 16, 0, channels=[38, 40, 42, 44], kernel_size=9, hidden_dims=[1000, 1000, 1000]
        )
    assert model.classifier.num_fields == 153
    assert model.classifier.hidden[0].in_features == 153 * 16 + 11_628
    recombined = sum(
        (height * 16 * 3) * (height * 16 * maps) + height * 16 * 3
        for height, maps in zip([20, 10, 5, 3], [38, 40, 42, 44], strict=True)
    )
    convolved = sum(9 * a * b + b for a, b in zip([1, 38, 40, 42], [38, 40, 42, 44], strict=True))
    normalised = 2 * (38 + 40 + 42 + 44)
    assert contract.num_parameters(model.generation) == recombined + convolved + normalised
    with torch.device("meta"):
        alone = IPNN(153, 16, 0, hidden_dims=[1000, 1000, 1000])
    assert contract.num_parameters(model.classifier) == contract.num_parameters(alone)


def test_too_few_fields_are_named() -> None:
    inputs = ModelInputs(num_fields=4, embed_dim=8, num_dense=0, slots=("a", "b", "c", "d"))
    with pytest.raises(ConfigError, match=r"channels lists 3 layers .* more than 4 fields"):
        contract.make("fgcnn", inputs)
    contract.make("fgcnn", inputs, channels=[4, 4])
    with pytest.raises(ConfigError, match=r"at least 2 field\(s\)"):
        FGCNN(1, 8, 3)


def test_the_check_before_data_is_read_passes() -> None:
    """Hyperparameters are checked with 64 fields: what is right for other sizes must pass."""
    with torch.device("meta"):
        for channels in ([4], [14, 16, 18], [38, 40, 42, 44], [4] * 6):
            FGCNN(64, 16, 0, channels=channels)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"classifier": "ippn"}, "Did you mean ipnn"),
        ({"kernel_size": 2}, "kernel_size is 2"),
        ({"channels": []}, "channels is"),
        ({"dropout": -0.1}, "dropout is -0.1"),
    ],
)
def test_options_out_of_range_are_named(option: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("fgcnn", **option)


def test_learns_an_interaction() -> None:
    fitted = contract.fit_xor("fgcnn", channels=[4, 6], kernel_size=3, hidden_dims=[32])
    assert fitted > 0.95


def test_new_fields_alone_learn_an_interaction() -> None:
    """Without products or a deep network to speak of, the generated fields must carry it."""
    options = {"classifier": "mlp", "activation": "identity", "batch_norm": False}
    assert contract.fit_xor("fgcnn", channels=[4, 6], hidden_dims=[4], steps=300, **options) > 0.95
