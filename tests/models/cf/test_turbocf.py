"""Turbo-CF against dense matrices."""

from __future__ import annotations

import pytest

from recsys.errors import ConfigError
from recsys.models.cf.turbocf import TurboCF
from tests.models.cf.planted import (
    I,
    U,
    assert_scores,
    check_contract,
    dense,
    draw,
    normalized,
)


@pytest.mark.parametrize("power", [0.7, 1.0])
def test_contract(power: float) -> None:
    check_contract(lambda users, items: TurboCF(users, items, power=power))


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("power", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("order", [1, 2])
def test_scores_equal_the_formula(alpha: float, power: float, order: int) -> None:
    train = draw()
    matrix = normalized(train, alpha, 1 - alpha)
    graph = (matrix.T @ matrix) ** power
    model = TurboCF(U, I, alpha=alpha, power=power, order=order)
    model.fit(train)
    assert_scores(model, dense(train) @ (graph if order == 1 else 2 * graph - graph @ graph))


@pytest.mark.parametrize("setting", [{"alpha": 1.1}, {"power": 0.0}, {"order": 3}], ids=str)
def test_bad_settings(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        TurboCF(U, I, **setting)
