"""Requests that arrive while others are scored are scored together, on a thread of their own.

Nothing is ever waited for: an idle scorer takes a single request at once, a busy one takes all that
came meanwhile.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recsys.serving.limits import Limits
from recsys.serving.problems import RequestError
from recsys.serving.served import Served

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class _Job:
    served: Served
    content: Any
    rows: int
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[bytes]


class Batcher:
    """One thread that scores, and the queue before it.

    Args:
        limits: `batch_rows`, `max_waiting` and `timeout`.
        observe: Told, on the event loop, rows and seconds of each batch.
    """

    def __init__(
        self, limits: Limits, observe: Callable[[int, float], None] = lambda rows, seconds: None
    ) -> None:
        self._limits = limits
        self._observe = observe
        self._queue: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.waiting = 0
        """Requests that were submitted and are not answered yet."""

    def start(self) -> None:
        """Start the thread; `close` ends it."""
        self._thread = threading.Thread(target=self._work, name="scorer", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Finish what was submitted, then end the thread."""
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join(self._limits.timeout)
            self._thread = None

    async def submit(self, served: Served, content: Any, rows: int) -> bytes:
        """The answer to a request.

        Raises:
            RequestError: 503 too many wait, or it took too long; or what the model answers.
        """
        if self.waiting >= self._limits.max_waiting:
            raise RequestError(
                503,
                f"{self.waiting:,} requests are waiting already. Come back later, or send more rows"
                " in fewer requests.",
                headers={"Retry-After": "1"},
            )
        loop = asyncio.get_running_loop()
        job = _Job(served, content, rows, loop, loop.create_future())
        self.waiting += 1
        try:
            self._queue.put(job)
            async with asyncio.timeout(self._limits.timeout):
                return await job.future
        except TimeoutError as error:
            raise RequestError(
                503,
                f"not scored within {self._limits.timeout:g} s. Send fewer rows, or come back "
                "later.",
                headers={"Retry-After": "1"},
            ) from error
        finally:
            self.waiting -= 1

    def _work(self) -> None:
        left: _Job | None = None
        while True:
            first = left or self._queue.get()
            if first is None:
                return
            left = None
            jobs, rows, last = [first], first.rows, False
            while True:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    last = True
                    break
                if (
                    following.served is not first.served
                    or following.loop is not first.loop
                    or rows + following.rows > self._limits.batch_rows
                ):
                    left = following
                    break
                jobs.append(following)
                rows += following.rows
            self._score(jobs)
            if last:
                return

    def _score(self, jobs: list[_Job]) -> None:
        jobs = [job for job in jobs if not job.future.done()]  # nobody waits for the others
        if not jobs:
            return
        began = time.perf_counter()
        results = _answers(jobs)
        seconds = time.perf_counter() - began
        try:
            jobs[0].loop.call_soon_threadsafe(self._deliver, jobs, results, seconds)
        except RuntimeError:  # the loop is closed: the server has gone
            _LOG.warning("%d answers came after the server had ended", len(jobs))

    def _deliver(self, jobs: list[_Job], results: list[bytes | Exception], seconds: float) -> None:
        self._observe(sum(job.rows for job in jobs), seconds)
        for job, result in zip(jobs, results, strict=True):
            if job.future.done():
                continue
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)


def _answers(jobs: list[_Job]) -> list[bytes | Exception]:
    """Answers of a model; where it breaks, each request is tried alone, so that one fails alone."""
    served = jobs[0].served
    try:
        return served.answer([job.content for job in jobs])
    except Exception as error:
        if len(jobs) == 1:
            _LOG.exception("scoring failed")
            return [error]
    return [one for job in jobs for one in _answers([job])]
