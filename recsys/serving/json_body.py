"""A request's body: JSON, of bounded size, read within bounded time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import pydantic_core

from recsys.errors import did_you_mean
from recsys.serving.limits import Limits
from recsys.serving.problems import RequestError, shown

MEDIA_TYPE = "application/json"


class Incoming(Protocol):
    """What is used of a request."""

    @property
    def headers(self) -> Any: ...

    def stream(self) -> AsyncIterator[bytes]: ...


async def read_body(request: Incoming, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        RequestError: 415 it is not JSON by its header; 413 it is too large, by its header or while
            it arrives; 408 it did not arrive in time.
    """
    headers = request.headers
    media = headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != MEDIA_TYPE:
        got = f"is {shown(media)}" if media else "is missing"
        raise RequestError(415, f"the header Content-Type {got}; it must be {MEDIA_TYPE}.")
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError(
            415,
            f"Content-Encoding {shown(headers['content-encoding'])} is not read. Send it as is.",
        )
    declared = headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limits.max_body_bytes:
        raise _too_large(limits)
    parts: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.timeout):
            async for part in request.stream():
                size += len(part)
                if size > limits.max_body_bytes:
                    raise _too_large(limits)
                parts.append(part)
    except TimeoutError as error:
        raise RequestError(
            408,
            f"the body did not arrive within {limits.timeout:g} s ({size:,} bytes did).",
            headers={"Connection": "close"},
        ) from error
    return b"".join(parts)


def _too_large(limits: Limits) -> RequestError:
    return RequestError(
        413,
        f"the body has more than {limits.max_body_bytes:,} bytes. Send fewer rows at a time.",
        headers={"Connection": "close"},
    )


def parse_object(body: bytes, required: str, optional: tuple[str, ...] = ()) -> dict[str, Any]:
    """The body as an object with known keys; of a key that is there twice the last one counts.

    NaN and infinity are not JSON and refused; nesting deeper than 200 is, too.

    Raises:
        RequestError: 400 it is not JSON; 422 it is not an object with these keys.
    """
    try:
        found = pydantic_core.from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise RequestError(400, f"the body is not JSON: {error}.") from error
    allowed = (required, *optional)
    if not isinstance(found, dict):
        raise RequestError(
            422, f"the body is {kind_of(found)}; it must be an object with {required}."
        )
    for key in found:
        if key not in allowed:
            raise RequestError(
                422, f"the key {shown(key)} is not known.{did_you_mean(key, allowed)}"
            )
    if required not in found:
        raise RequestError(422, f"the key {required} is missing.")
    return found


def checked_list(found: dict[str, Any], key: str, most: int, what: str) -> list[Any]:
    """The list under a key.

    Raises:
        RequestError: 422 it is no list, is empty, or too long.
    """
    values = found[key]
    if not isinstance(values, list):
        raise RequestError(422, f"{key} is {kind_of(values)}; it must be a list of {what}.")
    if not 1 <= len(values) <= most:
        raise RequestError(
            422, f"{key} has {len(values):,} {what}; a request may have 1 to {most:,} of them."
        )
    return values


def kind_of(value: object) -> str:
    """What JSON calls a value, with its article.

    Example:
        >>> kind_of(True), kind_of(1.5), kind_of(None)
        ('a boolean', 'a number', 'null')
    """
    names = {
        bool: "a boolean", int: "an integer", float: "a number", str: "a string",
        list: "a list", dict: "an object",
    }  # fmt: skip
    return names.get(type(value), "null")
