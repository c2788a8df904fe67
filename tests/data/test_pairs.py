"""A set of pairs: against Python sets; splits leave every user something."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.pairs import Pairs
from recsys.errors import SchemaError

ANY_PAIRS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 6)), max_size=40)


def make(pairs: list[tuple[int, int]]) -> Pairs:
    both = np.array(pairs, np.int64).reshape(-1, 2)
    return Pairs.of(both[:, 0], both[:, 1], num_users=6, num_items=7)


def as_set(pairs: Pairs) -> set[tuple[int, int]]:
    return set(zip(pairs.users.tolist(), pairs.items.tolist(), strict=True))


@given(ANY_PAIRS)
@settings(max_examples=50, deadline=None)
def test_it_is_the_set(given_pairs: list[tuple[int, int]]) -> None:
    pairs, expected = make(given_pairs), set(given_pairs)
    assert len(pairs) == len(expected)
    assert as_set(pairs) == expected
    assert pairs.items.dtype == np.int32
    for user in range(6):
        items = pairs.of_user(user).tolist()
        assert items == sorted(item for who, item in expected if who == user)
        assert pairs.user_degrees[user] == len(items)
    assert pairs.item_degrees.tolist() == [sum(i == j for _, j in expected) for i in range(7)]
    flipped = pairs.transposed()
    assert (flipped.num_users, flipped.num_items) == (7, 6)
    assert as_set(flipped) == {(item, user) for user, item in expected}
    for item in range(7):
        assert flipped.of_user(item).tolist() == sorted(u for u, i in expected if i == item)
    users, items = np.divmod(np.arange(42), 7)
    inside = pairs.contains(users, items)
    assert inside.tolist() == [(u, i) in expected for u, i in zip(users, items, strict=True)]


@given(ANY_PAIRS, st.floats(0.05, 0.95), st.integers(0, 5))
@settings(max_examples=50, deadline=None)
def test_a_split_is_a_partition_that_leaves_every_user_a_pair(
    given_pairs: list[tuple[int, int]], share: float, seed: int
) -> None:
    pairs = make(given_pairs)
    left, out = pairs.split(share, seed)
    assert as_set(left) | as_set(out) == as_set(pairs)
    assert not as_set(left) & as_set(out)
    assert ((left.user_degrees > 0) == (pairs.user_degrees > 0)).all()
    again, _ = pairs.split(share, seed)
    assert as_set(again) == as_set(left)
    assert as_set(Pairs.union([left, out])) == as_set(pairs)


def test_an_order_says_which_are_taken_out() -> None:
    rng = np.random.default_rng(0)
    has = rng.random((20, 30)) < 0.4
    pairs = Pairs.of(*has.nonzero(), 20, 30)
    order = rng.permutation(len(pairs))
    left, out = pairs.split(0.3, 1, order)
    assert len(out) > 50
    place = dict(zip(pairs.keys().tolist(), order.tolist(), strict=True))
    for user in range(20):
        kept = [place[user * 30 + i] for i in left.of_user(user).tolist()]
        gone = [place[user * 30 + i] for i in out.of_user(user).tolist()]
        assert max(kept) < min(gone, default=len(pairs))
    sizes = pairs.split(0.3, 1)[1].user_degrees
    assert (out.user_degrees == sizes).all()  # how many does not depend on which


def test_the_share_holds_on_average_for_users_of_few_items_too() -> None:
    rng = np.random.default_rng(0)
    users = np.repeat(np.arange(20_000), 3)
    pairs = Pairs.of(users, rng.integers(0, 10**9, 60_000), 20_000, 10**9)
    _, out = pairs.split(0.1, seed=1)
    assert len(out) / len(pairs) == pytest.approx(0.1, abs=0.005)
    assert out.user_degrees.max() == 1


@pytest.mark.parametrize(
    ("users", "items", "message"),
    [([6], [0], "user codes run from 6 to 6"), ([-1], [0], "-1"), ([0], [7], "0 to 6")],
)
def test_codes_out_of_range_are_refused(users: list[int], items: list[int], message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        Pairs.of(np.array(users), np.array(items), 6, 7)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(SchemaError, match="between 0 and 1"):
        make([(0, 0)]).split(share, 0)
