"""A local Ray with two workers; slow to start on a busy machine, and hence started thrice if need
be: Ray gives a node half a minute, whatever else runs."""

import os
from collections.abc import Iterator

import pytest

ATTEMPTS = 3


@pytest.fixture(scope="session")
def two_workers() -> Iterator[object]:
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'recsys[ray]'")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - so it is spelt
    for attempt in range(ATTEMPTS):
        try:
            ray.init(
                address="local", num_cpus=2, include_dashboard=False,
                object_store_memory=100 << 20, log_to_driver=False, logging_level="ERROR",
            )  # fmt: skip
            break
        except Exception:  # the bare class is what Ray raises
            ray.shutdown()
            if attempt + 1 == ATTEMPTS:
                raise
    yield ray
    ray.shutdown()
