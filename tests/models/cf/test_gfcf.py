"""GF-CF against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.models.cf.gfcf import GFCF
from tests.models.cf.planted import (
    I,
    U,
    assert_scores,
    check_contract,
    dense,
    draw,
    item_degrees,
    normalized,
)


def test_contract() -> None:
    check_contract(lambda users, items: GFCF(users, items, rank=6))


@pytest.mark.parametrize("ideal", [0.0, 0.3])
@pytest.mark.parametrize(("users", "items"), [(U, I), (I, U)])
def test_scores_equal_the_formula(ideal: float, users: int, items: int) -> None:
    train = draw(users, items)
    matrix = normalized(train)
    v = np.linalg.svd(matrix)[2][:6].T
    degrees = item_degrees(train)
    low = degrees[:, None] ** -0.5 * (v @ v.T) * degrees**0.5
    model = GFCF(users, items, rank=6, ideal=ideal)
    model.fit(train)
    assert_scores(model, dense(train) @ (matrix.T @ matrix + ideal * low), rtol=1e-3)


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="rank=0"):
        GFCF(U, I, rank=0)
    with pytest.raises(ConfigError, match="ideal=-1"):
        GFCF(U, I, ideal=-1)
    with pytest.raises(ConfigError, match="between 1 and 37"):
        GFCF(U, I, rank=38).fit(draw())
