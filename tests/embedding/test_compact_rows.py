"""Compact rows: how far a number read back may be off, proved row by row."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.embedding.compact_rows import FORMATS, LARGEST, CompactRows
from recsys.errors import ConfigError

CODED = ("int8", "int4")
SHAPES = [(16, 16), (17, 16), (33, 16), (10, 10), (11, 10), (7, 7), (15, 7), (48, 16), (1, 0)]
"""(W, D): a vector, with a first-order weight, with a second table, odd widths, none."""


def draw(kind: str, rows: int, width: int) -> Tensor:
    rng = np.random.default_rng(width)
    values = {
        "normal": rng.normal(0, 0.1, (rows, width)),
        "tiny": rng.normal(0, 1e-6, (rows, width)),
        "huge": rng.uniform(-LARGEST, LARGEST, (rows, width)),
        "far from zero": 1000 + rng.normal(0, 1e-3, (rows, width)),
        "many scales": rng.normal(0, 1, (rows, width)) * 10.0 ** rng.integers(-6, 4, (rows, 1)),
        "constant": np.repeat(rng.normal(0, 1, (rows, 1)), width, axis=1),
        "zero": np.zeros((rows, width)),
    }[kind]
    return torch.from_numpy(values).float()


KINDS = ("normal", "tiny", "huge", "far from zero", "many scales", "constant", "zero")


def exact(rows: CompactRows, stored: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Numbers [n, V, D] and scales [n, V] of coded vectors, read byte by byte in float64."""
    data = stored.numpy()
    halves = data[:, : 2 * rows.num_halves].copy().view(np.float16).astype(np.float64)
    codes = data[:, 2 * rows.num_halves :].reshape(len(data), rows.num_vectors, -1).astype(int)
    if rows.bits == 4:
        codes = np.concatenate([codes % 16, codes // 16], axis=2)[:, :, : rows.dim]
    scale = halves[:, 0 : 2 * rows.num_vectors : 2]
    offset = halves[:, 1 : 2 * rows.num_vectors : 2]
    return offset[:, :, None] + scale[:, :, None] * codes, scale


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("width", "dim"), SHAPES)
@pytest.mark.parametrize("form", CODED)
def test_no_number_is_off_by_more_than_half_a_scale(
    form: str, width: int, dim: int, kind: str
) -> None:
    """In exact arithmetic, whatever the rounding of scale and offset to half precision."""
    rows, weights = CompactRows(form, width, dim), draw(kind, 300, width)
    stored = rows.encode(weights)
    assert stored.shape == (300, rows.num_bytes)
    vectors = rows.num_vectors * dim
    read = rows.decode(stored)
    assert read.shape == weights.shape
    if rows.num_vectors:
        values, scale = exact(rows, stored)
        wanted = weights[:, :vectors].double().numpy().reshape(values.shape)
        assert (np.abs(values - wanted) <= scale[:, :, None] / 2).all()
        np.testing.assert_array_equal(rows.error_bounds(stored).numpy(), scale / 2)
        # What torch reads is that number, rounded once to float32.
        np.testing.assert_array_equal(
            read[:, :vectors].numpy().reshape(values.shape), values.astype(np.float32)
        )
    rest = weights[:, vectors:]
    assert torch.equal(read[:, vectors:], rest.half().float())


@pytest.mark.parametrize("form", CODED)
def test_the_scale_is_no_wider_than_the_vector_needs(form: str) -> None:
    """Rounded up by at most one step of half precision (2^-10 of it), the offset down by one."""
    rows, weights = CompactRows(form, 16, 16), draw("normal", 500, 16)
    scale = 2 * rows.error_bounds(rows.encode(weights)).double().squeeze(1)
    low, high = weights.double().amin(1), weights.double().amax(1)
    needed = (high - low + 2.0**-10 * low.abs()) / (2**rows.bits - 1)
    assert (scale <= needed * (1 + 2.0**-10)).all()


def test_codes_of_four_bits_are_worse_than_of_eight() -> None:
    weights = draw("normal", 400, 16)
    errors = {}
    for form in FORMATS:
        rows = CompactRows(form, 16, 16)
        errors[form] = float((rows.decode(rows.encode(weights)) - weights).abs().mean())
    assert errors["float16"] < errors["int8"] < errors["int4"]
    assert errors["int4"] == pytest.approx(17 * errors["int8"], rel=0.15)  # 255 / 15 steps


def test_float16_is_torchs() -> None:
    rows, weights = CompactRows("float16", 17, 16), draw("many scales", 50, 17)
    assert torch.equal(rows.decode(rows.encode(weights)), weights.half().float())


@pytest.mark.parametrize("form", FORMATS)
def test_a_row_of_zeros_is_read_as_zeros(form: str) -> None:
    """The padding row must stay exactly zero."""
    rows = CompactRows(form, 17, 16)
    assert not rows.decode(rows.encode(torch.zeros(2, 17))).any()
    assert not rows.decode(torch.zeros(2, rows.num_bytes, dtype=torch.uint8)).any()


@pytest.mark.parametrize("form", FORMATS)
def test_no_rows_are_no_rows(form: str) -> None:
    rows = CompactRows(form, 17, 16)
    assert rows.decode(rows.encode(torch.zeros(0, 17))).shape == (0, 17)


def test_narrow_vectors_stay_halves() -> None:
    """A scale and an offset for two numbers would take more bytes than the numbers."""
    for form, dim in (("int8", 4), ("int4", 2), ("int4", 1), ("int8", 1)):
        assert CompactRows(form, dim, dim).num_bytes == 2 * dim
    assert CompactRows("int8", 6, 6).num_bytes == 10
    assert CompactRows("int4", 4, 4).num_bytes == 6


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 7e4, -7e4])
def test_what_does_not_fit_is_refused(form: str, bad: float) -> None:
    weights = torch.zeros(3, 16)
    weights[1, 2] = bad
    with pytest.raises(ConfigError, match=r"up to 65,504\. Use tables=float32"):
        CompactRows(form, 16, 16).encode(weights)


def test_an_unknown_format_is_named() -> None:
    with pytest.raises(ConfigError, match=r'tables="int9" does not exist.*int8'):
        CompactRows("int9", 16, 16)
