"""Negatives: never touched, uniform over what is left, and the same for the same seed."""

import numpy as np
import pytest

from recsys.data.negatives import draw_untouched
from recsys.errors import SchemaError


def test_no_draw_was_touched_and_every_other_item_is_as_likely() -> None:
    rng = np.random.default_rng(0)
    log_users, log_items = rng.integers(0, 5, 30), rng.integers(0, 12, 30)
    asked = np.repeat(np.arange(6), 12_000)  # user 5 has touched nothing
    drawn = draw_untouched(asked, log_users, log_items, 12, seed=1)
    for user in range(6):
        counts = np.bincount(drawn[asked == user], minlength=12)
        allowed = ~np.isin(np.arange(12), log_items[log_users == user])
        assert (counts[~allowed] == 0).all()
        expected = 12_000 / allowed.sum()
        assert np.abs(counts[allowed] - expected).max() < 5 * np.sqrt(expected)


def test_seeds() -> None:
    users, log = np.arange(100) % 7, np.zeros(7, np.int64)
    draws = [draw_untouched(users, np.arange(7), log, 50, seed) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()


def test_an_empty_log_leaves_every_item() -> None:
    none = np.empty(0, np.int64)
    assert set(draw_untouched(np.zeros(200, np.int64), none, none, 3, seed=0)) == {0, 1, 2}


def test_a_user_with_every_item_is_named_when_asked_for() -> None:
    log_users, log_items = np.array([4, 4, 9, 9]), np.array([0, 1, 1, 1])
    assert draw_untouched(np.array([9]), log_users, log_items, 2, seed=0).tolist() == [0]
    with pytest.raises(SchemaError, match="user 4 has touched all 2 items"):
        draw_untouched(np.array([9, 4]), log_users, log_items, 2, seed=0)
