"""What tells two beginnings apart, and beginning with another run's weights."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from recsys.data.encode import FeaturePipeline
from recsys.data.numeric import Scale
from recsys.errors import ConfigError
from recsys.models.recommender import Recommender
from recsys.models.saved import ModelSpec, SavedModel, weights_of
from recsys.training.initialization import initial_digest, start_from
from tests.embedding.test_lookup import make_batch, make_schema
from tests.models.test_recommender import build


def pipeline(mean: float = 0.0) -> FeaturePipeline:
    return FeaturePipeline(make_schema(), {}, {"price": Scale("standard", mean=mean)})  # type: ignore[arg-type]


def finished(model: str, seed: int = 3) -> tuple[Recommender, SavedModel]:
    made = build(model, seed=seed)
    spec = ModelSpec("ctr", f"recsys.models.ctr.{model}", {})
    return made, SavedModel(made, pipeline(), spec)


@pytest.mark.parametrize("storage", ["dense", "sparse", "fused"])
def test_a_digest_is_of_every_weight(storage: str) -> None:
    made = build("deepfm.DeepFM", storage)
    digest = initial_digest(made)
    assert digest == initial_digest(build("deepfm.DeepFM", storage))
    assert digest != initial_digest(build("deepfm.DeepFM", storage, seed=1))
    with torch.no_grad():
        for name in weights_of(made):
            tensor = made.tensors()[name]
            first = (0,) * tensor.dim()
            before = tensor[first].clone()
            tensor[first] += 1
            assert initial_digest(made) != digest, name
            tensor[first] = before
    assert initial_digest(made) == digest


def test_where_a_table_is_kept_makes_no_other_beginning() -> None:
    dense, fused = build("fm.FM", "dense"), build("fm.FM", "fused")
    fused.load_tensors(
        fused.tensors() | {k: v for k, v in dense.tensors().items() if k in fused.tensors()}
    )
    assert initial_digest(dense) == initial_digest(fused)


@pytest.mark.parametrize("storage", ["dense", "sparse", "fused"])
def test_beginning_with_the_weights_of_another_run(storage: str) -> None:
    other, saved = finished("dcnv2.DCNv2")
    mine = build("dcnv2.DCNv2", storage, seed=0)
    batch = make_batch()
    assert not torch.equal(mine(batch), other(batch))
    start_from(mine, saved, pipeline(), "x")
    assert torch.equal(mine(batch), other(batch))
    assert initial_digest(mine) == initial_digest(other)


def test_what_cannot_begin_with_it_is_refused() -> None:
    _, saved = finished("dcnv2.DCNv2")
    with pytest.raises(ConfigError, match=r"init_from=x is another model: .*\(DCNv2\)"):
        start_from(build("fm.FM"), saved, pipeline(), "x")
    wider = build("dcnv2.DCNv2", numeric="dense")
    with pytest.raises(ConfigError, match="init_from=x is another model"):
        start_from(wider, saved, pipeline(), "x")
    mine = build("dcnv2.DCNv2")
    with pytest.raises(ConfigError, match="gives values other codes than this data does"):
        start_from(mine, saved, pipeline(mean=1.0), "x")
    fields = (*make_schema().fields[:-1], dataclasses.replace(make_schema()["age"], name="years"))
    renamed = FeaturePipeline(dataclasses.replace(make_schema(), fields=fields), {}, {})
    with pytest.raises(ConfigError, match=r"read other columns \(- then, \+ now\):\n- .*age"):
        start_from(mine, saved, renamed, "x")
    trees = SavedModel(
        saved.recommender, pipeline(), ModelSpec("ctr", "recsys.models.ctr.lightgbm.LightGBM", {})
    )
    with pytest.raises(ConfigError, match="made of trees"):
        start_from(mine, trees, pipeline(), "x")
