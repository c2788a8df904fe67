"""Counters of a server as Prometheus text, format 0.0.4.

Written and read by the thread of the event loop alone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Histogram:
    """How many observations were at most so large.

    Args:
        bounds: Ascending.

    Example:
        >>> seen = Histogram((1, 2))
        >>> for value in (1, 1.5, 7): seen.observe(value)
        >>> list(seen.lines("x", 'route="/score"'))[:3]
        ['x_bucket{route="/score",le="1"} 1', 'x_bucket{route="/score",le="2"} 2', \
'x_bucket{route="/score",le="+Inf"} 3']
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.count = 0
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one more."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.count += 1
        self.sum += value

    def lines(self, name: str, labels: str = "") -> Iterator[str]:
        """The samples of this histogram."""
        start = f"{labels}," if labels else ""
        total = 0
        for bound, count in zip((*self._bounds, "+Inf"), self._counts, strict=True):
            total += count
            yield f'{name}_bucket{{{start}le="{bound}"}} {total}'
        inside = f"{{{labels}}}" if labels else ""
        yield f"{name}_sum{inside} {self.sum:.9g}"
        yield f"{name}_count{inside} {self.count}"


class Metrics:
    """What a server counts.

    Args:
        routes: Paths that are counted by themselves; any other is `other`, so that nobody can make
            the text grow.
    """

    def __init__(self, routes: Sequence[str]) -> None:
        self._seconds = {route: Histogram(SECONDS) for route in (*routes, "other")}
        self._requests: Counter[tuple[str, int]] = Counter()
        self.batch_rows = Histogram(ROWS)
        self.batch_seconds = Histogram(SECONDS)
        self.reloads: Counter[str] = Counter(done=0, failed=0)

    def request(self, path: str, status: int, seconds: float) -> None:
        """Count an answered request."""
        route = path if path in self._seconds else "other"
        self._requests[route, status] += 1
        self._seconds[route].observe(seconds)

    def batch(self, rows: int, seconds: float) -> None:
        """Count requests that were scored together."""
        self.batch_rows.observe(rows)
        self.batch_seconds.observe(seconds)

    def text(self, gauges: Mapping[str, float], info: Mapping[str, str]) -> str:
        """Everything, for a scraper.

        Args:
            gauges: Name to what holds now.
            info: Labels of `recsys_model_info`.
        """
        lines = _head("recsys_requests_total", "counter", "Requests answered.")
        for (route, status), count in sorted(self._requests.items()):
            lines.append(f'recsys_requests_total{{route="{route}",status="{status}"}} {count}')
        name = "recsys_request_seconds"
        lines += _head(name, "histogram", "From the first byte of a request to the answer's last.")
        for route, seen in self._seconds.items():
            if seen.count:
                lines += seen.lines(name, f'route="{route}"')
        for name, seen, text in (
            ("recsys_batch_rows", self.batch_rows, "Rows, or users, that were scored together."),
            ("recsys_batch_seconds", self.batch_seconds, "Encoding and scoring them."),
        ):
            lines += [*_head(name, "histogram", text), *seen.lines(name)]
        lines += _head("recsys_reloads_total", "counter", "Changes of the model while serving.")
        for result, count in self.reloads.items():
            lines.append(f'recsys_reloads_total{{result="{result}"}} {count}')
        for name, value in gauges.items():
            lines += [f"# TYPE {name} gauge", f"{name} {value:.15g}"]
        labels = ",".join(f'{key}="{_escaped(value)}"' for key, value in info.items())
        lines += ["# TYPE recsys_model_info gauge", f"recsys_model_info{{{labels}}} 1"]
        return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> list[str]:
    return [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
