"""Every model of configs/ctr and configs/mtl keeps the contract; a YAML file joins by existing."""

from __future__ import annotations

import re

import pytest
import torch

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.models.base import CTRModel, ModelInputs
from recsys.models.multitask import MTLModel
from tests import contract

STEMS = [stem for family in contract.FAMILIES for stem in contract.stems(family)]
every_model = pytest.mark.parametrize("stem", STEMS)
with_and_without_dense = pytest.mark.parametrize("num_dense", [0, 3])


def test_there_are_models() -> None:
    assert {"lr", "fm", "mlp", "dcnv2", "autoint", "mmoe", "home"} <= set(STEMS)


@every_model
def test_stem_names_the_class_the_module_and_the_test(stem: str) -> None:
    cls = contract.model_class(stem)
    family = contract.family_of(stem)
    assert issubclass(cls, CTRModel if family == "ctr" else MTLModel)
    assert cls.__name__.lower() == stem
    assert cls.__module__ == f"recsys.models.{family}.{stem}"
    assert (contract.ROOT / f"tests/models/{family}/test_{stem}.py").is_file()


@every_model
def test_yaml_lists_the_constructor_keywords_and_defaults(stem: str) -> None:
    listed = {k: v for k, v in contract.options(stem).items() if k != "_target_"}
    defaults = contract.keywords(contract.model_class(stem))
    assert list(listed) == list(defaults), "same keys, in the same order"
    plain = {k: contract.as_lists(v) for k, v in defaults.items()}
    assert listed == plain
    assert {k: type(v) for k, v in listed.items()} == {k: type(v) for k, v in plain.items()}


@every_model
def test_yaml_explains_itself(stem: str) -> None:
    lines = contract.yaml_file(stem).read_text().splitlines()
    name = lines[0].removeprefix("# ").partition(":")[0]
    assert name.replace(" ", "").lower() == stem or name.startswith(
        contract.model_class(stem).__name__
    )
    bare = [line for line in lines[2:] if line.strip() and not re.search(r"\S\s+# \S", line)]
    assert not bare, "every option needs a comment with its unit or range"


@every_model
def test_docstrings_name_source_and_differences(stem: str) -> None:
    cls = contract.model_class(stem)
    module_doc = __import__(cls.__module__, fromlist=["x"]).__doc__ or ""
    assert "Source" in module_doc
    assert "Differs" in module_doc
    class_doc = cls.__doc__ or ""
    assert "Shape:" in class_doc
    assert all(f"{name}:" in class_doc for name in contract.keywords(cls))


@every_model
@with_and_without_dense
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("batch", [2, 33])
def test_output(stem: str, num_dense: int, training: bool, batch: int) -> None:
    model = contract.build(stem, num_dense).train(training)
    contract.assert_output(model, contract.inputs(batch, num_dense))


@every_model
@with_and_without_dense
def test_one_row_and_no_rows(stem: str, num_dense: int) -> None:
    model = contract.build(stem, num_dense).eval()
    contract.assert_output(model, contract.inputs(1, num_dense))
    contract.assert_output(model, contract.inputs(1, num_dense).rows(0, 0))


@every_model
def test_dense_columns_alone_are_enough(stem: str) -> None:
    inputs = ModelInputs(num_fields=0, embed_dim=4, num_dense=3, slots=(), tasks=contract.TASKS)
    if contract.model_class(stem).min_fields or contract.model_class(stem).needs_history:
        with pytest.raises(ConfigError):
            contract.make(stem, inputs)
        return
    model = contract.make(stem, inputs)
    contract.assert_output(model, Embedded.random(batch=4, fields=0, dim=4, dense=3))


@every_model
@with_and_without_dense
def test_gradient_reaches_everything(stem: str, num_dense: int) -> None:
    model = contract.build(stem, num_dense)
    contract.assert_gradient_reaches_everything(model, contract.inputs(64, num_dense))


@every_model
@with_and_without_dense
def test_rows_do_not_mix(stem: str, num_dense: int) -> None:
    contract.assert_rows_do_not_mix(contract.build(stem, num_dense), contract.inputs(17, num_dense))


@every_model
def test_blocks_add_up_where_the_model_says_so(stem: str) -> None:
    model = contract.build(stem, 2)
    if not model.rows_are_independent():
        pytest.skip("batch normalisation: rows of a training batch depend on each other")
    contract.assert_blocks_add_up(model, contract.inputs(19, 2))


