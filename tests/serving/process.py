"""A real server in a process of its own, for tests that need sockets and signals."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.contract import ROOT

STARTED = re.compile(r"ready: http://127\.0\.0\.1:(\d+)/docs")


class ServerProcess:
    """`python -m pipelines.serve` on a free port; ends with the block.

    Args:
        home: Working directory; what the server prints goes to `server.txt` there.
        arguments: Of the pipeline.
    """

    def __init__(self, home: Path, *arguments: str) -> None:
        self._log = home / f"server-{time.monotonic_ns()}.txt"
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        environment.pop("MLFLOW_TRACKING_URI", None)
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pipelines.serve", *arguments, "port=0"],
                cwd=home,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def __enter__(self) -> ServerProcess:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            found = STARTED.search(self.printed())
            if found:
                self.port = int(found.group(1))
                self.url = f"http://127.0.0.1:{self.port}"
                return self
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        self.__exit__()
        raise AssertionError(self.printed())

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def printed(self) -> str:
        return self._log.read_text()

    def terminate(self, timeout: float = 20) -> int:
        """Ask it to end, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def memory(self) -> int:
        """Resident bytes."""
        return int(psutil.Process(self.process.pid).memory_info().rss)
