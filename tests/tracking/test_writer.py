"""The metric thread: never waited for, nothing lost, nothing twice."""

import threading

import pytest

from recsys.tracking.writer import MetricWriter


def test_putting_never_waits_for_a_write():
    """The store hangs until every step is put: were `put` to wait, this would never end."""
    release, stored = threading.Event(), []

    def write(rows):
        assert release.wait(30)
        stored.extend(rows)

    writer = MetricWriter(write, interval_s=0.001)
    for step in range(500):
        writer.put({"loss": 0.5, "lr": 0.1}, step)
    release.set()
    writer.close()
    assert [(name, step) for name, _, _, step in stored] == [
        (name, step) for step in range(500) for name in ("loss", "lr")
    ]


def test_batches_are_bounded():
    sizes = []
    writer = MetricWriter(lambda rows: sizes.append(len(rows)), interval_s=60)
    for step in range(2500):
        writer.put({"loss": 0.5}, step)
    writer.flush()
    writer.close()
    assert sizes == [1000, 1000, 500]


def test_a_failed_write_is_kept_warned_about_once_and_repeated(caplog):
    stored, failures, enough = [], [], threading.Event()

    def write(rows):
        if len(failures) < 3:
            failures.append(len(rows))
            raise OSError("no route to host")
        stored.extend(rows)
        enough.set()

    writer = MetricWriter(write, interval_s=0.001)
    writer.put({"loss": 0.5}, 1)
    assert enough.wait(30)
    writer.close()
    assert failures == [1, 1, 1]
    assert [row[0::3] for row in stored] == [("loss", 1)]
    assert len(caplog.records) == 1
    assert "no route to host" in caplog.text


def test_close_warns_of_what_is_lost(caplog):
    def write(rows):
        raise OSError("gone")

    writer = MetricWriter(write, interval_s=60)
    writer.put({"a": 1.0, "b": 2.0}, 1)
    writer.close()
    assert "2 metric values could not be stored and are lost: gone" in caplog.text


def test_flush_raises_what_the_store_raises():
    def write(rows):
        raise OSError("gone")

    writer = MetricWriter(write, interval_s=60)
    writer.put({"a": 1.0}, 1)
    with pytest.raises(OSError, match="gone"):
        writer.flush()
    writer.close()


def test_flush_and_the_thread_do_not_write_a_row_twice():
    stored = []
    writer = MetricWriter(stored.extend, interval_s=0.0001)
    for step in range(300):
        writer.put({"loss": 0.5}, step)
        writer.flush()
    writer.close()
    assert [row[3] for row in stored] == list(range(300))
