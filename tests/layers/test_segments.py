"""Sums and softmaxes of jagged rows against loops, by the kernel and by torch."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from recsys.layers import segments
from recsys.layers.segments import row_of_event, segment_softmax, segment_sum, segments_kernel

LENGTHS = [[3, 0, 1, 5], [0, 0], [1], [], [40, 0, 7]]


def offsets_of(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int64).cumsum(0)


def draw(lengths: list[int], width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(lengths))
    count = sum(lengths)
    values = torch.randn(count, width, generator=generator, dtype=torch.float64)
    weights = torch.randn(count, generator=generator, dtype=torch.float64)
    out = torch.randn(len(lengths), width, generator=generator, dtype=torch.float64)
    return values.to(dtype), weights.to(dtype), out.to(dtype)


@pytest.fixture(params=["kernel", "torch"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(segments, "raw_float32", lambda *_: False)
    elif segments_kernel() is None:
        pytest.skip("no C++ compiler: the kernel cannot be built")
    return request.param


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("width", [1, 5, 16, 33])
@pytest.mark.parametrize("weighted", [True, False])
def test_sum_and_its_gradients_equal_a_loop(
    lengths: list[int], width: int, weighted: bool, way: str
) -> None:
    values, weights, d_out = draw(lengths, width, torch.float32)
    values.requires_grad_()
    weights.requires_grad_()
    offsets = offsets_of(lengths)
    out = segment_sum(values, offsets, weights if weighted else None)
    out.backward(d_out)
    for row, (start, stop) in enumerate(itertools.pairwise(offsets.tolist())):
        total = torch.zeros(width, dtype=torch.float64)
        for event in range(start, stop):
            weight = weights[event].double() if weighted else torch.ones((), dtype=torch.float64)
            total += weight * values[event].double()
            torch.testing.assert_close(values.grad[event].double(), weight * d_out[row].double())
            if weighted:
                dot = (values[event].double() * d_out[row].double()).sum()
                torch.testing.assert_close(weights.grad[event].double(), dot, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(out[row].double(), total, atol=1e-5, rtol=1e-5)


def test_a_gradient_that_nobody_wants_is_not_made(way: str) -> None:
    values, weights, d_out = draw([2, 3], 4, torch.float32)
    segment_sum(values, offsets_of([2, 3]), weights.requires_grad_()).backward(d_out)
    assert weights.grad is not None
    assert values.grad is None


def test_strides_do_not_matter(way: str) -> None:
    values, weights, _ = draw([2, 3], 8, torch.float32)
    offsets = offsets_of([2, 3])
    spread = torch.stack([values, values], dim=2)[..., 0]
    assert not spread.is_contiguous()
    torch.testing.assert_close(
        segment_sum(spread, offsets, weights), segment_sum(values, offsets, weights)
    )


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
def test_softmax_and_its_gradient_equal_a_loop(lengths: list[int]) -> None:
    _, scores, _ = draw(lengths, 1, torch.float64)
    scores = (scores * 300).requires_grad_()
    weight = torch.randn(len(scores), dtype=torch.float64)
    found = segment_softmax(scores, offsets_of(lengths))
    (found * weight).sum().backward()
    twin = scores.detach().clone().requires_grad_()
    expected = [part.softmax(0) for part in twin.split(lengths) if len(part)]
    if expected:
        (torch.cat(expected) * weight).sum().backward()
        torch.testing.assert_close(found, torch.cat(expected))
        torch.testing.assert_close(scores.grad, twin.grad)
    assert found.shape == scores.shape


def test_rows_of_events() -> None:
    assert row_of_event(offsets_of([2, 0, 3]), 5).tolist() == [0, 0, 2, 2, 2]


def test_bits_do_not_depend_on_the_number_of_threads() -> None:
    values, weights, _ = draw([5] * 300, 16, torch.float32)
    before, found = torch.get_num_threads(), []
    for threads in (1, 3):
        torch.set_num_threads(threads)
        found.append(segment_sum(values, offsets_of([5] * 300), weights))
    torch.set_num_threads(before)
    assert torch.equal(*found)
