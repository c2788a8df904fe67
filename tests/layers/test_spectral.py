"""Singular vectors against LAPACK's, and polynomials of fewer terms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.polynomial.chebyshev import Chebyshev

from recsys.data.pairs import Pairs
from recsys.errors import ConfigError
from recsys.layers import spectral
from recsys.layers.pair_graph import PairGraph
from recsys.layers.spectral import economized, left_vectors, singular_vectors
from tests.models.cf.planted import I, U, draw, normalized


def graph(train: Pairs) -> PairGraph:
    made = PairGraph(train.num_users, train.num_items)
    made.fit(train)
    return made


@pytest.mark.parametrize(("users", "items"), [(U, I), (I, U), (300, 700), (700, 300)])
@pytest.mark.parametrize("rank", [1, 6, 30])
def test_equal_to_lapack(
    users: int, items: int, rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral, "DENSE", 100)  # the larger ones go through Lanczos
    train = draw(users, items)
    _, expected, turned = np.linalg.svd(normalized(train))
    values, vectors = singular_vectors(graph(train), rank, space=max(2, 150 / rank))
    np.testing.assert_allclose(values, expected[:rank], rtol=1e-3)
    np.testing.assert_allclose(vectors.T @ vectors, np.eye(rank), atol=1e-4)
    # The space of the vectors, whatever their signs, up to what mixes at its edge.
    inside = np.linalg.norm(turned[:rank] @ vectors.numpy(), axis=1)
    gap = (expected[:rank] - expected[rank]) / expected[rank]
    assert (inside[gap > 0.02] > 0.999).all()


@pytest.mark.parametrize(("users", "items"), [(400, 500), (500, 400)])
def test_fewer_singular_vectors_than_asked_for(
    users: int, items: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectral, "DENSE", 100)
    # Every user of a group has the same items: rank 3.
    group = np.arange(users) % 3
    rows, columns = (group[:, None] == np.arange(items) % 3).nonzero()
    train = Pairs.of(rows, columns, users, items)
    values, vectors = singular_vectors(graph(train), 10)
    np.testing.assert_allclose(values, [1] * 3 + [0] * 7, atol=1e-3)
    assert torch.isfinite(vectors).all()
    others = left_vectors(graph(train), values, vectors)
    np.testing.assert_allclose(others.T @ others, np.diag([1] * 3 + [0] * 7), atol=1e-4)
    found = (others * values) @ vectors.T
    np.testing.assert_allclose(found, normalized(train), atol=1e-5)
    np.testing.assert_allclose(vectors.T @ vectors, np.diag([1] * 3 + [0] * 7), atol=1e-4)


def test_same_seed_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spectral, "DENSE", 100)
    made, told = graph(draw(400, 500)), []
    found = [
        singular_vectors(made, 8, progress=lambda *done: told.append(done))[1] for _ in range(2)
    ]
    assert torch.equal(*found)
    assert told[0][1] == told[-1][0]


@pytest.mark.parametrize("rank", [0, U + 1])
def test_rank_must_exist(rank: int) -> None:
    with pytest.raises(ConfigError, match=f"rank={rank}"):
        singular_vectors(graph(draw()), rank)


def test_fewer_terms_differ_by_the_tolerance() -> None:
    response = Chebyshev(np.random.default_rng(0).normal(size=9), domain=[0, 1])
    grid = np.linspace(0, 0.2, 333)
    degrees = []
    for tolerance in (1e-1, 1e-2, 1e-4):
        fewer = economized(response, 0.2, tolerance, np.array([0.3]))
        assert np.abs(fewer(grid) - response(grid)).max() <= tolerance
        degrees.append(fewer.degree())
    assert degrees == sorted(degrees)
    assert degrees[0] < 8
    assert economized(response, 0.2, 0.0, np.array([])) is response
    # Too large where it must be taken back: the polynomial stays as it is.
    assert economized(response, 1e-3, 1e-9, np.array([1.0])) is response
