"""What a search of weights sees is what the whole ranking says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from recsys.data.pairs import Pairs
from recsys.metrics.ranking import FullRanking
from recsys.models import blend_weights
from recsys.models.blend import Vectors, standardized
from recsys.models.blend_weights import Candidates, best_weights


@pytest.mark.parametrize("judged", [7, 4096])
def test_candidates_give_the_metric_of_the_whole_ranking(
    judged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With as many candidates as items nothing is lost; with few, the best of each are there."""
    monkeypatch.setattr(blend_weights, "JUDGED", judged)
    rng = np.random.default_rng(0)
    has = rng.random((30, 25)) < 0.3
    held_out = has & (rng.random(has.shape) < 0.3)
    left, held = (Pairs.of(*m.nonzero(), 30, 25) for m in (has & ~held_out, held_out))
    torch.manual_seed(0)
    models = [Vectors.of(torch.randn(30, 3), torch.randn(25, 3)) for _ in range(3)]
    users = torch.from_numpy(np.flatnonzero(held.user_degrees))
    weights = np.array([0.5, 0.0, 1.5])
    made = {
        best: Candidates.of(list(models), users, left, held, best, lambda *_: None)
        for best in (25, 40, 4)
    }

    def scores(users: torch.Tensor) -> torch.Tensor:
        parts = [standardized(model.scores(users)) for model in models]
        return 0.5 * parts[0] + 1.5 * parts[2]

    expected = FullRanking(held, left, ks=(4,)).of_scores(scores).metrics
    for name in ("recall_at_4", "ndcg_at_4", "mrr_at_4"):
        assert made[25].metric(name, 4, weights) == pytest.approx(expected[name], abs=1e-6)
        assert made[40].metric(name, 4, weights) == pytest.approx(expected[name], abs=1e-6)
    single = np.array([0.0, 1.0, 0.0])
    own = FullRanking(held, left, ks=(4,)).of_scores(models[1].scores).metrics
    assert made[4].metric("recall_at_4", 4, single) == pytest.approx(own["recall_at_4"], abs=1e-6)


def test_weights_climb_to_the_best_and_leave_out_what_harms() -> None:
    def metric(weights: np.ndarray) -> float:
        return -float(((weights - np.array([0.7, 0.3, 0.0])) ** 2).sum())

    found = best_weights(metric, 3)
    np.testing.assert_allclose(found, [0.7, 0.3, 0.0], atol=0.02)
    assert found[2] == 0
    for order in itertools.permutations(range(3)):
        again = best_weights(lambda w, order=order: metric(w[list(order)]), 3)
        np.testing.assert_allclose(np.array(again)[list(order)], [0.7, 0.3, 0.0], atol=0.02)
