"""Connections whose headers do not come, for both HTTP parsers that uvicorn has."""

import asyncio
import contextlib
import importlib
import time
from typing import Any

import pytest
import uvicorn

from recsys.serving import connections

PARSERS = {
    "httptools": "uvicorn.protocols.http.httptools_impl:HttpToolsProtocol",
    "h11": "uvicorn.protocols.http.h11_impl:H11Protocol",
}


async def application(scope: Any, receive: Any, send: Any) -> None:
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if not message.get("more_body"):
            break
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.asynccontextmanager
async def serving(parser: str, monkeypatch: pytest.MonkeyPatch, seconds: float) -> Any:
    module, name = PARSERS[parser].split(":")
    pytest.importorskip(parser)
    monkeypatch.setattr(
        connections, "AutoHTTPProtocol", getattr(importlib.import_module(module), name)
    )
    config = uvicorn.Config(
        application, port=0, http=connections.patient_for(seconds), lifespan="off", log_config=None
    )
    server = uvicorn.Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.005)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    await task


@pytest.mark.parametrize("parser", PARSERS)
@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost:"])
def test_a_connection_that_does_not_ask_is_closed(
    parser: str, sent: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent() -> None:
        async with serving(parser, monkeypatch, 0.2) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    asyncio.run(silent())


@pytest.mark.parametrize("parser", PARSERS)
def test_drops_do_not_make_it_patient(parser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def dripping() -> float:
        async with serving(parser, monkeypatch, 0.3) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\n")
            began = time.monotonic()
            with contextlib.suppress(ConnectionError):
                while not reader.at_eof():
                    writer.write(b"a: b\r\n")
                    await writer.drain()
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(reader.read(1), 0.05)
            writer.close()
            return time.monotonic() - began

    assert asyncio.run(dripping()) < 5


@pytest.mark.parametrize("parser", PARSERS)
def test_requests_that_come_are_answered_one_after_the_other(
    parser: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def asking() -> None:
        async with serving(parser, monkeypatch, 0.3) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            for wait in (0.0, 0.4, 0.0):  # a body may take longer than headers
                writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\na")
                await asyncio.sleep(wait)
                writer.write(b"b")
                head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
                assert head.startswith(b"HTTP/1.1 200")
                assert await reader.readexactly(2) == b"ab"
            writer.write(b"GET")  # a later request that is never finished
            assert await asyncio.wait_for(reader.read(), 5) == b""
            writer.close()

    asyncio.run(asking())
