"""Lookup and model together: sized by the schema, saved by name."""

from collections.abc import Callable

import pytest
import torch

from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.storage import DenseStorage, FusedStorage, SparseStorage, Storage
from recsys.models.recommender import Recommender
from recsys.models.saved import ModelSpec
from tests.embedding.test_lookup import make_batch, make_schema

STORAGES: dict[str, Callable[[int, int], Storage]] = {
    "dense": DenseStorage,
    "sparse": SparseStorage,
    "fused": lambda rows, width: FusedStorage(rows, width, optimizer="rowwise_adagrad", lr=0.1),
}
MODELS = ["lr.LR", "fm.FM", "mlp.MLP", "dcnv2.DCNv2", "autoint.AutoInt"]


def build(
    model: str, storage: str = "dense", numeric: str = "vector", seed: int = 0
) -> Recommender:
    torch.manual_seed(seed)
    spec = ModelSpec("ctr", f"recsys.models.ctr.{model}", {})
    options = EmbeddingOptions(dim=4, numeric=numeric, init_std=0.5)
    return Recommender.build(
        make_schema(),
        options,
        spec.make,
        STORAGES[storage],
        spec.pools_histories,
        spec.needs_fields,
    ).eval()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("numeric", ["vector", "dense"])
def test_a_logit_per_row(model: str, numeric: str) -> None:
    logits = build(model, numeric=numeric)(make_batch())
    assert logits.shape == (5,)
    assert logits.isfinite().all()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("storage", STORAGES)
def test_tensors_round_trip_into_another_storage(model: str, storage: str) -> None:
    """A model trained with any update serves from a dense table."""
    trained = build(model, storage)
    tensors = {
        name: value.clone()
        for name, value in trained.tensors().items()
        if not name.startswith("tables.") or name.endswith(".weight")
    }
    served = build(model, "dense", seed=1)
    batch = make_batch()
    assert not torch.equal(served(batch), trained(batch))
    served.load_tensors(tensors)
    assert torch.equal(served(batch), trained(batch))


def test_a_linear_model_keeps_no_vectors() -> None:
    model = build("lr.LR")
    assert model.lookup.storage.width == 1
    counts = model.num_parameters()
    assert counts["embedding"] == model.lookup.layout.num_rows


def test_tensors_of_another_model_are_refused() -> None:
    tensors = build("mlp.MLP").tensors()
    with pytest.raises(RuntimeError):
        build("autoint.AutoInt").load_tensors(tensors)
    tensors["numeric"] = torch.zeros(9, 4)
    with pytest.raises(ValueError, match=r"numeric vectors are \[9, 4\]"):
        build("mlp.MLP").load_tensors(tensors)
