"""Summaries of explanations against counting row by row, whatever the blocks."""

from collections import Counter

import numpy as np
import pytest

from recsys.models import explanations
from recsys.models.explanations import Explanations, MeanAndSpread, latest_first, most_of_row


def summed(blocks: list[dict[str, np.ndarray]], lengths: list[np.ndarray]) -> Explanations:
    found = Explanations()
    for block, length in zip(blocks, lengths, strict=True):
        found.add(block, {"history": length})
    return found


@pytest.fixture(params=[(100,), (30, 70), (1, 98, 1)])
def case(request: pytest.FixtureRequest) -> tuple[dict[str, np.ndarray], np.ndarray, Explanations]:
    rng = np.random.default_rng(0)
    crosses = rng.normal(size=(100, 6, 10)) * (rng.random((100, 6, 10)) < 0.08)
    whole = {
        "attention": rng.random((100, 2, 1, 4, 4)),
        "gates": rng.random((100, 5)),
        "crosses": crosses,
        "interest.history": rng.random((100, 7)),
    }
    lengths = rng.integers(0, 8, 100)
    cuts = np.cumsum(request.param)[:-1]
    parts = {name: np.split(array, cuts) for name, array in whole.items()}
    blocks = [{k: v[i] for k, v in parts.items()} for i in range(len(request.param))]
    return whole, lengths, summed(blocks, np.split(lengths, cuts))


def test_means_and_deviations(case) -> None:
    whole, lengths, found = case
    assert found.num_rows == 100
    np.testing.assert_allclose(found.attention, whole["attention"].mean(0))
    np.testing.assert_allclose(found.gates["gates"].mean, whole["gates"].mean(0))
    np.testing.assert_allclose(found.gates["gates"].deviation, whole["gates"].std(0), atol=1e-7)
    for back in range(7):
        rows = np.flatnonzero(lengths > back)
        values = [whole["interest.history"][r, lengths[r] - 1 - back] for r in rows]
        assert found.interest["history"].count[back] == len(rows)
        np.testing.assert_allclose(found.interest["history"].mean[back], np.mean(values))
        np.testing.assert_allclose(
            found.interest["history"].deviation[back], np.std(values), atol=1e-7
        )


def test_crosses_are_the_sets_that_most_rows_have(case) -> None:
    weights, found = case[0]["crosses"], case[2]
    rows: Counter[tuple[int, ...]] = Counter()
    sums: dict[tuple[int, ...], list[np.ndarray]] = {}
    for row in weights:
        sets = [tuple(np.flatnonzero(cross).tolist()) for cross in row]
        rows.update({one for one in sets if len(one) > 1})
        for one, cross in zip(sets, row, strict=True):
            sums.setdefault(one, []).append(cross[list(one)])
    expected = sorted(rows.items(), key=lambda item: (-item[1], item[0]))[:10]
    top = found.top_crosses(10)
    assert [(one.slots, one.share) for one in top] == [(s, n / 100) for s, n in expected]
    for one in top:
        np.testing.assert_allclose(one.weights, np.mean(sums[one.slots], axis=0))
        np.testing.assert_allclose(one.sizes, np.mean(np.abs(sums[one.slots]), axis=0))


def test_memory_is_bounded_and_frequent_sets_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explanations, "KEPT_PER_BLOCK", 5)
    rng = np.random.default_rng(0)
    found = Explanations()
    for _ in range(20):
        block = (rng.random((50, 3, 30)) < 0.5).astype(float)
        block[:, 0] = 0.0
        block[:40, 0, [2, 7]] = 3.0
        found.add({"crosses": block})
    assert len(found._crosses) <= 100
    best = found.top_crosses(1)[0]
    assert (best.slots, best.share, best.weights) == ((2, 7), 0.8, (3.0, 3.0))


def test_nothing_explained() -> None:
    found = Explanations()
    found.add({})
    assert found.attention is None
    assert found.top_crosses() == []
    assert found.gates == found.interest == {}


def test_latest_first_of_an_empty_history_is_nan() -> None:
    assert np.isnan(latest_first(np.ones((1, 3)), np.zeros(1, int))).all()


def test_growing_vectors() -> None:
    sums = MeanAndSpread()
    sums.add(np.array([[1.0]]))
    sums.add(np.array([[3.0, 5.0]]))
    assert sums.mean.tolist() == [2.0, 5.0]
    assert sums.count.tolist() == [2, 1]


def test_what_stands_out_in_one_row() -> None:
    attention = np.zeros((2, 1, 2, 3, 3))
    attention[1, 0, :, 0, 2] = 0.8, 0.4
    attention[1, 0, 0, 1, 1] = 9.0  # of a slot to itself: no pair
    attention[1, 0, 1, 2, 1] = 0.5
    crosses = np.zeros((2, 4, 3))
    crosses[1, 0] = 0.0, 1.0, -3.0
    crosses[1, 2] = 0.5, 0.0, 0.1
    crosses[1, 3] = 0.0, 50.0, 0.0  # one slot: no cross
    found = most_of_row(
        {
            "attention": attention,
            "gates": np.array([[0.0, 0, 0], [0.2, 0.9, 0.1]]),
            "crosses": crosses,
            "interest.items": np.array([[9.0, 9, 9, 9], [0.1, 0.7, 0.3, 0.0]]),
        },
        1,
        ["a", "b", "c"],
        {"items": 3},
        count=2,
    )
    assert [one["slots"] for one in found["attention"]] == [["a", "c"], ["c", "b"]]
    assert [one["weight"] for one in found["attention"]] == pytest.approx([0.6, 0.25])
    assert [one["slots"] for one in found["gates"]] == [["b"], ["a"]]
    assert found["crosses"] == [
        {"slots": ["b", "c"], "weights": [1.0, -3.0], "num_slots": 2},
        {"slots": ["a", "c"], "weights": [0.5, 0.1], "num_slots": 2},
    ]
    assert found["interest.items"] == [
        {"events_ago": 2, "weight": 0.7}, {"events_ago": 1, "weight": 0.3},
    ]  # fmt: skip


def test_nothing_stands_out_where_there_is_nothing() -> None:
    found = most_of_row(
        {"crosses": np.zeros((1, 2, 3)), "interest.items": np.zeros((1, 4))}, 0, "abc", {"items": 0}
    )
    assert found == {"crosses": [], "interest.items": []}
