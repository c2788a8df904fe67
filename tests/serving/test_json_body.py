"""Bodies: JSON by name and by content, bounded in size and time."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from recsys.serving.json_body import checked_list, kind_of, parse_object, read_body
from recsys.serving.limits import Limits
from recsys.serving.problems import RequestError

JSON = {"content-type": "application/json"}
SMALL = Limits(max_body_kib=1, timeout=0.05)


class Sent:
    """A request whose parts arrive one after the other."""

    def __init__(self, parts: list[bytes], headers: dict[str, str], hang: bool = False) -> None:
        self.parts, self.headers, self.hang = parts, headers, hang
        self.read = 0

    async def stream(self) -> AsyncIterator[bytes]:
        for part in self.parts:
            self.read += 1
            yield part
        if self.hang:
            await asyncio.sleep(60)


def body(sent: Sent) -> bytes:
    return asyncio.run(read_body(sent, SMALL))


def refused(sent: Sent) -> RequestError:
    with pytest.raises(RequestError) as error:
        body(sent)
    return error.value


def test_parts_are_joined() -> None:
    assert body(Sent([b"{", b"}"], {"content-type": "Application/JSON; charset=utf-8"})) == b"{}"


def test_another_type_is_refused() -> None:
    assert refused(Sent([], {})).status == 415
    assert refused(Sent([], {"content-type": "text/plain"})).status == 415
    assert refused(Sent([], {**JSON, "content-encoding": "gzip"})).status == 415


def test_too_large_by_its_header_is_not_read() -> None:
    sent = Sent([b"x"], {**JSON, "content-length": "1025"})
    assert refused(sent).status == 413
    assert sent.read == 0


def test_too_large_without_a_header_is_not_read_to_the_end() -> None:
    sent = Sent([b"x" * 600] * 1000, JSON)
    assert refused(sent).status == 413
    assert sent.read == 2


def test_half_a_body_is_given_up() -> None:
    error = refused(Sent([b"{"], JSON, hang=True))
    assert error.status == 408
    assert error.headers == {"Connection": "close"}


@pytest.mark.parametrize(
    "text",
    [
        b"", b"{", b"{'a': 1}", b'{"rows": [NaN]}', b'{"rows": [Infinity]}', b'{"rows": [1,]}',
        b"\xff\xfe{}", b'"\xff"', b'{"rows": ["\\ud800"]}', b"[" * 10**6, b'{"a":' * 10**5,
        b'{"rows": ' + b"1" * 5000 + b"}", b'{"rows": []} x',
    ],
)  # fmt: skip
def test_what_is_not_json_is_a_400(text: bytes) -> None:
    with pytest.raises(RequestError) as error:
        parse_object(text, "rows")
    assert error.value.status == 400
    assert len(error.value.detail) < 200


@pytest.mark.parametrize("text", [b"[]", b"1", b"null", b'"rows"', b"{}", b'{"row": []}'])
def test_another_form_is_a_422(text: bytes) -> None:
    with pytest.raises(RequestError) as error:
        parse_object(text, "rows")
    assert error.value.status == 422


def test_of_a_key_that_is_there_twice_the_last_one_counts() -> None:
    assert parse_object(b'{"rows": 1, "rows": 2}', "rows") == {"rows": 2}
    assert parse_object(b'{"rows": 1, "k": 2}', "rows", ("k",)) == {"rows": 1, "k": 2}


@pytest.mark.parametrize("values", [None, {}, "ab", [], [1, 2, 3, 4]])
def test_lists_are_bounded(values: Any) -> None:
    with pytest.raises(RequestError):
        checked_list({"rows": values}, "rows", 3, "rows")


def test_json_names_of_values() -> None:
    assert [kind_of(one) for one in json.loads('["a", [], {}, 1, 1.0, null]')] == [
        "a string", "a list", "an object", "an integer", "a number", "null",
    ]  # fmt: skip
