"""Optimisers: the dense L2 of BARS, clipping over all gradients, state that comes back."""

from typing import Any

import pytest
import torch

from recsys.data.batch import Batch
from recsys.embedding.lookup import EmbeddingLookup, EmbeddingOptions
from recsys.embedding.storage import DenseStorage, SparseStorage
from recsys.errors import ConfigError
from recsys.training import optimizers as module
from recsys.training.optimizers import OptimizerOptions, Optimizers
from tests.embedding.test_lookup import make_batch, make_schema

CPU = torch.device("cpu")


def build(layout: str = "full", **keys: Any) -> tuple[EmbeddingLookup, torch.nn.Linear, Optimizers]:
    torch.manual_seed(0)
    options = OptimizerOptions(**keys)
    lookup = EmbeddingLookup(
        make_schema(),
        EmbeddingOptions(layout=layout, dim=4, init_std=0.5),
        options.storage_factory(CPU),
    )
    model = torch.nn.Linear(lookup.plan.num_fields * 4, 1)
    counts = None
    if options.embedding_mba:
        counts = sum(reads(lookup, make_batch(seed=seed)) for seed in range(3))
    return lookup, model, Optimizers(lookup, model, options, counts)


def reads(lookup: EmbeddingLookup, batch: Batch) -> torch.Tensor:
    """How often the batch reads each row, value by value."""
    counts = torch.zeros(lookup.layout.num_rows, dtype=torch.int64)
    tables = [(batch.ids[:, i], field.name) for i, field in enumerate(lookup.schema.coded)]
    tables += [(batch.ragged[f.name].values, f.shares or f.name) for f in lookup.schema.ragged]
    for codes, table in tables:
        for code in codes.tolist():
            counts[int(lookup.layout.rows_of(torch.tensor([code]), table))] += 1
    return counts


def backward(lookup: EmbeddingLookup, model: torch.nn.Linear, seed: int = 0) -> torch.Tensor:
    loss = (model(lookup(make_batch(seed=seed)).flat()) ** 2).mean()
    loss.backward()
    return loss


def test_dense_l2_is_the_gradient_of_half_lambda_times_the_squares() -> None:
    lookup, model, optimizers = build(name="adam", embedding_l2=0.3)
    backward(lookup, model)
    optimizers.add_embedding_l2()
    ours = lookup.storage.weight.grad.clone()
    lookup.zero_grad()
    loss = (model(lookup(make_batch()).flat()) ** 2).mean()
    (loss + 0.5 * 0.3 * (lookup.storage.weight**2).sum()).backward()
    torch.testing.assert_close(ours, lookup.storage.weight.grad)


@pytest.mark.parametrize("layout", ["full", "multiplexed"])
@pytest.mark.parametrize("name", ["adam", "lazy_adam", "rowwise_adagrad"])
def test_mini_batch_aware_regularisation_equals_a_loop(name: str, layout: str) -> None:
    """DIN, Eq. 7: lambda / n_j * w_j, once for every row j that the batch reads, however often."""
    strength = 0.7
    lookup, model, optimizers = build(layout, name=name, embedding_mba=strength)
    total = sum(reads(lookup, make_batch(seed=seed)) for seed in range(3))
    for seed in range(3):
        optimizers.zero_grad()
        backward(lookup, model, seed)
        weight = lookup.storage.weight
        expected = weight.grad.to_dense().clone()
        read = reads(lookup, make_batch(seed=seed))
        assert 0 < int((read > 0).sum()) < len(read) - 1, "some rows are read and some are not"
        for row in range(1, len(read)):
            if read[row]:
                expected[row] += strength / float(total[row]) * weight.detach()[row]
        optimizers.add_embedding_l2()
        torch.testing.assert_close(weight.grad.to_dense(), expected)
        lookup(make_batch(seed=seed + 10))  # an evaluation in between must not matter
        optimizers.clip(1.0)
        optimizers.step()


@pytest.mark.parametrize("name", ["adam", "lazy_adam", "rowwise_adagrad"])
def test_regularised_rows_shrink_and_the_others_stay(name: str) -> None:
    lookup, model, optimizers = build(name=name, lr=0.01, embedding_lr=0.01, embedding_mba=1e4)
    before = lookup.storage.table().clone()
    backward(lookup, model)
    optimizers.add_embedding_l2()
    optimizers.step()
    read = reads(lookup, make_batch()) > 0
    read[0] = False
    norm, was = lookup.storage.table().norm(dim=1), before.norm(dim=1)
    assert (norm[read] < was[read]).all()
    assert torch.equal(lookup.storage.table()[~read], before[~read])


def test_regularisation_needs_counts() -> None:
    lookup, model, _ = build(name="adam")
    with pytest.raises(ValueError, match="row_counts"):
        Optimizers(lookup, model, OptimizerOptions(name="adam", embedding_mba=0.1))


