"""A server as a process: its socket, its signals, its end."""

import asyncio
import concurrent.futures
import contextlib
import json
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from recsys.errors import ConfigError
from recsys.models.saved import SavedModel
from recsys.serving.server import listen
from tests.serving.conftest import FIELDS, frame, make_saved
from tests.serving.process import ServerProcess

NAMES = [one.name for one in FIELDS]
BODY = json.dumps({"rows": frame(3).select(NAMES).to_dicts()}).encode()
JSON = {"Content-Type": "application/json"}
CLIENT = httpx.Client(timeout=20, verify=False)


@pytest.fixture(scope="module")
def folder(saved: SavedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run that is served; a test puts another model there."""
    run = tmp_path_factory.mktemp("served") / "run"
    saved.save(run / "model")
    return run


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    keys = ("limits.timeout=1", "reload_every=0")
    with ServerProcess(folder.parent, f"run={folder}", *keys) as one:
        yield one


def score(url: str) -> dict[str, Any]:
    found = CLIENT.post(f"{url}/score", content=BODY, headers=JSON)
    assert found.status_code == 200, found.text
    told: dict[str, Any] = found.json()
    return told


def raw(port: int, sent: bytes, timeout: float = 10) -> bytes:
    """What comes back until the server closes the connection."""
    with socket.create_connection(("127.0.0.1", port), timeout=timeout) as one:
        one.sendall(sent)
        parts = []
        while part := one.recv(65536):
            parts.append(part)
    return b"".join(parts)


def test_scores_over_a_socket_are_those_of_the_model(
    server: ServerProcess, saved: SavedModel
) -> None:
    expected = saved.predict(frame(3)).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for found in pool.map(score, [server.url] * 40):
            assert found["scores"]["probability"] == expected


def test_headers_that_do_not_come_close_the_connection(server: ServerProcess) -> None:
    began = time.monotonic()
    assert raw(server.port, b"POST /score HTTP/1.1\r\nHost: x\r\n") == b""
    assert raw(server.port, b"") == b""
    assert time.monotonic() - began < 8
    score(server.url)


def test_half_a_body_is_answered_and_closed(server: ServerProcess) -> None:
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    found = raw(server.port, head + b"Content-Length: 100\r\n\r\n{")
    assert found.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within 1 s" in found


def test_endless_bodies_and_headers_are_cut(server: ServerProcess) -> None:
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    found = raw(server.port, head + b"Content-Length: 9000000000\r\n\r\n{")
    assert found.startswith(b"HTTP/1.1 413")
    before = server.memory()
    chunk = b"10000\r\n" + b" " * 65536 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as one:
        try:
            one.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n")
            for _ in range(3000):  # 190 MiB
                one.sendall(chunk)
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            pytest.fail("all of it was taken")
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as one:
        try:
            one.sendall(b"GET / HTTP/1.1\r\n")
            for _ in range(3000):
                one.sendall(b"X: " + b"y" * 65536 + b"\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass
        else:
            pytest.fail("all of it was taken")
    assert server.memory() - before < 100 * 2**20
    score(server.url)


def test_what_is_not_http_is_refused(server: ServerProcess) -> None:
    assert raw(server.port, b"\x16\x03\x01\x02\x00 hello\r\n\r\n").startswith(
        (b"HTTP/1.1 400", b"")
    )
    score(server.url)


def until(server: ServerProcess, **expected: str) -> None:
    """Wait for what /health says."""
    deadline = time.monotonic() + 60
    while not expected.items() <= (told := CLIENT.get(f"{server.url}/health").json()).items():
        assert time.monotonic() < deadline, told
        time.sleep(0.05)


def test_reload_by_signal(server: ServerProcess, saved: SavedModel, folder: Path) -> None:
    newer = make_saved(seed=1, run_id="r2")
    newer.save(folder / "model")
    assert score(server.url)["run"] == "r1"
    server.process.send_signal(signal.SIGHUP)
    until(server, run="r2")
    assert score(server.url)["scores"]["probability"] == newer.predict(frame(3)).tolist()
    shutil.rmtree(folder / "model" / "pipeline")
    server.process.send_signal(signal.SIGHUP)
    until(server, status="reload failed", run="r2")
    assert score(server.url)["run"] == "r2"
    saved.save(folder / "model")
    server.process.send_signal(signal.SIGHUP)
    until(server, status="ok", run="r1")
    for text in ("run r2 is served now", "reload failed, run r2 stays", "run r1 is served now"):
        assert text in server.printed()


def test_a_port_in_use_says_so() -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port={port}.*port=0 takes one that is free"):
            listen("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port"),
    [("no such host", 0), ("256.1.1.1", 0), ("192.0.2.1", 0), ("127.0.0.1", 70000)],
)
def test_an_address_that_cannot_be_used_says_so(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match=f"host={host} port={port}"):
        listen(host, port)


@pytest.mark.slow
def test_reload_by_itself(saved: SavedModel, tmp_path: Path) -> None:
    saved.save(tmp_path / "run")
    with ServerProcess(tmp_path, f"run={tmp_path / 'run'}", "reload_every=0.1") as server:
        assert score(server.url)["run"] == "r1"
        make_saved(seed=1, run_id="r2").save(tmp_path / "run")
        until(server, run="r2")


def test_requests_that_were_begun_are_answered_after_sigterm(server: ServerProcess) -> None:
    """The last test of this server."""

    async def load() -> list[int]:
        answered = []

        async def one(client: httpx.AsyncClient) -> None:
            # A connection refused, or closed before the first byte of an answer: nothing was begun.
            with contextlib.suppress(
                httpx.ConnectError, httpx.RemoteProtocolError, httpx.ReadError
            ):
                while True:
                    found = await client.post(f"{server.url}/score", content=BODY, headers=JSON)
                    answered.append(found.status_code)

        async with httpx.AsyncClient(timeout=20, verify=False) as client:
            tasks = [asyncio.create_task(one(client)) for _ in range(8)]
            while len(answered) < 20:
                await asyncio.sleep(0.01)
            server.process.send_signal(signal.SIGTERM)
            await asyncio.gather(*tasks)
        return answered

    assert set(asyncio.run(load())) == {200}
    assert server.process.wait(20) == 0
    assert "ended: what was begun is answered" in server.printed()
