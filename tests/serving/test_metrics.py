"""Counters are readable by a Prometheus scraper."""

import re

from recsys.serving.metrics import Histogram, Metrics

SAMPLE = re.compile(
    r'^[a-z_]+(\{[a-z_]+="(\\.|[^"\\])*"(,[a-z_]+="(\\.|[^"\\])*")*\})? [0-9.e+-]+$'
)


def test_buckets_are_cumulative() -> None:
    seen = Histogram((1, 10))
    for value in (0, 1, 2, 10, 11):
        seen.observe(value)
    assert list(seen.lines("x")) == [
        'x_bucket{le="1"} 2', 'x_bucket{le="10"} 4', 'x_bucket{le="+Inf"} 5', "x_sum 24",
        "x_count 5",
    ]  # fmt: skip


def test_every_line_is_a_sample_or_a_comment() -> None:
    metrics = Metrics(("/score",))
    metrics.request("/score", 200, 0.003)
    metrics.request("/score", 422, 0.001)
    metrics.batch(17, 0.01)
    metrics.reloads["failed"] += 1
    text = metrics.text({"recsys_requests_waiting": 3}, {"run": 'a "b"\\\n', "model": "X"})
    assert text.endswith("\n")
    for line in text.splitlines():
        assert line.startswith(("# HELP ", "# TYPE ")) or SAMPLE.match(line), line
    for line in (
        'recsys_requests_total{route="/score",status="200"} 1',
        'recsys_requests_total{route="/score",status="422"} 1',
        'recsys_request_seconds_bucket{route="/score",le="0.0025"} 1',
        'recsys_batch_rows_bucket{le="16"} 0',
        'recsys_batch_rows_bucket{le="32"} 1',
        'recsys_reloads_total{result="failed"} 1',
        "recsys_requests_waiting 3",
    ):
        assert line in text.splitlines()


def test_unknown_paths_do_not_make_it_grow() -> None:
    metrics = Metrics(("/score",))
    for number in range(1000):
        metrics.request(f"/{number}", 404, 0.001)
    text = metrics.text({}, {})
    assert 'recsys_requests_total{route="other",status="404"} 1000' in text
    assert len(text.splitlines()) < 80
