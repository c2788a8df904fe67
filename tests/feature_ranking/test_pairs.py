"""Pairs against plain counting, the exact null, and planted interactions and copies."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from recsys.feature_ranking import pairs as module
from recsys.feature_ranking.counts import count_column
from recsys.feature_ranking.pairs import (
    NUM_CODES,
    PairCounter,
    choose_pairs,
    count_fully,
    exact_statistics,
    label_bins,
    small_column,
)
from recsys.feature_ranking.rows import count_rows
from tests.feature_ranking.planted import dataset, planted

ROWS = 5_000


@pytest.fixture
def codes() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    first, second = generator.integers(0, 4, ROWS), generator.integers(0, 9, ROWS)
    label = ((first + second) % 2 == 0) ^ (generator.random(ROWS) < 0.3)
    noise = generator.integers(0, NUM_CODES, ROWS)
    return np.stack([first, second, 3 - first, noise]).astype(np.uint8), label.astype(int)


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize("classes", [2, 4])
def test_statistics_against_scikit_learn(
    codes: tuple[np.ndarray, np.ndarray],
    native: bool,
    classes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    columns, label = codes
    label = label if classes == 2 else (label * 2 + columns[3] % 2) % classes
    if not native:
        monkeypatch.setattr(module, "library", lambda: None)
    counter = PairCounter(columns, label)
    pairs = np.array(list(itertools.combinations(range(4), 2)), np.int32)
    found = counter.count(pairs, threads=2)
    for index, (a, b) in enumerate(pairs):
        both = columns[a].astype(int) * NUM_CODES + columns[b]
        joint = mutual_info_score(both, label)
        own = [mutual_info_score(columns[one], label) for one in (a, b)]
        assert found.interaction[index] == pytest.approx(joint - sum(own), abs=1e-12)
    exact = exact_statistics(pairs, tables(columns, label, pairs))
    for key in ("interaction", "chance", "joint", "first", "second", "mutual", "redundancy"):
        assert getattr(found, key) == pytest.approx(getattr(exact, key), abs=2e-4), key
    # The screening neglects what couples cells beyond the linear part.
    assert found.deviation == pytest.approx(exact.deviation, rel=0.3)


def tables(columns: np.ndarray, label: np.ndarray, pairs: np.ndarray) -> np.ndarray:
    out = np.zeros((len(pairs), NUM_CODES, NUM_CODES, int(label.max()) + 1), np.int64)
    for index, (a, b) in enumerate(pairs):
        np.add.at(out[index], (columns[a], columns[b], label), 1)
    return out


def test_an_interaction_without_marginals_and_a_copy_are_found(
    codes: tuple[np.ndarray, np.ndarray],
) -> None:
    counter = PairCounter(*codes)
    pairs = np.array(list(itertools.combinations(range(4), 2)), np.int32)
    found = counter.count(pairs)
    by_pair = {tuple(pair): index for index, pair in enumerate(found.pairs.tolist())}
    assert found.z[by_pair[0, 1]] > 30
    assert found.redundancy[by_pair[0, 2]] == pytest.approx(1, abs=1e-6)
    assert found.redundancy[by_pair[0, 3]] < 0.01
    assert abs(found.z[by_pair[0, 3]]) < 3.5
    # What x adds to its own copy is nothing.
    assert found.joint[by_pair[0, 2]] == pytest.approx(found.first[by_pair[0, 2]], abs=1e-12)


def test_z_of_noise_pairs_is_calibrated() -> None:
    generator = np.random.default_rng(1)
    label = (generator.random(20_000) < 0.1).astype(int)
    columns = np.stack([generator.integers(0, size, 20_000) for size in (2, 5, 20, 60) * 6])
    found = PairCounter(columns.astype(np.uint8), label).count(
        np.array(list(itertools.combinations(range(24), 2)), np.int32)
    )
    assert abs(found.z.mean()) < 0.25
    assert 0.8 < found.z.std() < 1.3


@pytest.mark.parametrize("native", [True, False])
def test_full_counts_are_those_of_all_training_rows(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    from recsys.feature_ranking import counts

    if not native:
        monkeypatch.setattr(counts, "library", lambda: None)
    frame = planted(4_000)
    raw = dataset(frame)
    rows = count_rows(raw, "click", rule=None)
    names = ["left", "right", "noise3000"]
    small = [small_column(count_column(rows, raw.schema[name])) for name in names]
    columns = [one for one in small if one is not None]
    pairs = np.array([[0, 1], [1, 2]])
    found = count_fully(rows, columns, pairs)
    label = frame["click"].to_numpy()
    slow = tables(np.stack([one.sample for one in columns]), label, pairs)
    assert (found == slow).all()
    # The 63 most frequent values keep a code of their own.
    size = frame["noise3000"].value_counts(sort=True)["count"]
    kept = np.sort(np.bincount(columns[2].sample, minlength=NUM_CODES)[:-1])[::-1]
    assert kept.tolist() == size[: NUM_CODES - 1].to_list()


def test_choice_of_pairs() -> None:
    assert choose_pairs(range(5), 100, 0).tolist() == [
        list(pair) for pair in itertools.combinations(range(5), 2)
    ]
    order = [7, 3, 9, 1, *[one for one in range(200) if one not in (7, 3, 9, 1)]]
    found = choose_pairs(order, 300, 0)
    assert len(found) == len({tuple(pair) for pair in found.tolist()}) == 300
    assert (found[:, 0] < found[:, 1]).all()
    for pair in itertools.combinations((7, 3, 9, 1), 2):
        assert sorted(pair) in found.tolist()
    assert found.max() > 150  # some are drawn among the rest
    assert (choose_pairs(order, 300, 0) == found).all()


def test_numeric_labels_are_cut_in_equal_parts() -> None:
    labels = np.random.default_rng(0).normal(size=10_000)
    bins = label_bins(labels, labels)
    assert np.bincount(bins).tolist() == pytest.approx([1_000] * 10, abs=1)
    assert np.unique(label_bins(few := np.array([1.0, 1.0, 1.0, 2.0]), few)).size == 2
