"""The process that serves: its socket, its signals, its end."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from recsys.errors import ConfigError
from recsys.serving.connections import patient_for
from recsys.serving.holder import Holder
from recsys.serving.limits import Limits

KEEP_ALIVE_SECONDS = 30
LARGEST_PORT = 65_535


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Args:
        host: Name or address of an interface of this machine.
        port: 0: any that is free.

    Raises:
        ConfigError: the address is taken, is not of this machine, or may not be used.
    """
    if port > LARGEST_PORT:
        raise ConfigError(f"host={host} port={port}; ports go to {LARGEST_PORT}.")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        bound = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise ConfigError(
            f"host={host} port={port}: {error}. Give an address of this machine."
        ) from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
        bound.listen(2048)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"host={host} port={port}: {error}. Stop what listens there, or give another port; "
            "port=0 takes one that is free."
        ) from error
    return bound


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._started = started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._started()


def run_server(
    app: FastAPI,
    holder: Holder,
    bound: socket.socket,
    limits: Limits,
    ready: Callable[[], None],
) -> None:
    """Serve until SIGTERM or SIGINT: then nothing new is accepted, and what was begun is finished.
    SIGHUP loads the model anew.

    Args:
        app: What answers.
        holder: Has the model.
        bound: Listens already.
        limits: Of connections and time.
        ready: Called when requests are answered.
    """
    config = uvicorn.Config(
        app,
        http=patient_for(limits.timeout),
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(limits.timeout)),
        limit_concurrency=limits.max_connections,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    reloads: set[asyncio.Task[bool]] = set()

    def reload() -> None:
        task = asyncio.get_running_loop().create_task(holder.reload(anyhow=True))
        reloads.add(task)
        task.add_done_callback(reloads.discard)

    def started() -> None:
        if hasattr(signal, "SIGHUP"):
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload)
        ready()

    # uvicorn raises the signal that ended it once more; an end that was asked for is no failure.
    before = {one: signal.signal(one, lambda *_: None) for one in (signal.SIGTERM, signal.SIGINT)}
    try:
        _Server(config, started).run(sockets=[bound])
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
        bound.close()
