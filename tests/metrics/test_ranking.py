"""Metrics of full rankings against a loop over users in plain Python."""

from __future__ import annotations

import gzip
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.errors import ConfigError, NonFiniteError, SchemaError
from recsys.metrics import top_items
from recsys.metrics.ranking import BUCKETS, FullRanking, Ranking, hit_metrics, popularity_buckets
from tests.metrics.test_top_items import draw_pairs, slow_top, use

WAYS = ["kernel", "torch"]
BY_USER = ("recall", "precision", "hit_rate", "ndcg", "map", "mrr")
INF = float("inf")


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    use(request.param, monkeypatch)
    return request.param


def by_hand(items: list[int], test: set[int], k: int) -> dict[str, float]:
    """The metrics of one user's list, as the books write them."""
    hits = [item in test for item in items[:k]]
    dcg = sum(1 / math.log2(rank + 1) for rank, hit in enumerate(hits, 1) if hit)
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(test)) + 1))
    precisions = [sum(hits[:rank]) / rank for rank, hit in enumerate(hits, 1) if hit]
    first = next((1 / rank for rank, hit in enumerate(hits, 1) if hit), 0.0)
    return {
        "recall": sum(hits) / len(test),
        "precision": sum(hits) / k,
        "hit_rate": float(any(hits)),
        "ndcg": dcg / ideal,
        "map": sum(precisions) / min(k, len(test)),
        "mrr": first,
    }


