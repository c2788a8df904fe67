"""Metrics are put in memory and written by a thread, so that training never waits for a store."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

_LOG = logging.getLogger(__name__)

Row = tuple[str, float, int, int]
"""Metric name, value, time in milliseconds since the epoch, step."""

_ROWS_PER_CALL = 1000  # the most MLflow takes at once


class MetricWriter:
    """Collects metrics and hands them to `write` in batches, on a thread of its own.

    A failed write is warned about once, kept, and tried again with the next batch.

    Args:
        write: Stores a batch of rows; may be slow and may raise.
        interval_s: How long rows are collected before they are written.
    """

    def __init__(self, write: Callable[[Sequence[Row]], None], interval_s: float = 1.0) -> None:
        self._write = write
        self._interval_s = interval_s
        self._rows: list[Row] = []
        self._rows_lock = threading.Lock()
        self._write_lock = threading.Lock()
        self._wake = threading.Event()
        self._closed = False
        self._warned = False
        self._thread = threading.Thread(target=self._run, name="metric-writer", daemon=True)
        self._thread.start()

    def put(self, metrics: Mapping[str, float], step: int) -> None:
        """Add metrics of one step; microseconds."""
        now = time.time_ns() // 1_000_000
        with self._rows_lock:
            self._rows.extend((name, value, now, step) for name, value in metrics.items())

    def flush(self) -> None:
        """Write everything put so far, in the calling thread."""
        with self._write_lock:
            while True:
                with self._rows_lock:
                    rows = self._rows[:_ROWS_PER_CALL]
                if not rows:
                    return
                self._write(rows)  # rows stay in memory until they are stored
                with self._rows_lock:
                    del self._rows[: len(rows)]

    def close(self) -> None:
        """Stop the thread and write the rest; what cannot be written is warned about."""
        self._closed = True
        self._wake.set()
        self._thread.join()
        try:
            self.flush()
        except Exception as error:
            _LOG.warning(
                "%d metric values could not be stored and are lost: %s", len(self._rows), error
            )

    def _run(self) -> None:
        while not self._closed:
            self._wake.wait(self._interval_s)
            if self._closed:
                return
            try:
                self.flush()
            except Exception as error:
                if not self._warned:
                    _LOG.warning("metrics cannot be stored now, and are kept for later: %s", error)
                    self._warned = True
