"""Bands of like length: every vector in one, and none longer than its edge."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.retrieval.bands import band_edges, band_of, least_rows


@pytest.mark.parametrize("deviation", [0.0, 0.1, 0.5, 1.5, 4.0])
def test_lengths_of_a_band_are_alike(deviation: float) -> None:
    norms = np.exp(deviation * np.random.default_rng(0).normal(size=20_000))
    edges = band_edges(norms, 1.5)
    assert (np.diff(edges) < 0).all()
    assert edges[0] == norms.max()
    which = band_of(norms, edges)
    counts = np.bincount(which, minlength=len(edges))
    assert counts.sum() == len(norms)
    for number in range(len(edges)):
        own = norms[which == number]
        assert own.max() == edges[number]
        few = counts[number] <= least_rows(len(norms))  # so few are searched exactly
        assert own.max() / own.min() <= 1.5 * (1 + 1e-9) or few
    if deviation == 0:
        assert len(edges) == 1


@given(
    norms=st.lists(st.sampled_from([0.0, 1e-30, 0.5, 1.0, 1.2, 3.0, 1e6]), min_size=1),
    copies=st.sampled_from([1, 700, 1500]),
)
def test_any_lengths_have_bands(norms: list[float], copies: int) -> None:
    every = np.repeat(np.array(norms), copies)
    edges = band_edges(every, 1.5)
    which = band_of(every, edges)
    assert (every <= edges[which]).all()
    assert (np.diff(edges) < 0).all()
    after = np.append(edges, -1.0)[which + 1]
    assert (every > after).all()
    for number in np.unique(which):
        own = every[which == number]
        assert own.max() <= 1.5 * own.min() or len(own) <= least_rows(len(every))


def test_one_long_vector_among_many_alike() -> None:
    norms = np.append(np.ones(5000), 9.0)
    edges = band_edges(norms, 1.5)
    assert edges.tolist() == [9.0, 1.0]
    assert np.bincount(band_of(norms, edges)).tolist() == [1, 5000]


def test_a_longer_vector_than_all_goes_to_the_first() -> None:
    edges = np.array([9.0, 3.0])
    assert band_of(np.array([100.0, 9.0, 3.0001, 3.0, 0.0]), edges).tolist() == [0, 0, 0, 1, 1]


def test_least_rows_grow_with_the_catalogue() -> None:
    assert [least_rows(n) for n in (10, 500_000, 10**8)] == [1_000, 5_000, 10_000]
