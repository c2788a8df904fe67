"""Numeric columns against numpy in float64, over chunks in any order."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data.numeric import Moments, RowSample, Scale, before_scaling
from recsys.data.schema import MISSING, NUM_RESERVED, Encoding

NAN = float("nan")


def fitted(x: np.ndarray, encoding: Encoding, chunk: int = 7) -> Scale:
    moments = Moments(encoding)
    y = before_scaling(x, encoding)
    starts = list(range(0, len(x), chunk))
    for index in reversed(starts):  # threads finish in any order
        part = y[index : index + chunk]
        moments.add(index, part[~np.isnan(part)])
    scale = moments.scale()
    assert scale is not None
    return scale


@settings(deadline=None)
@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=60), st.integers(1, 20))
def test_moments_equal_numpy_whatever_the_chunks(values: list[float], chunk: int) -> None:
    x = np.array(values)
    scale = fitted(x, Encoding.STANDARD, chunk)
    assert scale.mean == pytest.approx(x.mean(), rel=1e-9, abs=1e-6)
    if x.std() > 1e-6 * max(abs(x.mean()), 1):
        assert scale.deviation == pytest.approx(x.std(), rel=1e-6)
    assert (scale.low, scale.high) == (x.min(), x.max())


def test_the_order_of_chunks_changes_no_bit() -> None:
    x = np.random.default_rng(0).normal(1e6, 3, 1000)
    forward, backward = Moments(Encoding.STANDARD), Moments(Encoding.STANDARD)
    for index in range(10):
        forward.add(index, x[index * 100 : index * 100 + 100])
    for index in reversed(range(10)):
        backward.add(index, x[index * 100 : index * 100 + 100])
    assert forward.scale() == backward.scale()


def test_log_is_the_formula_and_missing_is_the_mean() -> None:
    x = np.array([-3.0, 0.0, 5.0, NAN, 100.0])
    y = np.array([math.copysign(math.log1p(abs(v)), v) for v in x if v == v])
    out = fitted(x, Encoding.LOG).apply(x)
    assert out.dtype == np.float32
    expected = (y - y.mean()) / y.std()
    np.testing.assert_allclose(out[[0, 1, 2, 4]], expected, rtol=1e-6)
    assert out[3] == 0


def test_standard_and_minmax() -> None:
    x = np.array([1.0, 2.0, NAN, 6.0])
    standard = fitted(x, Encoding.STANDARD).apply(x)
    deviation = (14 / 3) ** 0.5
    np.testing.assert_allclose(standard, np.array([-2, -1, 0, 3]) / deviation, rtol=1e-6)
    minmax = fitted(x, Encoding.MINMAX)
    np.testing.assert_allclose(minmax.apply(x), [0, 0.2, 0.4, 1])
    np.testing.assert_array_equal(minmax.apply(np.array([-5.0, 50.0])), [0, 1])  # clipped


@pytest.mark.parametrize("encoding", [Encoding.LOG, Encoding.STANDARD, Encoding.MINMAX])
def test_a_constant_column_is_zero(encoding: Encoding) -> None:
    x = np.full(1000, 0.1)
    np.testing.assert_allclose(fitted(x, encoding).apply(x), 0, atol=1e-6)


def test_nothing_seen_gives_no_scale() -> None:
    assert Moments(Encoding.LOG).scale() is None


def test_large_numbers_keep_their_differences() -> None:
    x = 1.7e9 + np.arange(100, dtype=np.float64)  # timestamps: float32 would merge them
    out = fitted(x, Encoding.STANDARD).apply(x)
    assert len(np.unique(out)) == 100


def test_quantile_buckets_hold_equal_shares() -> None:
    rng = np.random.default_rng(1)
    x = rng.exponential(size=10_000)
    sample = RowSample(1)
    for start in range(0, 10_000, 999):
        rows = np.arange(start, min(start + 999, 10_000))
        sample.add(rows, [x[rows]])
    scale = Scale(Encoding.QUANTILE, edges=sample.edges(0, 8))
    codes = scale.apply(x)
    assert scale.size == NUM_RESERVED + 8
    counts = np.bincount(codes)[NUM_RESERVED:]
    assert counts.sum() == 10_000
    assert np.abs(counts - 1250).max() <= 1
    np.testing.assert_array_equal(
        codes, NUM_RESERVED + np.array([sum(v >= e for e in scale.edges) for v in x])
    )


def test_repeated_values_share_a_bucket_and_edges_stay_distinct() -> None:
    x = np.array([0.0] * 90 + [1.0] * 5 + [2.0] * 5)
    sample = RowSample(1)
    sample.add(np.arange(100), [x])
    edges = sample.edges(0, 10)
    assert list(edges) == sorted(set(edges))
    codes = Scale(Encoding.QUANTILE, edges=edges).apply(np.array([0.0, 1.0, 2.0, NAN]))
    assert codes[0] == NUM_RESERVED
    assert len(set(codes[:2].tolist())) == 2
    assert codes[3] == MISSING


def test_the_sample_is_uniform_and_does_not_depend_on_chunks() -> None:
    x = np.arange(20_000, dtype=np.float64)
    samples = []
    for chunk in (501, 7000):
        sample = RowSample(1, limit=2000)
        for start in range(0, len(x), chunk):
            rows = np.arange(start, min(start + chunk, len(x)))
            sample.add(rows, [x[rows]])
        samples.append(sample.edges(0, 4))
    assert samples[0] == samples[1]
    # Five standard deviations of a share estimated from 2000 rows.
    for edge, share in zip(samples[0], (0.25, 0.5, 0.75), strict=True):
        assert abs(edge / len(x) - share) < 5 * math.sqrt(share * (1 - share) / 2000)


def test_scale_survives_json() -> None:
    import dataclasses
    import json

    scale = Scale(Encoding.QUANTILE, 1 / 3, 2.0, -1.0, 5.0, (0.1, 1e300))
    assert Scale.from_dict(json.loads(json.dumps(dataclasses.asdict(scale)))) == scale


def test_moments_and_samples_of_parts_add_up_in_any_order() -> None:
    rng = np.random.default_rng(4)
    x = rng.lognormal(size=3000)
    whole, sample = Moments(Encoding.STANDARD), RowSample(1, limit=500)
    for chunk, start in enumerate(range(0, 3000, 500)):
        whole.add(chunk, x[start : start + 500])
        sample.add(np.arange(start, start + 500), [x[start : start + 500]])
    merged, together = Moments(Encoding.STANDARD), RowSample(1, limit=500)
    for start in (1500, 0):
        part, some = Moments(Encoding.STANDARD), RowSample(1, limit=500)
        for chunk, first in enumerate(range(start, start + 1500, 500)):
            part.add(chunk, x[first : first + 500])
            some.add(np.arange(first, first + 500), [x[first : first + 500]])
        merged.merge(part)
        together.merge(some)
    assert merged.scale() == whole.scale()
    assert together.edges(0, 16) == sample.edges(0, 16)