def test_regularisation_of_a_dense_table_is_refused_on_several_ranks() -> None:
    with pytest.raises(ConfigError, match=r"2 processes does not tell.*lazy_adam"):
        OptimizerOptions(name="adam", embedding_mba=0.1).storage_factory(CPU, 2)
    OptimizerOptions(name="lazy_adam", embedding_mba=0.1).storage_factory(CPU, 2)


def test_regularised_tables_are_not_fused_into_the_backward(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    for kind in ("FusedStorage", "SparseStorage"):
        monkeypatch.setattr(module, kind, lambda *_, kind=kind, **__: made.append(kind))
    cuda = torch.device("cuda")
    OptimizerOptions(name="rowwise_adagrad").storage_factory(cuda)(10, 4)
    OptimizerOptions(name="rowwise_adagrad", embedding_mba=0.1).storage_factory(cuda)(10, 4)
    assert made == ["FusedStorage", "SparseStorage"]


def test_adam_equals_torch_adam_over_everything() -> None:
    lookup, model, optimizers = build(name="adam", lr=0.01)
    other, twin, _ = build(name="adam", lr=0.01)
    reference = torch.optim.Adam([*twin.parameters(), *other.parameters()], lr=0.01)
    for seed in range(5):
        optimizers.zero_grad()
        backward(lookup, model, seed)
        optimizers.step()
        reference.zero_grad()
        backward(other, twin, seed)
        reference.step()
    torch.testing.assert_close(lookup.storage.weight, other.storage.weight, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model.weight, twin.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "lazy_adam", "rowwise_adagrad"])
def test_the_norm_counts_every_gradient_once(name: str) -> None:
    """Duplicate ids of a row-sparse gradient are summed before their norm is taken."""
    lookup, model, optimizers = build(name=name)
    backward(lookup, model)
    parts = [p.grad.to_dense().clone() for p in [*lookup.parameters(), *model.parameters()]]
    expected = torch.sqrt(sum((part**2).sum() for part in parts))  # type: ignore[arg-type]
    norm = optimizers.clip(float(expected) / 2)
    torch.testing.assert_close(norm, expected)
    after = [p.grad.to_dense() for p in [*lookup.parameters(), *model.parameters()]]
    for before, now in zip(parts, after, strict=True):
        torch.testing.assert_close(now, before / 2, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["adam", "lazy_adam", "rowwise_adagrad"])
def test_state_comes_back(name: str) -> None:
    lookup, model, optimizers = build(name=name, lr=0.05)
    for seed in range(3):
        optimizers.zero_grad()
        backward(lookup, model, seed)
        optimizers.step()
    tensors = {key: value.clone() for key, value in optimizers.state_tensors().items()}
    other, twin, again = build(name=name, lr=0.05)
    other.load_state_dict(lookup.state_dict())
    twin.load_state_dict(model.state_dict())
    again.load_state_tensors(tensors)
    for pair in ((lookup, model, optimizers), (other, twin, again)):
        pair[2].zero_grad()
        backward(pair[0], pair[1], seed=9)
        pair[2].step()
    assert torch.equal(lookup.storage.table(), other.storage.table())
    assert torch.equal(model.weight, twin.weight)


def test_state_of_another_optimizer_is_refused() -> None:
    lookup, model, optimizers = build(name="lazy_adam")
    backward(lookup, model)
    optimizers.step()
    _, _, dense = build(name="adam")
    with pytest.raises(KeyError, match="sparse optimiser state, this run has none"):
        dense.load_state_tensors(optimizers.state_tensors())


def test_rates_of_tables_and_the_rest_scale_together() -> None:
    _, _, optimizers = build(name="rowwise_adagrad", lr=0.1, embedding_lr=0.5)
    optimizers.set_scale(0.1)
    assert optimizers.lr == pytest.approx(0.01)
    assert optimizers.dense.param_groups[0]["lr"] == pytest.approx(0.01)
    assert optimizers.sparse.param_groups[0]["lr"] == pytest.approx(0.05)


def test_each_optimizer_gets_the_storage_it_can_update() -> None:
    kinds = {"adam": DenseStorage, "lazy_adam": SparseStorage, "rowwise_adagrad": SparseStorage}
    for name, kind in kinds.items():
        made = OptimizerOptions(name=name).storage_factory(CPU)(10, 4)
        assert type(made) is kind


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"name": "adm"}, "Did you mean adam"),
        ({"lr": -1.0}, r"optimizer\.lr=-1"),
        ({"embedding_mba": -1.0}, r"optimizer\.embedding_mba=-1"),
        ({"name": "lazy_adam", "embedding_l2": 0.1}, "use optimizer=adam"),
    ],
)
def test_impossible_options_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        OptimizerOptions(**keys)
