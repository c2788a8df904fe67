"""Popularity against counts."""

from __future__ import annotations

import numpy as np

from recsys.models.cf.popularity import Popularity
from tests.models.cf.planted import I, U, all_scores, check_contract, draw


def test_contract() -> None:
    check_contract(Popularity)


def test_items_go_by_count_then_by_number() -> None:
    train = draw()
    model = Popularity(U, I)
    model.fit(train)
    expected = sorted(range(I), key=lambda item: (-train.item_degrees[item], item))
    for row in all_scores(model):
        assert np.argsort(-row).tolist() == expected
