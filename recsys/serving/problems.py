"""What a client is told when a request cannot be answered: problem details, RFC 9457."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

CONTENT_TYPE = "application/problem+json"
SHOWN = 60
"""Characters of a client's value that a message repeats."""


class RequestError(Exception):
    """An answer that is not the one asked for.

    Args:
        status: HTTP status, 4xx or 5xx.
        detail: What is wrong with its value, what is allowed, what to do.
        column: The column that is to blame.
        row: The row that is to blame, from 0.
        headers: Of the answer.
    """

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        column: str | None = None,
        row: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.column = column
        self.row = row
        self.headers = dict(headers or {})

    def body(self) -> bytes:
        """The answer's JSON; `column` and `row` are left out where none is to blame."""
        told: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "column": self.column,
            "row": self.row,
        }
        return json.dumps({key: value for key, value in told.items() if value is not None}).encode()


def shown(value: object) -> str:
    """A client's value for a message: as JSON, cut short, its own characters escaped.

    Example:
        >>> shown("a" * 100) == '"' + "a" * 56 + "..."
        True
        >>> shown([1, None])
        '[1, null]'
    """
    text = json.dumps(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
