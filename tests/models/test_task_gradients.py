"""Cosines of tasks against gradients of a dense table in float64, and on planted conflicts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.storage import Storage
from recsys.models.recommender import Recommender
from recsys.models.saved import ModelSpec
from recsys.models.task_gradients import TaskGradients, task_gradients
from recsys.training.losses import binary_cross_entropy_sum
from tests import contract
from tests.embedding.test_lookup import STORAGES, make_batch, make_schema

LABELS = ("click", "conversion", "like")
OPTIONS = {"home": {"categories": [["click", "conversion"], ["like"]]}}


def losses(logits: Tensor, batch: Batch) -> Tensor:
    return binary_cross_entropy_sum(logits, batch.label, batch.weight)


def build(stem: str, storage: Callable[[int, int], Storage] = STORAGES["dense"]) -> Recommender:
    torch.manual_seed(0)
    chosen = {k: v for k, v in contract.options(stem).items() if k != "_target_"}
    target = contract.options(stem)["_target_"]
    spec = ModelSpec("mtl", target, chosen | OPTIONS.get(stem, {}))
    schema = dataclasses.replace(make_schema(), labels=LABELS, nested={"conversion": "click"})
    return Recommender.build(
        schema,
        EmbeddingOptions(dim=4, init_std=0.5),
        spec.make,
        storage,
        spec.pools_histories,
        spec.needs_fields,
        separate_tables=spec.separate_tables,
    )


def labelled(rows: int = 40, seed: int = 0) -> Batch:
    batch = make_batch(rows, seed)
    draw = torch.rand(rows, len(LABELS), generator=torch.Generator().manual_seed(seed))
    labels = (draw < 0.5).float()
    labels[:, 1] *= labels[:, 0]
    labels[draw > 0.97] = torch.nan
    return dataclasses.replace(batch, label=labels)


def slow_cosines(gradients: list[np.ndarray]) -> np.ndarray:
    found = np.full((len(gradients), len(gradients)), np.nan)
    for i, mine in enumerate(gradients):
        for j, other in enumerate(gradients):
            both = (mine != 0) & (other != 0)
            lengths = np.linalg.norm(mine[both]) * np.linalg.norm(other[both])
            if lengths > 0:
                found[i, j] = mine[both] @ other[both] / lengths
    return found


def compared(recommender: Recommender, batches: list[Batch]) -> TaskGradients:
    found = task_gradients(recommender, batches, losses)
    assert found is not None
    return found


@pytest.mark.parametrize("stem", contract.stems("mtl"))
def test_cosines_are_those_of_the_gradients(stem: str) -> None:
    recommender = build(stem)
    found = compared(recommender, [labelled()])
    assert found.tasks == LABELS
    weights, vectors = [], []
    parameters = [p for p in recommender.model.parameters() if p.requires_grad]
    recommender.eval()
    for task in range(len(LABELS)):
        loss = losses(recommender(labelled()), labelled())[task]
        table, *dense = torch.autograd.grad(
            loss, [recommender.lookup.storage.weight, *parameters], allow_unused=True
        )
        none = [torch.zeros_like(p) if g is None else g for g, p in zip(dense, parameters)]  # noqa: B905
        weights.append(torch.cat([g.double().flatten() for g in none]).numpy())
        vectors.append(table.double().flatten().numpy())
    np.testing.assert_allclose(found.weights, slow_cosines(weights), atol=2e-4)
    np.testing.assert_allclose(found.vectors, slow_cosines(vectors), atol=2e-4)


@pytest.mark.parametrize("storage", STORAGES)
def test_every_storage_is_read_alike_and_stays_as_it_is(storage: str) -> None:
    expected = compared(build("mmoe"), [labelled()])
    recommender = build("mmoe", STORAGES[storage]).train()
    before = {name: value.clone() for name, value in recommender.tensors().items()}
    found = compared(recommender, [labelled()])
    np.testing.assert_allclose(found.vectors, expected.vectors, atol=1e-5)
    np.testing.assert_allclose(found.weights, expected.weights, atol=1e-5)
    assert recommender.training
    assert all(torch.equal(value, before[k]) for k, value in recommender.tensors().items())
    assert all(parameter.grad is None for parameter in recommender.parameters())


def test_a_task_against_itself_agrees_and_against_its_opposite_does_not() -> None:
    """Three labels that are one, its copy and its negation, read by equal heads."""
    recommender = build("sharedbottom")
    with torch.no_grad():
        for name, value in recommender.model.named_parameters():
            if value.ndim and value.shape[0] == len(LABELS) and "bottom" not in name:
                value.copy_(value[:1].expand_as(value))
    batch = labelled()
    one = (torch.arange(40) % 3 == 0).float()
    batch = dataclasses.replace(batch, label=torch.stack([one, one, 1 - one], dim=1))
    found = compared(recommender, [batch, batch])
    assert found.weights[0, 1] == pytest.approx(1.0, abs=1e-5)
    assert found.vectors[0, 1] == pytest.approx(1.0, abs=1e-5)
    assert found.vectors[0, 2] < 0
    assert found.least()["cosine_vectors_min"] == pytest.approx(
        min(found.vectors[0, 2], found.vectors[1, 2])
    )


def test_tasks_that_share_nothing_have_no_cosine() -> None:
    found = compared(build("singletask"), [labelled()])
    apart = ~np.eye(len(LABELS), dtype=bool)
    assert np.isnan(found.weights[apart]).all()
    assert np.isnan(found.vectors[apart]).all()
    np.testing.assert_allclose(np.diag(found.vectors), 1.0)
    assert found.least() == {}


def test_one_label_has_nothing_to_compare() -> None:
    from tests.models.test_recommender import build as build_one

    assert task_gradients(build_one("fm.FM"), [make_batch()], losses) is None
