"""BSPM against its processes taken step by step with dense matrices."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from recsys.data.pairs import Pairs
from recsys.errors import ConfigError
from recsys.models.cf.bspm import BSPM
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

RANK = 6


def solved(
    r: np.ndarray, slope: np.ndarray, shift: float, time: float, steps: int, solver: str
) -> list[np.ndarray]:
    """Rows after each step of dr/dt = r slope - shift r."""
    points, h = [], time / steps

    def f(x: np.ndarray) -> np.ndarray:
        return x @ slope - shift * x

    for _ in range(steps):
        k1 = f(r)
        if solver == "euler":
            r = r + h * k1
        else:
            k2 = f(r + h / 2 * k1)
            k3 = f(r + h / 2 * k2)
            k4 = f(r + h * k3)
            r = r + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        points.append(r)
    return points


def by_steps(
    train: Pairs, ideal: float, solver: str, merge: str, average: bool, sharpen_time: float
) -> np.ndarray:
    """As the authors' code goes about it."""
    r, matrix, degrees = dense(train), normalized(train), item_degrees(train)
    graph = matrix.T @ matrix
    v = np.linalg.svd(matrix)[2][:RANK].T
    low = ideal * r @ (degrees[:, None] ** -0.5 * (v @ v.T) * degrees**0.5)
    blurred = solved(r, graph, 1.0, 1.5, 2, "euler")
    if not sharpen_time:
        out = np.mean(blurred, 0) if average else blurred[-1]
        return out + low
    start = blurred[-1] + (low if merge == "early" else 0)
    sharpened = solved(start, -graph, 0.0, sharpen_time, 2, solver)
    out = np.mean(blurred + sharpened, 0) if average else sharpened[-1]
    return out if merge == "early" else out + low


def test_contract() -> None:
    check_contract(lambda users, items: BSPM(users, items, rank=RANK))


@pytest.mark.parametrize(
    ("solver", "merge", "average", "sharpen_time"),
    list(itertools.product(("euler", "rk4"), ("early", "late"), (False, True), (0.0, 2.5))),
)
def test_scores_equal_the_steps(
    solver: str, merge: str, average: bool, sharpen_time: float
) -> None:
    train = draw()
    model = BSPM(
        U,
        I,
        rank=RANK,
        ideal=0.2,
        blur_time=1.5,
        blur_steps=2,
        sharpen_time=sharpen_time,
        sharpen_steps=2,
        solver=solver,
        merge=merge,
        average=average,
    )
    model.fit(train)
    expected = by_steps(train, 0.2, solver, merge, average, sharpen_time)
    assert_scores(model, expected, rtol=1e-3)


@pytest.mark.parametrize(
    "setting",
    [
        {"rank": 0},
        {"ideal": -0.1},
        {"blur_time": 0.0},
        {"blur_steps": 0},
        {"sharpen_time": -1.0},
        {"sharpen_steps": 0},
        {"solver": "heun"},
        {"merge": "never"},
    ],
    ids=str,
)
def test_bad_settings(setting: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(setting))):
        BSPM(U, I, **setting)
