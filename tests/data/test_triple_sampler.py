"""Draws: exact, uniform, every pair once, the same from any position and for any processes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data import triple_sampler
from recsys.data.pairs import Pairs
from recsys.data.triple_sampler import Sampling, TripleSampler, lacking_items, sampler_kernel
from recsys.data.triples import Triples
from recsys.errors import CheckpointError, ConfigError, SchemaError

USERS, ITEMS = 40, 30


def make_pairs(seed: int = 0, share: float = 0.3) -> Pairs:
    """User 3 has nothing, user 5 all items but one."""
    has = np.random.default_rng(seed).random((USERS, ITEMS)) < share
    has[3], has[5] = False, True
    has[5, 17] = False
    return Pairs.of(*has.nonzero(), USERS, ITEMS)


def all_of(sampler: TripleSampler) -> Triples:
    batches = list(sampler)
    return Triples(
        torch.cat([b.users for b in batches]),
        torch.cat([b.positives for b in batches]),
        torch.cat([b.negatives for b in batches]),
    )


def same(a: Triples, b: Triples) -> bool:
    return (
        torch.equal(a.users, b.users)
        and torch.equal(a.positives, b.positives)
        and torch.equal(a.negatives, b.negatives)
    )


@pytest.fixture(params=["kernel", "numpy"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "numpy":
        monkeypatch.setattr(triple_sampler, "sampler_kernel", lambda: None)
    elif sampler_kernel() is None:
        pytest.skip("no C++ compiler: the kernel cannot be built")
    return request.param


def chi_square(counts: np.ndarray, expected: np.ndarray) -> float:
    """Standard deviations of the statistic from its mean."""
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    return float((statistic - freedom) / np.sqrt(2 * freedom))


@given(st.lists(st.sets(st.integers(0, 6), max_size=6), min_size=1, max_size=5))
@settings(max_examples=50, deadline=None)
def test_the_items_a_user_lacks_by_rank(rows: list[set[int]]) -> None:
    users = np.array([user for user, row in enumerate(rows) for _ in row], np.int64)
    items = np.array([item for row in rows for item in sorted(row)], np.int64)
    pairs = Pairs.of(users, items, len(rows), 7)
    for user, row in enumerate(rows):
        lacking = [item for item in range(7) if item not in row]
        ranks = np.arange(len(lacking))[None, :]
        for kernel in (sampler_kernel(), None):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(triple_sampler, "sampler_kernel", lambda k=kernel: k)
                assert lacking_items(pairs, np.array([user]), ranks).tolist() == [lacking]


@pytest.mark.parametrize("draw", ["users", "pairs"])
def test_positives_are_in_train_and_negatives_never(draw: str, way: str) -> None:
    pairs = make_pairs()
    sampler = TripleSampler(pairs, Sampling(draw=draw, negatives=7), 64, seed=1)
    drawn = all_of(sampler)
    users = drawn.users.numpy()
    assert pairs.contains(users, drawn.positives.numpy()).all()
    repeated = np.repeat(users, 7)
    assert not pairs.contains(repeated, drawn.negatives.numpy().ravel()).any()
    assert drawn.users.dtype == drawn.positives.dtype == drawn.negatives.dtype == torch.int64
    assert drawn.negatives.shape == (len(pairs), 7)
    assert set(drawn.negatives[drawn.users == 5].flatten().tolist()) <= {17}


def test_negatives_are_uniform_over_what_the_user_lacks(way: str) -> None:
    pairs = make_pairs()
    drawn = all_of(TripleSampler(pairs, Sampling(draw="pairs", negatives=500), 64, seed=2))
    for user in (0, 1, 7):
        found = drawn.negatives[drawn.users == user].flatten().numpy()
        lacking = np.setdiff1d(np.arange(ITEMS), pairs.of_user(user))
        counts = np.bincount(found, minlength=ITEMS)[lacking]
        assert counts.sum() == len(found)
        assert abs(chi_square(counts, np.full(len(lacking), len(found) / len(lacking)))) < 4


def test_without_rejection_negatives_are_uniform_over_all_items() -> None:
    pairs = make_pairs()
    sampling = Sampling(negatives=200, reject=False)
    drawn = all_of(TripleSampler(pairs, sampling, 64, seed=2)).negatives.numpy().ravel()
    counts = np.bincount(drawn, minlength=ITEMS)
    assert abs(chi_square(counts, np.full(ITEMS, len(drawn) / ITEMS))) < 4


def test_users_are_uniform_and_so_are_the_items_of_each() -> None:
    pairs = make_pairs()
    sampler = TripleSampler(pairs, Sampling(draw="users"), 512)
    counts = np.zeros((USERS, ITEMS))
    for epoch in range(100):
        sampler.set_epoch(epoch)
        drawn = all_of(sampler)
        np.add.at(counts, (drawn.users.numpy(), drawn.positives.numpy()), 1)
    per_user = counts.sum(1)
    assert per_user[3] == 0
    per_user = np.delete(per_user, 3)
    assert abs(chi_square(per_user, np.full(USERS - 1, counts.sum() / (USERS - 1)))) < 4
    own = counts[0][pairs.of_user(0)]
    assert abs(chi_square(own, np.full(len(own), counts[0].sum() / len(own)))) < 4


def test_every_pair_comes_once_an_epoch_in_another_order() -> None:
    pairs, seen = make_pairs(), []
    sampler = TripleSampler(pairs, Sampling(draw="pairs"), 50)
    for epoch in (0, 1):
        sampler.set_epoch(epoch)
        drawn = all_of(sampler)
        keys = drawn.users.numpy() * ITEMS + drawn.positives.numpy()
        assert np.array_equal(np.sort(keys), pairs.keys())
        seen.append(keys)
    assert not np.array_equal(*seen)


@pytest.mark.parametrize("draw", ["users", "pairs"])
def test_draws_do_not_depend_on_batches_blocks_read_or_processes(
    draw: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triple_sampler, "BLOCK_DRAWS", 64)  # a batch crosses blocks
    pairs, sampling = make_pairs(), Sampling(draw=draw, negatives=3)
    whole = all_of(TripleSampler(pairs, sampling, len(pairs), seed=4))
    for batch_size in (1, 20, 63, 1000):
        assert same(all_of(TripleSampler(pairs, sampling, batch_size, seed=4)), whole)
    ranks = [TripleSampler(pairs, sampling, 50, seed=4, rank=r, world_size=3) for r in range(3)]
    users = [torch.cat([part.users for part in parts]) for parts in zip(*ranks, strict=True)]
    assert torch.equal(torch.cat(users), whole.users)
    assert not same(all_of(TripleSampler(pairs, sampling, 50, seed=5)), whole)


@pytest.mark.parametrize("draw", ["users", "pairs"])
@pytest.mark.parametrize("steps", [0, 3, 8])
def test_a_continued_epoch_has_the_batches_that_remained(draw: str, steps: int) -> None:
    pairs, sampling = make_pairs(), Sampling(draw=draw, negatives=2)
    sampler = TripleSampler(pairs, sampling, 45, seed=6)
    sampler.set_epoch(2)
    iterator = iter(sampler)
    for _ in range(steps):
        next(iterator)
    state = json.loads(json.dumps(sampler.state()))
    remained = list(iterator)
    again = TripleSampler(pairs, sampling, 45, seed=6)
    again.load_state(state)
    again.set_epoch(2)
    found = list(again)
    assert len(found) == len(sampler) - steps == len(remained)
    assert all(same(a, b) for a, b in zip(found, remained, strict=True))
    assert again.state()["step"] == len(again)
    again.set_epoch(3)
    assert len(list(again)) == len(again)


def test_a_state_of_other_draws_is_an_error() -> None:
    sampler = TripleSampler(make_pairs(), Sampling(), 45)
    state = sampler.state()
    with pytest.raises(CheckpointError, match="seed was 0 and is 1"):
        TripleSampler(make_pairs(), Sampling(), 45, seed=1).load_state(state)
    with pytest.raises(CheckpointError, match="step 1000"):
        sampler.load_state({**state, "step": 1000})


def test_a_user_with_every_item_is_an_error_where_its_items_are_rejected() -> None:
    pairs = Pairs.of(np.array([0, 1, 1]), np.array([0, 0, 1]), 2, 2)
    with pytest.raises(SchemaError, match="user 1 has every one of the 2 items"):
        TripleSampler(pairs, Sampling(), 4)
    assert len(all_of(TripleSampler(pairs, Sampling(reject=False), 4))) == 3
    assert all_of(TripleSampler(pairs, Sampling(negatives=0), 4)).negatives.shape == (3, 0)


def test_bad_settings_are_errors() -> None:
    pairs, nothing = make_pairs(), np.empty(0, np.int64)
    with pytest.raises(ConfigError, match="Did you mean pairs"):
        Sampling(draw="pair")
    with pytest.raises(ConfigError, match="negatives=-1"):
        Sampling(negatives=-1)
    with pytest.raises(ConfigError, match="batch_size=0"):
        TripleSampler(pairs, Sampling(), 0)
    with pytest.raises(ConfigError, match="epoch is -1"):
        TripleSampler(pairs, Sampling(), 4).set_epoch(-1)
    with pytest.raises(SchemaError, match="no training pair"):
        TripleSampler(Pairs.of(nothing, nothing, 2, 2), Sampling(), 4)
