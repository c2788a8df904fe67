"""What every model of users and items must do, over every configuration."""

import inspect
from typing import Any

import numpy as np
import pytest
import torch

from recsys import config
from recsys.data.pairs import Pairs
from recsys.data.triple_sampler import TripleSampler
from recsys.errors import ConfigError, SchemaError
from recsys.models.collaborative import CFModel, ClosedForm, EmbeddingModel
from recsys.models.registry import import_target
from recsys.models.saved import ModelSpec
from recsys.models.saved_cf import make_cf

MODELS = config.options("cf")
RANKS: dict[str, Any] = {"rank": 4}
"""Of models with singular vectors: these sets have few."""


def spec_of(stem: str) -> ModelSpec:
    node = config.plain(config.compose("train", [f"cf={stem}"]).cf)
    target = node.pop("_target_")
    return ModelSpec("cf", target, node | ({"rank": 4} if "rank" in node else {}))


def pairs(users: int = 9, items: int = 12, seed: int = 0) -> Pairs:
    """Every user and item but the last ones, which have nothing."""
    rng = np.random.default_rng(seed)
    chance = rng.random((users - 1, items - 1))
    return Pairs.of(*np.nonzero(chance < 0.4), num_users=users, num_items=items)


def made(stem: str, train: Pairs, seed: int = 0) -> CFModel:
    torch.manual_seed(seed)
    model = make_cf(spec_of(stem), train)
    if isinstance(model, ClosedForm):
        model.fit(train)
    return model.eval()


@pytest.mark.parametrize("stem", MODELS)
def test_keys_of_the_configuration_are_those_of_the_constructor(stem: str) -> None:
    node = config.plain(config.compose("train", [f"cf={stem}"]).cf)
    signature = inspect.signature(import_target(node.pop("_target_"))).parameters
    own = {k: p for k, p in signature.items() if k not in ("train", "num_users", "num_items")}
    assert set(node) == set(own)
    for key, parameter in own.items():
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY
        assert node[key] == (
            list(parameter.default) if isinstance(parameter.default, tuple) else parameter.default
        )


@torch.no_grad()
@pytest.mark.parametrize("stem", MODELS)
def test_scores_are_finite_whoever_is_asked_for_and_with_whom(stem: str) -> None:
    train = pairs()
    model = made(stem, train)
    every = model.scores(torch.arange(9))
    assert every.shape == (9, 12)
    assert every.dtype == torch.float32
    assert every.isfinite().all()
    some = torch.tensor([7, 2, 2])
    torch.testing.assert_close(model.scores(some), every[some], rtol=1e-5, atol=1e-6)
    assert model.scores(some[:0]).shape == (0, 12)
    again = made(stem, train)
    assert torch.equal(again.scores(some), model.scores(some))


@torch.no_grad()
@pytest.mark.parametrize("stem", [stem for stem in MODELS if stem != "popularity"])
def test_different_users_get_different_scores(stem: str) -> None:
    scores = made(stem, pairs()).scores(torch.arange(3))
    assert not torch.allclose(scores[0], scores[1])


@pytest.mark.parametrize("stem", MODELS)
def test_every_parameter_learns(stem: str) -> None:
    train = pairs()
    model = made(stem, train)
    if not isinstance(model, EmbeddingModel):
        assert not list(model.parameters())
        return
    model.train()
    batch = next(iter(TripleSampler(train, model.sampling, len(train))))
    losses = model.losses(batch)
    assert all(loss.ndim == 0 and loss.isfinite() for loss in losses.values())
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name
    users, items = model()
    assert users.shape == (9, model.embed_dim)
    assert items.shape == (12, model.embed_dim)
    torch.testing.assert_close(model.scores(torch.arange(9)), users @ items.T)


@pytest.mark.parametrize("stem", MODELS)
def test_nothing_to_learn_from_is_refused(stem: str) -> None:
    none = np.array([], np.int64)
    with pytest.raises((SchemaError, ConfigError)):
        made(stem, Pairs.of(none, none, 0, 0))
