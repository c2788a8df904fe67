"""The clock: warm-up left out of the speed, waiting told from stepping."""

from collections.abc import Iterator

import pytest

from recsys.training import progress
from recsys.training.progress import WARM_UP_STEPS, Clock, TrainingCurve


class FakeTime:
    """A clock that moves only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> FakeTime:
    fake = FakeTime()
    monkeypatch.setattr(progress, "time", fake)
    return fake


def slow_batches(fake: FakeTime, count: int, seconds: float) -> Iterator[int]:
    for index in range(count):
        fake.now += seconds
        yield index


def test_speed_leaves_the_warm_up_out(clock: FakeTime) -> None:
    curve = TrainingCurve()
    timer = Clock(curve)
    for step, _ in enumerate(timer.batches(slow_batches(clock, 30, 1.0))):  # type: ignore[arg-type]
        clock.now += 100.0 if step < WARM_UP_STEPS else 3.0
        timer.stepped(rows=8)
    assert curve.timed_rows == 8 * (30 - WARM_UP_STEPS)
    assert curve.rows_per_second == pytest.approx(8 / 4.0)
    assert curve.train_seconds == pytest.approx(WARM_UP_STEPS * 101 + 20 * 4)


def test_waiting_for_data_is_told_from_work(clock: FakeTime) -> None:
    timer = Clock(TrainingCurve())
    for _ in timer.batches(slow_batches(clock, 10, 1.0)):  # type: ignore[arg-type]
        clock.now += 3.0
        timer.stepped(rows=2)
    assert timer.data_share() == pytest.approx(0.25)
    assert timer.seconds_per_step() == pytest.approx(4.0)
    assert timer.rough_speed() == pytest.approx(0.5)


def test_the_warm_up_goes_on_in_the_next_epoch(clock: FakeTime) -> None:
    """Of a small table an epoch is shorter than it: the speed must not stay unknown for ever."""
    curve = TrainingCurve()
    for _ in range(4):
        timer = Clock(curve)
        for _ in timer.batches(slow_batches(clock, WARM_UP_STEPS - 4, 1.0)):  # type: ignore[arg-type]
            clock.now += 1.0
            timer.stepped(rows=10)
    assert curve.timed_rows == 10 * (4 * (WARM_UP_STEPS - 4) - WARM_UP_STEPS)
    assert curve.rows_per_second == pytest.approx(5.0)