def slow_bucket(item: int, train: Pairs) -> str:
    """Thirds of the train pairs by the share that more popular items hold."""
    degrees = train.item_degrees.tolist()
    if degrees[item] == 0:
        return "tail"
    above = sum(other for other in degrees if other > degrees[item])
    return BUCKETS[3 * above // sum(degrees)]


def slow_ranking(
    scores: Tensor, test: Pairs, train: Pairs, masked: list[Pairs], ks: list[int]
) -> tuple[dict[str, float], dict[str, list[float]]]:
    excluded = Pairs.union([train, *masked])
    users = [user for user in range(test.num_users) if len(test.of_user(user))]
    lists = slow_top(scores[users], users, max(ks), excluded)
    per_user: dict[str, list[float]] = {}
    metrics = {}
    total, degrees = max(len(train), 1), train.item_degrees
    for k in ks:
        shown = []
        for user, items in zip(users, lists, strict=True):
            wanted = set(test.of_user(user).tolist())
            for name, value in by_hand(items, wanted, k).items():
                per_user.setdefault(f"{name}_at_{k}", []).append(value)
            for bucket in BUCKETS:
                own = {item for item in wanted if slow_bucket(item, train) == bucket}
                share = len(own & set(items[:k])) / len(own) if own else math.nan
                per_user.setdefault(f"recall_{bucket}_at_{k}", []).append(share)
            shown += [item for item in items[:k] if item >= 0]
        metrics[f"coverage_at_{k}"] = len(set(shown)) / test.num_items if shown else math.nan
        novelty = [-math.log2(max(int(degrees[item]), 1) / total) for item in shown]
        metrics[f"novelty_at_{k}"] = sum(novelty) / len(novelty) if novelty else math.nan
    for name, values in per_user.items():
        known = [value for value in values if not math.isnan(value)]
        metrics[name] = sum(known) / len(known) if known else math.nan
    return metrics, per_user


def same(one: Ranking, other: Ranking) -> None:
    """Equal to the bit."""
    assert list(one.metrics) == list(other.metrics)
    np.testing.assert_array_equal(list(one.metrics.values()), list(other.metrics.values()))
    assert one.counts == other.counts
    np.testing.assert_array_equal(one.users, other.users)
    for name, values in one.per_user.items():
        np.testing.assert_array_equal(values, other.per_user[name])


def draw_case(seed: int, num_users: int = 23, num_items: int = 37) -> tuple[Tensor, list[Pairs]]:
    """Scores with ties, and sets of test, train and validation that overlap here and there; the
    first user has no test items, the second may be given nothing, the third has no train items."""
    rng = np.random.default_rng(seed)
    scores = torch.from_numpy(rng.integers(0, 12, (num_users, num_items))).float()
    test, train, valid = (draw_pairs(rng, num_users, num_items, p) for p in (0.1, 0.2, 0.1))
    everything = Pairs.of(np.full(num_items, 1), np.arange(num_items), num_users, num_items)
    test = test.taken(test.users != 0)
    train = Pairs.union([train.taken((train.users != 2) & (train.items != 5)), everything])
    return scores, [test, train, valid]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ks", [[1], [20], [3, 37, 10]], ids=str)
def test_metrics_equal_a_loop_over_users(seed: int, ks: list[int], way: str) -> None:
    scores, (test, train, valid) = draw_case(seed)
    for masked in ([], [valid]):
        found = FullRanking(test, train, masked, ks=ks).of_scores(lambda users: scores[users])
        metrics, per_user = slow_ranking(scores, test, train, masked, ks)
        assert found.metrics.keys() == metrics.keys()
        assert found.per_user.keys() == per_user.keys()
        for name, value in metrics.items():
            assert found.metrics[name] == pytest.approx(value, abs=1e-12, nan_ok=True), name
        for name, values in per_user.items():
            np.testing.assert_allclose(found.per_user[name], values, atol=1e-12, err_msg=name)


def test_counts_tell_the_special_cases() -> None:
    train = Pairs.of(np.array([0, 0, 1]), np.array([0, 1, 0]), num_users=3, num_items=4)
    test = Pairs.of(np.array([0, 0, 1]), np.array([1, 3, 2]), num_users=3, num_items=4)
    found = FullRanking(test, train, ks=[3]).of_scores(lambda users: torch.zeros(len(users), 4))
    assert found.counts == {
        "num_users": 3,
        "num_items": 4,
        "num_train_pairs": 3,
        "num_test_pairs": 3,
        "num_test_users": 2,
        "num_users_without_test": 1,
        "num_masked_test_pairs": 1,  # user 0, item 1
        "num_unseen_test_pairs": 2,  # items 2 and 3
        "num_test_pairs_head": 0,
        "num_test_pairs_middle": 0,
        "num_test_pairs_tail": 3,
        "num_short_lists": 1,  # user 0 is left with items 2 and 3
    }
    assert found.users.tolist() == [0, 1]
    # User 0 is given 2 and 3, and one of its two test items is out of reach.
    assert found.per_user["recall_at_3"].tolist() == [0.5, 1.0]
    assert found.per_user["precision_at_3"].tolist() == [1 / 3, 1 / 3]
    assert found.per_user["mrr_at_3"].tolist() == [0.5, 0.5]


@given(seed=st.integers(0, 10_000), block_bytes=st.sampled_from([1, 3000, 1 << 20]))
@settings(max_examples=8, deadline=None)
def test_order_blocks_and_path_change_no_bit(seed: int, block_bytes: int) -> None:
    scores, (test, train, valid) = draw_case(seed)
    ks = [2, 9]
    setting = FullRanking(test, train, [valid], ks=ks)
    expected = setting.of_scores(lambda users: scores[users])
    order = np.random.default_rng(seed).permutation(test.num_users)  # old number of each new user
    place = np.argsort(order)

    def moved(pairs: Pairs) -> Pairs:
        return Pairs.of(place[pairs.users], pairs.items, pairs.num_users, pairs.num_items)

    with pytest.MonkeyPatch.context() as patch:
        for way in WAYS:
            use(way, patch)
            blocks = FullRanking(test, train, [valid], ks=ks, block_bytes=block_bytes)
            same(blocks.of_scores(lambda users: scores[users]), expected)
            again = FullRanking(moved(test), moved(train), [moved(valid)], ks=ks)
            permuted = again.of_scores(lambda users: scores[order][users])
            assert sorted(order[permuted.users].tolist()) == expected.users.tolist()
            back = np.argsort(order[permuted.users])
            restored = {name: values[back] for name, values in permuted.per_user.items()}
            same(replace(permuted, users=expected.users, per_user=restored), expected)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_vectors_and_their_scores_agree_to_the_bit(seed: int) -> None:
    """Whole numbers, whose products are exact in any order."""
    _, (test, train, valid) = draw_case(seed)
    rng = np.random.default_rng(seed)
    users, items = (
        torch.from_numpy(rng.integers(-2, 3, (n, 4))).float() for n in (test.num_users, 37)
    )
    expected = FullRanking(test, train, [valid], ks=[5]).of_scores(lambda u: users[u] @ items.T)
    with pytest.MonkeyPatch.context() as patch:
        for way in WAYS:
            use(way, patch)
            for block_bytes in (1, 1 << 20):
                setting = FullRanking(test, train, [valid], ks=[5], block_bytes=block_bytes)
                same(setting.of_vectors(users, items), expected)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=8, deadline=None)
