"""Grouped AUC against a loop over groups."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from recsys.metrics.classification import auc
from recsys.metrics.grouped import GroupedAUC, grouped_auc


def slow(logits, labels, groups, weights=None) -> GroupedAUC:
    weights = np.ones(len(logits)) if weights is None else weights
    total = mass = 0.0
    counted = skipped = 0
    for group in set(groups.tolist()):
        here = (groups == group) & (weights > 0)
        if not here.any():
            continue
        if len(set(labels[here].tolist())) < 2:
            skipped += 1
            continue
        size = weights[here].sum()
        total += size * roc_auc_score(labels[here], logits[here], sample_weight=weights[here])
        mass += size
        counted += 1
    return GroupedAUC(total / mass if mass else float("nan"), counted, skipped)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_groups", [1, 7, 200])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_against_loop(seed, num_groups, ties, weighted):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=1500).astype(np.float32)
    logits = np.round(logits) if ties else logits
    labels = rng.integers(0, 2, 1500)
    groups = rng.integers(0, num_groups, 1500) * 5 - 300
    weights = rng.random(1500) * rng.integers(0, 2, 1500) if weighted else None
    result, expected = (
        grouped_auc(logits, labels, groups, weights),
        slow(logits, labels, groups, weights),
    )
    assert result[1:] == expected[1:]
    assert result.auc == pytest.approx(expected.auc, abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(-2, 2), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40
    )
)
def test_against_loop_on_tiny_samples(sample):
    logits, labels, groups = (np.array(column) for column in zip(*sample, strict=True))
    result, expected = grouped_auc(logits, labels, groups), slow(logits, labels, groups)
    np.testing.assert_allclose(result, expected, atol=1e-12)


def test_one_group_is_auc():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=300), rng.integers(0, 2, 300)
    result = grouped_auc(logits, labels, np.full(300, 42))
    assert result.auc == pytest.approx(auc(logits, labels), rel=1e-14)
    assert result.num_groups == 1


def test_shifting_a_group_changes_auc_but_not_grouped_auc():
    rng = np.random.default_rng(0)
    logits, labels, groups = rng.normal(size=400), rng.integers(0, 2, 400), np.arange(400) % 4
    shifted = logits + 100 * groups * (groups % 2)
    assert grouped_auc(shifted, labels, groups).auc == pytest.approx(
        grouped_auc(logits, labels, groups).auc
    )
    assert auc(shifted, labels) != pytest.approx(auc(logits, labels), abs=1e-3)


@pytest.mark.parametrize(
    "ids",
    [
        np.array([-(2**63), 2**63 - 1, 0]),
        np.array([2**62, 2**62 + 1, 2**62 + 2]),
        np.array([0, 2**64 - 1, 5], dtype=np.uint64),
        np.array([2**64 - 1, 2**64 - 2, 2**64 - 3], dtype=np.uint64),
        np.array([-128, 127, 0], dtype=np.int8),
    ],
    ids=["far apart", "far out", "unsigned far apart", "unsigned far out", "narrow"],
)
def test_any_integer_ids(ids):
    rng = np.random.default_rng(1)
    which = rng.integers(0, 3, 200)
    logits, labels = rng.normal(size=200), rng.integers(0, 2, 200)
    assert grouped_auc(logits, labels, ids[which]) == pytest.approx(
        grouped_auc(logits, labels, which)
    )


def test_extreme_logits_stay_in_their_group():
    big = float(np.finfo(np.float32).max)
    result = grouped_auc([-big, big, big, -big, 0.0, 0.0], [0, 1, 0, 1, 0, 1], [0, 0, 1, 1, 2, 2])
    assert result == GroupedAUC(0.5, 3, 0)


def test_no_group_has_both_classes():
    result = grouped_auc([0.1, 0.2, 0.3], [1, 0, 0], [0, 1, 2])
    assert math.isnan(result.auc)
    assert result[1:] == (0, 3)
    assert grouped_auc([], [], np.zeros(0, dtype=int))[1:] == (0, 0)


def test_reads_tensors():
    logits, labels = torch.tensor([0.1, 0.9, 0.8, 0.2]), torch.tensor([0.0, 1.0, 1.0, 0.0])
    assert grouped_auc(logits, labels, torch.tensor([3, 3, 4, 4])) == GroupedAUC(1.0, 2, 0)


@pytest.mark.parametrize("groups", [[0.5, 1.0], ["a", "b"], [1]])
def test_groups_must_be_integers_of_the_same_length(groups):
    with pytest.raises(ValueError, match="groups must be integers"):
        grouped_auc([0.1, 0.2], [0, 1], groups)