@every_model
def test_same_seed_same_bits(stem: str) -> None:
    def run() -> tuple[torch.Tensor, list[torch.Tensor]]:
        model = contract.build(stem, 2, seed=7)
        embedded = contract.inputs(40, 2)
        grads = contract.gradients(model, embedded)
        return model(embedded).detach(), [grad for grad in grads.values() if grad is not None]

    logit, grads = run()
    logit_again, grads_again = run()
    assert torch.equal(logit, logit_again)
    assert all(torch.equal(a, b) for a, b in zip(grads, grads_again, strict=True))


@every_model
def test_another_seed_gives_another_model(stem: str) -> None:
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in contract.build(stem, 2, seed).parameters()])

    if not weights(0).any():
        pytest.skip("every parameter starts at zero")
    assert not torch.equal(weights(0), weights(1))


@every_model
def test_state_dict_restores_the_model(stem: str) -> None:
    embedded = contract.inputs(16, 2)
    model, other = contract.build(stem, 2, seed=0), contract.build(stem, 2, seed=1)
    contract.gradients(model, embedded)  # moves running statistics
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(embedded), other.eval()(embedded))


@every_model
def test_inputs_are_left_alone(stem: str) -> None:
    embedded = contract.inputs(8, 2)
    before = [embedded.fields.clone(), embedded.dense.clone()]
    contract.gradients(contract.build(stem, 2), embedded)
    assert torch.equal(embedded.fields, before[0])
    assert torch.equal(embedded.dense, before[1])


@every_model
def test_regularization_is_a_scalar(stem: str) -> None:
    value = contract.build(stem).regularization()
    assert value.shape == ()
    assert torch.isfinite(value)


@every_model
def test_explain_names_finite_tensors_with_one_entry_per_row(stem: str) -> None:
    model = contract.build(stem, 2).eval()
    for name, tensor in model.explain(contract.inputs(6, 2)).items():
        assert tensor.shape[0] == 6, name
        assert torch.isfinite(tensor).all(), name
        assert not tensor.requires_grad, name


@every_model
@pytest.mark.parametrize(("fields", "dim", "dense"), [(4, 8, 2), (5, 7, 2), (5, 8, 1)])
def test_wrong_sizes_are_named(stem: str, fields: int, dim: int, dense: int) -> None:
    model = contract.build(stem, 2)
    wrong = Embedded.random(batch=3, fields=fields, dim=dim, dense=dense)
    with pytest.raises(
        ValueError, match=r"built for fields \[B, 5, 8\] and dense \[B, 2\]"
    ) as info:
        model(wrong)
    assert f"[3, {fields}, {dim}]" in str(info.value)
    assert f"[3, {dense}]" in str(info.value)


@every_model
def test_missing_first_order_weights_are_named(stem: str) -> None:
    model = contract.build(stem)
    if not model.needs_linear:
        pytest.skip("the model reads no first-order weights")
    embedded = contract.inputs(3)
    embedded.linear = None
    with pytest.raises(ValueError, match="needs first-order weights"):
        model(embedded)


@every_model
def test_no_inputs_at_all_is_an_error(stem: str) -> None:
    with pytest.raises((ValueError, ConfigError), match="at least"):
        contract.make(
            stem,
            ModelInputs(num_fields=0, embed_dim=4, num_dense=0, slots=(), tasks=contract.TASKS),
        )


@every_model
def test_autocast_still_gives_float32(stem: str) -> None:
    model = contract.build(stem, 2)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        contract.assert_output(model, contract.inputs(16, 2))


@every_model
def test_runs_on_a_gpu_unchanged(stem: str) -> None:
    """The meta device stands for a device that is not the CPU: no tensor may be made elsewhere."""
    real = contract.inputs(4, 2)
    with torch.device("meta"):
        model = contract.build(stem, 2)
        embedded = Embedded(
            fields=torch.empty(4, 5, 8), dense=torch.empty(4, 2),
            linear=torch.empty(4, 5), second=torch.empty(4, 5, 8),
        )  # fmt: skip
        for name, history in real.history.items():
            embedded.history[name] = type(history)(
                history.values.to("meta"), history.offsets.to("meta"), history.longest
            )
            embedded.target[name] = torch.empty(4, 8)
    assert model(embedded).device.type == "meta"