def test_a_perfect_model_reaches_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    train = draw_pairs(rng, 12, 40, 0.2)
    free = draw_pairs(rng, 12, 40, 0.15)
    test = free.taken(~train.contains(free.users, free.items))
    perfect = torch.zeros(12, 40)
    perfect[test.users.astype(np.int64), test.items.astype(np.int64)] = 1.0
    found = FullRanking(test, train, ks=[1, 40]).of_scores(lambda users: perfect[users])
    for name in (
        "recall_at_40",
        "hit_rate_at_1",
        "ndcg_at_1",
        "ndcg_at_40",
        "map_at_40",
        "mrr_at_1",
    ):
        assert found.metrics[name] == (1.0 if len(test) else pytest.approx(math.nan, nan_ok=True))
    worst = FullRanking(test, train, ks=[1]).of_scores(lambda users: -perfect[users])
    assert worst.metrics["recall_at_1"] == 0 or not len(test)


def test_metrics_lie_where_they_must() -> None:
    for seed in range(10):
        scores, (test, train, valid) = draw_case(seed)
        ks = [1, 5, 20]
        found = FullRanking(test, train, [valid], ks=ks).of_scores(scores.__getitem__)
        for name, values in found.per_user.items():
            known = values[~np.isnan(values)]
            assert ((known >= 0) & (known <= 1)).all(), name
        for name in ("recall", "hit_rate", "mrr", "coverage"):
            found_at = [found.metrics[f"{name}_at_{k}"] for k in ks]
            assert found_at == sorted(found_at)


def test_buckets_are_thirds_of_the_pairs() -> None:
    assert popularity_buckets(np.array([2, 2, 2])).tolist() == [0, 0, 0]
    assert popularity_buckets(np.array([5, 3, 1, 1, 1, 1, 0])).tolist() == [0, 1, 2, 2, 2, 2, 2]
    assert popularity_buckets(np.array([0, 0])).tolist() == [2, 2]
    assert popularity_buckets(np.array([100])).tolist() == [0]


def test_without_test_items_nothing_is_defined(way: str) -> None:
    pairs = Pairs.of(np.array([0]), np.array([1]), num_users=2, num_items=3)
    none = pairs.taken(np.array([False]))
    for test, train in ((none, pairs), (none, none)):
        setting = FullRanking(test, train, ks=[1, 2])
        for found in (
            setting.of_scores(lambda users: torch.zeros(len(users), 3)),
            setting.of_vectors(torch.zeros(2, 1), torch.zeros(3, 1)),
        ):
            assert found.metrics.keys() >= {"recall_at_1", "recall_tail_at_2", "novelty_at_2"}
            assert all(math.isnan(value) for value in found.metrics.values())
            assert found.counts["num_users_without_test"] == 2
    found = FullRanking(pairs, none, ks=[1]).of_scores(lambda users: torch.zeros(len(users), 3))
    assert found.metrics["recall_at_1"] == 0.0  # item 0 comes first of equals
    assert found.metrics["novelty_at_1"] == 0.0


def test_infinite_scores_are_ranked_or_left_out(way: str) -> None:
    test = Pairs.of(np.array([0, 0]), np.array([1, 2]), num_users=1, num_items=3)
    setting = FullRanking(test, test.taken(np.zeros(2, bool)), ks=[3])
    found = setting.of_scores(lambda users: torch.tensor([[-INF, INF, -INF]]))
    assert found.metrics["recall_at_3"] == 0.5
    assert found.counts["num_short_lists"] == 1


def test_models_are_asked_for_blocks_that_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(top_items, "runs_kernel", lambda *_: False)
    _, (test, train, _) = draw_case(0)
    asked: list[list[int]] = []

    def scores(users: Tensor) -> Tensor:
        assert users.dtype == torch.int64
        assert not torch.is_grad_enabled()
        asked.append(users.tolist())
        return torch.zeros(len(users), 37)

    setting = FullRanking(test, train, ks=[1], block_bytes=37 * 32 * 5)
    found = setting.of_scores(scores)
    assert [user for block in asked for user in block] == found.users.tolist()
    assert max(map(len, asked)) <= 5
    assert len(asked) > 1


