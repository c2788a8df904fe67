"""ItemKNN against similarities written as loops."""

from __future__ import annotations

import numpy as np
import pytest

from recsys.errors import ConfigError
from recsys.models.cf.itemknn import ItemKNN
from tests.models.cf.planted import I, U, assert_scores, check_contract, dense, draw


def test_contract() -> None:
    check_contract(lambda users, items: ItemKNN(users, items, num_neighbors=5))


@pytest.mark.parametrize("num_neighbors", [1, 7, 500])
@pytest.mark.parametrize("shrinkage", [0.0, 10.0])
def test_scores_equal_the_formula(num_neighbors: int, shrinkage: float) -> None:
    train = draw()
    matrix = dense(train)
    similar = np.zeros((I, I))
    for i in range(I):
        row = np.zeros(I)
        for j in range(I):
            both = (matrix[:, i] * matrix[:, j]).sum()
            if i != j and both:
                row[j] = both / (np.sqrt(matrix[:, i].sum() * matrix[:, j].sum()) + shrinkage)
        best = np.argsort(-row, kind="stable")[:num_neighbors]
        similar[i, best] = row[best]
    model = ItemKNN(U, I, num_neighbors=num_neighbors, shrinkage=shrinkage)
    model.fit(train)
    # Which of equal neighbours is kept is not laid down, so compare rows without a tie at the cut.
    found = model.similarities.numpy()
    np.testing.assert_allclose(
        found, -np.sort(-similar, axis=1)[:, : found.shape[1]], rtol=1e-5, atol=1e-6
    )
    if num_neighbors >= I:
        assert_scores(model, matrix @ similar)


def test_bad_settings() -> None:
    with pytest.raises(ConfigError, match="num_neighbors=0"):
        ItemKNN(U, I, num_neighbors=0)
    with pytest.raises(ConfigError, match="shrinkage=-1"):
        ItemKNN(U, I, shrinkage=-1)
