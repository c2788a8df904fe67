"""Classification metrics against scikit-learn, pair counting and hand-made cases."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as reference

from recsys.errors import NonFiniteError
from recsys.metrics.classification import (
    auc,
    average_precision,
    entropy,
    log_loss,
    normalized_entropy,
    precision_recall_curve_of,
    rank,
    roc_curve_of,
)

EPS = 1e-12


def make(seed: int, num_rows: int, levels: int | None, weighted: bool, rate: float = 0.3):
    """Random rows; `levels` distinct logits make ties, None makes none."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=num_rows).astype(np.float32) * 3
    if levels is not None:
        logits = np.round(logits * levels / 6).astype(np.float32) / np.float32(levels / 6)
    labels = (rng.random(num_rows) < rate).astype(np.float64)
    labels[:2] = [0, 1]
    weights = rng.integers(0, 4, num_rows) + rng.random(num_rows) if weighted else None
    return logits, labels, weights


def sigmoid(logits):
    return 1 / (1 + np.exp(-logits.astype(np.float64)))


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("num_rows", [2, 17, 3000])
@pytest.mark.parametrize("levels", [None, 2, 20])
@pytest.mark.parametrize("weighted", [False, True])
class TestAgainstScikitLearn:
    def test_auc(self, seed, num_rows, levels, weighted):
        logits, labels, weights = make(seed, num_rows, levels, weighted)
        expected = reference.roc_auc_score(labels, logits, sample_weight=weights)
        assert auc(logits, labels, weights) == pytest.approx(expected, abs=EPS)

    def test_average_precision(self, seed, num_rows, levels, weighted):
        logits, labels, weights = make(seed, num_rows, levels, weighted)
        expected = reference.average_precision_score(labels, logits, sample_weight=weights)
        assert average_precision(logits, labels, weights) == pytest.approx(expected, abs=EPS)

    def test_log_loss_and_normalized_entropy(self, seed, num_rows, levels, weighted):
        logits, labels, weights = make(seed, num_rows, levels, weighted)
        expected = reference.log_loss(labels, sigmoid(logits), sample_weight=weights)
        assert log_loss(logits, labels, weights) == pytest.approx(expected, rel=1e-10)
        base = np.full(num_rows, np.average(labels, weights=weights))
        constant = reference.log_loss(labels, base, sample_weight=weights)
        ne = normalized_entropy(logits, labels, weights)
        assert ne == pytest.approx(expected / constant, rel=1e-10)

    def test_curves(self, seed, num_rows, levels, weighted):
        logits, labels, weights = make(seed, num_rows, levels, weighted)
        ranked = rank(logits, labels, weights)
        fpr, tpr, thresholds = reference.roc_curve(
            labels, logits, sample_weight=weights, drop_intermediate=False
        )
        roc = roc_curve_of(ranked)
        present = len(ranked) + 1
        assert len(roc.thresholds) == present
        if present == len(thresholds):  # scikit-learn keeps logits whose rows all weigh nothing
            np.testing.assert_allclose(roc.x, fpr, atol=EPS)
            np.testing.assert_allclose(roc.y, tpr, atol=EPS)
            np.testing.assert_array_equal(roc.thresholds, thresholds.astype(np.float32))
        precision, recall, _ = reference.precision_recall_curve(
            labels, logits, sample_weight=weights
        )
        curve = precision_recall_curve_of(ranked)
        if len(curve.x) == len(recall):
            np.testing.assert_allclose(curve.x, recall[::-1], atol=EPS)
            np.testing.assert_allclose(curve.y, precision[::-1], atol=EPS)


rows = st.lists(
    st.tuples(st.integers(-3, 3), st.booleans(), st.integers(0, 3)), min_size=1, max_size=40
)


@settings(max_examples=150, deadline=None)
@given(rows)
def test_auc_counts_pairs(sample):
    logits, labels, weights = (
        np.array(column, dtype=np.float32) for column in zip(*sample, strict=True)
    )
    won = pairs = 0.0
    for z, y, w in sample:
        for other_z, other_y, other_w in sample:
            if y and not other_y:
                pairs += w * other_w
                won += w * other_w * (1.0 if z > other_z else 0.5 if z == other_z else 0.0)
    value = auc(logits, labels, weights)
    assert math.isnan(value) if pairs == 0 else value == pytest.approx(won / pairs, abs=EPS)


@settings(max_examples=100, deadline=None)
@given(rows)
def test_auc_is_invariant(sample):
    """Monotone maps and row order change nothing; negating scores or flipping labels mirrors."""
    logits, labels, _ = (np.array(column, dtype=np.float32) for column in zip(*sample, strict=True))
    value = auc(logits, labels)
    order = np.random.default_rng(0).permutation(len(logits))
    np.testing.assert_equal(auc(logits[order], labels[order]), value)
    np.testing.assert_equal(auc(np.exp(logits), labels), value)
    np.testing.assert_equal(auc(logits * 7 - 100, labels), value)
    np.testing.assert_allclose(auc(-logits, labels), 1 - value, atol=EPS)
    np.testing.assert_allclose(auc(logits, 1 - labels), 1 - value, atol=EPS)