def test_bad_input_is_refused(way: str) -> None:
    scores, (test, train, valid) = draw_case(0)
    with pytest.raises(ConfigError, match="k=38 items of a catalogue of 37"):
        FullRanking(test, train, ks=[5, 38])
    with pytest.raises(ConfigError, match="k=0 items"):
        FullRanking(test, train, ks=[0, 5])
    with pytest.raises(ConfigError, match="at least one k"):
        FullRanking(test, train, ks=[])
    setting = FullRanking(test, train, [valid], ks=[5])
    with pytest.raises(SchemaError, match=r"expected \(\d+, 37\), one for every item"):
        setting.of_scores(lambda users: scores[users, :-1])
    with pytest.raises(SchemaError, match="22 users and 37 items; the pairs know 23 and 37"):
        setting.of_vectors(torch.zeros(22, 3), torch.zeros(37, 3))
    broken = scores.clone()
    broken[9, 4] = float("nan")
    with pytest.raises(NonFiniteError, match="user 9 for item 4 is NaN"):
        setting.of_scores(lambda users: broken[users])
    vectors = torch.ones(23, 2)
    vectors[11] = float("nan")
    with pytest.raises(NonFiniteError, match="user 11 for item 0 is NaN"):
        setting.of_vectors(vectors, torch.ones(37, 2))
    other = Pairs.of(np.array([0]), np.array([0]), num_users=23, num_items=38)
    with pytest.raises(SchemaError, match="train pairs know 23 users and 38 items, but the test"):
        FullRanking(test, other)
    with pytest.raises(SchemaError, match="masked pairs know 23 users and 38 items"):
        FullRanking(test, train, [other])
    for items in ([3, 1], [1, 1], [1, 37], [-1, 2]):
        unsorted = Pairs(np.array([0, 2, *[2] * 22]), np.array(items, np.int32), 37)
        with pytest.raises(SchemaError, match="train items of each user must ascend"):
            FullRanking(test, unsorted, ks=[5])


def test_hit_metrics_of_a_list_worked_by_hand() -> None:
    hits = np.array([[True, False, True, False]])
    found = {name: value.item() for name, value in hit_metrics(hits, np.array([3]), [4]).items()}
    assert found["recall_at_4"] == 2 / 3
    assert found["precision_at_4"] == 0.5
    assert found["map_at_4"] == pytest.approx((1 + 2 / 3) / 3)
    assert found["ndcg_at_4"] == pytest.approx((1 + 0.5) / (1 + 1 / math.log2(3) + 0.5))


def test_popularity_on_gowalla() -> None:
    """The most popular items reach what others report for this split: .0416 and .0317."""
    folder = Path(__file__).parents[3] / "shared/data/gowalla"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    test, train = (read_adjacency(folder / f"{part}.txt.gz") for part in ("test", "train"))
    popularity = torch.from_numpy(train.item_degrees).float().unsqueeze(1)
    found = FullRanking(test, train).of_vectors(torch.ones(29_858, 1), popularity)
    assert found.metrics["recall_at_20"] == pytest.approx(0.0416, abs=5e-5)
    assert found.metrics["ndcg_at_20"] == pytest.approx(0.0317, abs=5e-5)
    assert found.counts["num_test_pairs"] == 217_242
    assert found.counts["num_train_pairs"] == 810_128


def read_adjacency(path: Path) -> Pairs:
    with gzip.open(path, "rt") as lines:
        rows = [np.array(line.split(), np.int64) for line in lines]
    users = np.concatenate([np.full(len(row) - 1, row[0]) for row in rows])
    return Pairs.of(users, np.concatenate([row[1:] for row in rows]), 29_858, 40_981)


@pytest.mark.gpu
def test_a_gpu_gives_the_same_metrics() -> None:
    scores, (test, train, valid) = draw_case(3)
    setting = FullRanking(test, train, [valid], ks=[5, 20])
    here = setting.of_scores(lambda users: scores[users])
    there = scores.cuda()
    same(setting.of_scores(lambda users: there[users], "cuda"), here)
    whole = torch.arange(-46.0, 46.0).reshape(23, 4).round(), torch.ones(37, 4)
    same(setting.of_vectors(*(w.cuda() for w in whole)), setting.of_vectors(*whole))
