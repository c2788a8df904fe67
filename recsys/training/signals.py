"""Asking a training run to stop between two steps."""

from __future__ import annotations

import signal
from types import TracebackType
from typing import Any


class Interrupted(KeyboardInterrupt):
    """Training was asked to stop; a checkpoint of the last finished step has been written."""


class StopRequest:
    """While entered, SIGINT and SIGTERM are only noted; a second one stops at once.

    Outside the main thread nothing is noted: the caller keeps its own handlers.

    Example:
        >>> with StopRequest() as request:
        ...     signal.raise_signal(signal.SIGTERM)
        ...     request.arrived
        True
    """

    def __init__(self) -> None:
        self.arrived = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopRequest:
        self.arrived = False
        try:
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        except ValueError:  # not the main thread
            self._before = {}
        return self

    def _note(self, number: int, _: Any) -> None:
        if self.arrived:
            raise KeyboardInterrupt
        self.arrived = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