@settings(max_examples=100, deadline=None)
@given(rows)
def test_integer_weights_repeat_rows(sample):
    logits, labels, weights = (
        np.array(column, dtype=np.float32) for column in zip(*sample, strict=True)
    )
    repeats = weights.astype(int)
    for metric in (auc, average_precision, log_loss, normalized_entropy):
        weighted = metric(logits, labels, weights)
        repeated = metric(logits.repeat(repeats), labels.repeat(repeats))
        np.testing.assert_allclose(weighted, repeated, rtol=1e-12, err_msg=metric.__name__)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class(label):
    logits, labels = [0.3, -0.2, 0.3], [label] * 3
    assert math.isnan(auc(logits, labels))
    assert math.isnan(normalized_entropy(logits, labels))
    assert math.isnan(average_precision(logits, labels)) == (label == 0)
    assert math.isfinite(log_loss(logits, labels))


@pytest.mark.parametrize("metric", [auc, average_precision, log_loss, normalized_entropy])
def test_no_rows_is_nan(metric):
    assert math.isnan(metric([], []))
    assert math.isnan(metric([1.0, 2.0], [0, 1], [0.0, 0.0]))


def test_single_row():
    assert log_loss([0.0], [1]) == pytest.approx(math.log(2))
    assert average_precision([5.0], [1]) == 1.0


def test_extreme_logits_are_exact():
    big = float(np.finfo(np.float32).max)
    assert log_loss([big, -big], [1, 0]) == 0.0
    assert log_loss([big], [0]) == pytest.approx(big)
    assert log_loss([-100.0], [1]) == pytest.approx(100.0)
    assert log_loss([40.0], [1]) == pytest.approx(math.exp(-40), rel=1e-12)
    assert auc([-big, -1e-45, 0.0, 1e-45, big], [0, 0, 0, 1, 1]) == 1.0


def test_negative_zero_ties_with_zero():
    assert auc([-0.0, 0.0], [0, 1]) == 0.5
    assert len(rank([-0.0, 0.0], [0, 1])) == 1


def test_table_holds_sorted_distinct_logits():
    logits, labels, weights = make(0, 500, 30, weighted=True)
    ranked = rank(logits, labels, weights)
    counted = weights > 0
    np.testing.assert_array_equal(ranked.logits, np.unique(logits[counted]))
    for i, z in enumerate(ranked.logits):
        here = logits == z
        assert ranked.positives[i] == pytest.approx(weights[here & (labels == 1)].sum())
        assert ranked.negatives[i] == pytest.approx(weights[here & (labels == 0)].sum())
        assert ranked.squares[i] == pytest.approx((weights[here] ** 2).sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_reads_tensors(dtype):
    logits = torch.tensor([0.5, -1.0, 0.25, 2.0], dtype=dtype, requires_grad=True)
    labels = torch.tensor([1.0, 0.0, 0.0, 1.0])
    assert auc(logits, labels) == 1.0
    assert auc(logits.flip(0)[::2], labels.flip(0)[::2].bool()) == 1.0


def test_accumulates_in_double():
    """A float32 running sum of 2^24 ones and one more would stop counting."""
    num_rows = 1 << 20
    logits = np.zeros(num_rows, dtype=np.float32)
    labels = np.arange(num_rows) % 2
    weights = np.full(num_rows, 1.0)
    weights[0] = 2.0**40
    expected = weights[labels == 1].sum() / weights.sum()
    assert average_precision(logits, labels, weights) == pytest.approx(expected, rel=1e-12)
    assert log_loss(logits, labels, weights) == pytest.approx(math.log(2), rel=1e-12)


def test_entropy():
    assert entropy(0.5) == pytest.approx(math.log(2))
    assert entropy(1.0) == 0.0
    assert math.isnan(entropy(float("nan")))
    assert math.isnan(entropy(1.5))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_logit_names_its_row(value):
    with pytest.raises(NonFiniteError, match=r"in row 2 \(1 of 3"):
        auc([0.0, 1.0, value], [0, 1, 1])


@pytest.mark.parametrize("label", [2, 0.5, -1, float("nan")])
def test_label_must_be_binary(label):
    with pytest.raises(ValueError, match=r"label .* in row 1 is not 0 or 1"):
        log_loss([0.0, 1.0], [0, label])


@pytest.mark.parametrize("weight", [-1.0, float("nan"), float("inf")])
def test_weight_must_be_finite_and_not_negative(weight):
    with pytest.raises(ValueError, match=r"weight .* in row 1"):
        auc([0.0, 1.0], [0, 1], [1.0, weight])


def test_shapes_must_agree():
    with pytest.raises(ValueError, match=r"logits \(3,\), labels \(2,\)"):
        auc([0.0, 1.0, 2.0], [0, 1])
    with pytest.raises(ValueError, match=r"weights \(1,\)"):
        auc([0.0, 1.0], [0, 1], [1.0])
    with pytest.raises(ValueError, match="vectors"):
        auc(np.zeros((2, 1)), np.zeros((2, 1)))
