"""How much one client may ask for, and how long anybody waits."""

from __future__ import annotations

from dataclasses import dataclass, fields

from recsys.errors import ConfigError


@dataclass(frozen=True)
class Limits:
    """Bounds of requests; each is a key of `configs/serve.yaml`.

    Raises:
        ConfigError: one is not a number above 0.
    """

    max_rows: int = 1000
    """Rows, or users, of one request; more are a 422."""
    max_k: int = 100
    """Length of a list."""
    max_body_kib: int = 8192
    """Size of a request's body, KiB; more is a 413, before it is read to the end."""
    max_waiting: int = 256
    """Requests that wait to be scored; the next one is a 503."""
    max_connections: int = 1000
    """Open connections; the next one is a 503."""
    batch_rows: int = 1024
    """Rows of waiting requests that are scored together; a single request may have more."""
    timeout: float = 10.0
    """Seconds: to send the headers, to send the body, to be scored; and to finish at the end."""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if not value > 0:
                raise ConfigError(f"{one.name}={value}; it must be above 0.")

    @property
    def max_body_bytes(self) -> int:
        return self.max_body_kib * 1024
