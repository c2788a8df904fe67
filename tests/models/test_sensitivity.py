"""First-order importance against finite differences, row by row, and on a field that decides."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import binary_cross_entropy_with_logits

from recsys.errors import SchemaError
from recsys.models.sensitivity import sensitivity
from tests.embedding.test_lookup import make_batch, make_schema
from tests.models.test_recommender import build

STEP = 1e-2
"""Small beside the vectors, large beside float32's rounding."""


@pytest.mark.parametrize("model", ["lr.LR", "fm.FM", "dcnv2.DCNv2", "deepfm.DeepFM"])
@pytest.mark.parametrize("numeric", ["vector", "dense"])
def test_both_are_derivatives(model: str, numeric: str) -> None:
    """Scale or move what a field brings a little, and see what the loss does."""
    recommender = build(model, numeric=numeric)
    batch = make_batch()
    found = sensitivity(recommender, [batch])
    assert found.fields == tuple(make_schema().names)
    with torch.no_grad():
        whole = recommender.lookup(batch)
    names = [one.rpartition(".")[0] if "." in one else one for one in recommender.lookup.plan.names]
    dense = [one.name for one in make_schema().dense] if numeric == "dense" else []
    parts = {"fields": names, "second": names, "linear": names, "dense": dense}

    def losses(field: str, scale: float, toward: float) -> torch.Tensor:
        """Of each row, with the field's parts scaled, or moved toward their means."""
        changed = dataclasses.replace(whole)
        for name, columns in parts.items():
            part = getattr(whole, name)
            if part is None or field not in columns:
                continue
            part = part.clone()
            at = [k for k, one in enumerate(columns) if one == field]
            part[:, at] = part[:, at] * scale + toward * (part[:, at].mean(0) - part[:, at])
            setattr(changed, name, part)
        with torch.no_grad():
            logits = recommender.model(changed)
        labels = batch.label.to(logits.dtype)
        return binary_cross_entropy_with_logits(logits, labels, reduction="none")

    for index, field in enumerate(found.fields):
        slope = (losses(field, 1 + STEP, 0) - losses(field, 1 - STEP, 0)) / (2 * STEP)
        assert found.mask[index] == pytest.approx(abs(float(slope.mean())), abs=1e-3, rel=1e-2)
        slope = (losses(field, 1, STEP) - losses(field, 1, -STEP)) / (2 * STEP)
        assert found.removal[index] == pytest.approx(float(slope.abs().mean()), abs=1e-3, rel=1e-2)


def test_batches_only_matter_for_the_mean_over_them() -> None:
    recommender = build("fm.FM")
    batch = make_batch()
    once, twice = sensitivity(recommender, [batch]), sensitivity(recommender, [batch, batch])
    np.testing.assert_allclose(once.removal, twice.removal, rtol=1e-5)
    np.testing.assert_allclose(once.mask, twice.mask, rtol=1e-5)
    assert twice.num_rows == 2 * once.num_rows


def test_nothing_of_the_model_changes() -> None:
    recommender = build("deepfm.DeepFM")
    before = {name: value.clone() for name, value in recommender.tensors().items()}
    sensitivity(recommender, [make_batch()])
    for name, value in recommender.tensors().items():
        assert torch.equal(before[name], value)
    assert all(parameter.grad is None for parameter in recommender.parameters())


def test_no_rows_are_an_error() -> None:
    with pytest.raises(SchemaError, match="needs labelled rows"):
        sensitivity(build("fm.FM"), [])
