"""EASE against the inverse in float64, from the side of users and from that of items."""

from __future__ import annotations

import numpy as np
import psutil
import pytest

from recsys.errors import ConfigError
from recsys.models.cf import ease
from recsys.models.cf.ease import EASE
from tests.models.cf.planted import I, U, assert_scores, check_contract, dense, draw


@pytest.mark.parametrize("l2", [1.0, 80.0])
def test_contract(l2: float) -> None:
    check_contract(lambda users, items: EASE(users, items, l2=l2))


@pytest.mark.parametrize("l2", [1.0, 80.0])
@pytest.mark.parametrize(("users", "items"), [(U, I), (I, U), (45, 45)])
def test_scores_equal_the_formula(
    users: int, items: int, l2: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ease, "BLOCK", 16)
    train = draw(users, items)
    matrix = dense(train)
    inverse = np.linalg.inv(matrix.T @ matrix + l2 * np.eye(items))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    model = EASE(users, items, l2=l2)
    model.fit(train)
    assert model.by_users == (users < items)
    assert_scores(model, matrix @ weights)


def test_float32_is_enough_on_a_larger_set() -> None:
    train = draw(300, 400)
    matrix = dense(train)
    inverse = np.linalg.inv(matrix.T @ matrix + 5 * np.eye(400))
    weights = -inverse / np.diag(inverse)
    np.fill_diagonal(weights, 0)
    model = EASE(300, 400, l2=5.0)
    model.fit(train)
    assert_scores(model, matrix @ weights, rtol=1e-4)


def test_too_little_memory_is_told_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Memory:
        available = 1000

    monkeypatch.setattr(psutil, "virtual_memory", Memory)
    with pytest.raises(MemoryError, match=r"5,476 bytes; 1,000 are free.*cf=gfcf"):
        EASE(U, I).fit(draw())


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="l2=0"):
        EASE(U, I, l2=0.0)
