"""Waiting requests are scored together; each gets its own answer; one that breaks breaks alone."""

import asyncio
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from recsys.serving.batcher import Batcher
from recsys.serving.limits import Limits
from recsys.serving.problems import RequestError


class Echo:
    """Answers with what was asked, in batches that are noted; waits while it is held."""

    def __init__(self) -> None:
        self.batches: list[list[Any]] = []
        self.taken, self.free = threading.Event(), threading.Event()
        self.free.set()

    def answer(self, jobs: Sequence[Any]) -> list[bytes | Exception]:
        self.taken.set()
        self.free.wait(5)
        self.batches.append(list(jobs))
        if "broken" in jobs:
            raise RuntimeError("broken")
        return [RequestError(422, "bad") if job == "bad" else str(job).encode() for job in jobs]


async def begin(
    batcher: Batcher, jobs: Sequence[tuple[Echo, Any]], rows: int = 1
) -> list[asyncio.Task[bytes]]:
    """Submit all jobs; the first is taken alone, and held until the others wait."""
    first = jobs[0][0]
    first.free.clear()
    tasks = []
    for echo, job in jobs:
        tasks.append(asyncio.create_task(batcher.submit(echo, job, rows)))  # type: ignore[arg-type]
        await asyncio.sleep(0)
        while not first.taken.is_set():
            await asyncio.sleep(0.001)
    return tasks


async def run(batcher: Batcher, echo: Echo, jobs: Sequence[Any], rows: int = 1) -> list[Any]:
    tasks = await begin(batcher, [(echo, job) for job in jobs], rows)
    echo.free.set()
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def echo() -> Echo:
    return Echo()


def test_those_that_wait_are_scored_together(echo: Echo) -> None:
    seen = []
    batcher = Batcher(Limits(), lambda rows, seconds: seen.append(rows))
    batcher.start()
    assert asyncio.run(run(batcher, echo, range(9))) == [str(n).encode() for n in range(9)]
    batcher.close()
    assert echo.batches == [[0], list(range(1, 9))]
    assert seen == [1, 8]
    assert batcher.waiting == 0


def test_a_batch_is_bounded(echo: Echo) -> None:
    batcher = Batcher(Limits(batch_rows=10))
    batcher.start()
    asyncio.run(run(batcher, echo, range(9), rows=4))
    batcher.close()
    assert [len(batch) for batch in echo.batches] == [1, 2, 2, 2, 2]


def test_a_request_larger_than_a_batch_is_scored_alone(echo: Echo) -> None:
    batcher = Batcher(Limits(batch_rows=10))
    batcher.start()
    assert asyncio.run(run(batcher, echo, ["a", "b"], rows=50)) == [b"a", b"b"]
    batcher.close()


def test_models_are_not_mixed(echo: Echo) -> None:
    async def both() -> None:
        other = Echo()
        tasks = await begin(
            batcher, [(one, n) for n, one in enumerate((echo, echo, other, other, echo))]
        )
        echo.free.set()
        assert await asyncio.gather(*tasks) == [b"0", b"1", b"2", b"3", b"4"]
        assert (echo.batches, other.batches) == ([[0], [1], [4]], [[2, 3]])

    batcher = Batcher(Limits())
    batcher.start()
    asyncio.run(both())
    batcher.close()


def test_one_that_breaks_breaks_alone(echo: Echo) -> None:
    batcher = Batcher(Limits())
    batcher.start()
    found = asyncio.run(run(batcher, echo, ["a", "b", "broken", "bad", "c"]))
    batcher.close()
    assert found[:2] == [b"a", b"b"]
    assert isinstance(found[2], RuntimeError)
    assert isinstance(found[3], RequestError)
    assert found[4] == b"c"


def test_too_many_are_told_to_come_back(echo: Echo) -> None:
    batcher = Batcher(Limits(max_waiting=3))
    batcher.start()
    found = asyncio.run(run(batcher, echo, range(5)))
    batcher.close()
    assert found[:3] == [b"0", b"1", b"2"]
    for error in found[3:]:
        assert isinstance(error, RequestError)
        assert (error.status, error.headers) == (503, {"Retry-After": "1"})


def test_nobody_waits_for_ever_and_what_nobody_waits_for_is_not_scored(echo: Echo) -> None:
    async def late() -> None:
        tasks = await begin(batcher, [(echo, n) for n in range(3)])
        found = await asyncio.gather(*tasks, return_exceptions=True)
        assert [error.status for error in found if isinstance(error, RequestError)] == [503] * 3
        echo.free.set()
        await asyncio.sleep(0.05)
        assert echo.batches == [[0]]
        assert batcher.waiting == 0

    batcher = Batcher(Limits(timeout=0.1))
    batcher.start()
    asyncio.run(late())
    batcher.close()
