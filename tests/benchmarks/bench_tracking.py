"""What MLflow costs a run: with tracking and without, in turns. Run it by hand.

    python tests/benchmarks/bench_tracking.py [repeats] [overrides of pipelines.train ...]

Whole processes are measured, imports, the store and the logged model included: wall time (what a
user waits) and processor time (what does not depend on what else the machine does). The first pair
of runs fills caches and is not counted. The store is a new SQLite file, made and migrated by the
run that is not counted, as a user's second run finds it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEFAULT = ["ctr=autoint", "data=synthetic", "trainer.epochs=12", "trainer.patience=12", "seed=1"]


def measured(folder: Path, tracking: str, overrides: list[str]) -> tuple[float, float]:
    """Wall and processor seconds of one run."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.train", *overrides, f"tracking={tracking}",
         "console=plain"],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    wall, after = time.perf_counter() - start, os.times()
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    spent = after.children_user + after.children_system
    return wall, spent - before.children_user - before.children_system


def main(repeats: int, overrides: list[str]) -> None:
    found: dict[str, list[tuple[float, float]]] = {"none": [], "mlflow": []}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(repeats + 1):
            for tracking, seconds in found.items():
                one = measured(Path(folder), tracking, overrides)
                print(f"{turn} {tracking:7} wall {one[0]:6.1f} s  processor {one[1]:6.1f} s")
                if turn:
                    seconds.append(one)
    for at, what in enumerate(("wall", "processor")):
        plain, tracked = (statistics.median(s[at] for s in found[t]) for t in ("none", "mlflow"))
        pairs = [
            100 * (b[at] - a[at]) / a[at]
            for a, b in zip(found["none"], found["mlflow"], strict=True)
        ]
        print(
            f"{what:9} median {plain:.1f} s without, {tracked:.1f} s with tracking: "
            f"{100 * (tracked - plain) / plain:+.1f} % (pairs {min(pairs):+.1f} to "
            f"{max(pairs):+.1f} %)"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:] or DEFAULT)
