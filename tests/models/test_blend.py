"""Blends and what is left of trained models."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import ConfigError
from recsys.models.blend import Blend, Vectors, standardized
from recsys.models.cf.gfcf import GFCF
from recsys.models.cf.popularity import Popularity
from recsys.models.collaborative import CFModel
from tests.models.cf.planted import I, U, draw

SPECS: list[dict[str, Any]] = [
    {"target": "recsys.models.cf.gfcf.GFCF", "arguments": {"rank": 4}},
    {"target": "recsys.models.cf.popularity.Popularity", "arguments": {}},
    {"target": "recsys.models.blend.Vectors", "arguments": {"embed_dim": 3}},
]


def learnt() -> list[CFModel]:
    train = draw()
    closed = GFCF(U, I, rank=4), Popularity(U, I)
    for model in closed:
        model.fit(train)
    torch.manual_seed(0)
    return [*closed, Vectors.of(torch.randn(U, 3), torch.randn(I, 3))]


def test_scores_are_the_weighted_sum_of_standardised_ones() -> None:
    members, weights = learnt(), [0.5, 0.0, 2.0]
    users = torch.tensor([3, 0, 3])
    expected = np.zeros((3, I))
    for weight, member in zip(weights, members, strict=True):
        scores = member.scores(users).double().numpy()
        shifted = scores - scores.mean(1, keepdims=True)
        spread = scores.std(1, keepdims=True)
        expected += weight * np.divide(shifted, spread, out=shifted * 0, where=spread > 1e-12)
    found = Blend.of(members, SPECS, weights).scores(users)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_state_makes_the_same_blend() -> None:
    made = Blend.of(learnt(), SPECS, [0.2, 0.3, 0.5])
    again = Blend(U, I, members=SPECS, weights=[0.2, 0.3, 0.5])
    again.load_state_dict(made.state_dict())
    users = torch.arange(U)
    assert torch.equal(again.scores(users), made.scores(users))


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=20))
@settings(max_examples=50, deadline=None)
def test_rows_keep_their_order(row: list[float]) -> None:
    scores = torch.tensor([row])
    found = standardized(scores)
    assert found.isfinite().all()
    steps = scores[0].sort().indices
    assert (found[0][steps].diff() >= -1e-6).all()


@pytest.mark.parametrize(
    ("members", "weights", "message"),
    [
        (SPECS, [1.0], "3 members and 1 weights"),
        ([], [], "0 members and 0 weights"),
        (SPECS, [1.0, -1.0, 0.0], r"weights=\[1.0, -1.0, 0.0\]; they must"),
        (SPECS, [0.0, 0.0, 0.0], "not all of them 0"),
        (SPECS, [1.0, float("nan"), 0.0], "must be numbers"),
        (
            [{"target": "recsys.models.cf.gfcf.GFCF", "arguments": {"rnk": 4}}],
            [1.0],
            "Did you mean",
        ),
        ([{"target": "os.system", "arguments": {}}], [1.0], "is not part of recsys"),
    ],
)
def test_impossible_blends(members: list[Any], weights: list[float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Blend(U, I, members=members, weights=weights)


def test_vectors_need_a_width() -> None:
    with pytest.raises(ConfigError, match="embed_dim is 0"):
        Vectors(2, 3, embed_dim=0)
