"""The HTTP application: one route that answers, and those that tell how it goes.

Nothing a request says is used as a path, a name of a file or code: a body is data to be checked
against the columns of the model.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from http import HTTPStatus
from typing import Any

import psutil
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys.environment import installed_version
from recsys.serving import metrics, openapi, problems
from recsys.serving.batcher import Batcher
from recsys.serving.holder import Holder
from recsys.serving.json_body import MEDIA_TYPE, read_body
from recsys.serving.limits import Limits
from recsys.serving.metrics import Metrics
from recsys.serving.problems import RequestError
from recsys.serving.served import Served


def create_app(
    holder: Holder,
    limits: Limits | None = None,
    *,
    reload_seconds: float = 0,
) -> FastAPI:
    """The application of a model.

    Args:
        holder: Has the model.
        limits: Of requests; those of `Limits()` where not given.
        reload_seconds: Time between two looks for a newer model; 0: never by itself.
    """
    limits = limits or Limits()
    counters = Metrics((holder.served.route, "/health", "/ready", "/metrics", "/openapi.json"))
    batcher = Batcher(limits, counters.batch)
    print_reload = holder.told

    def told(result: str, text: str) -> None:
        counters.reloads[result] += 1
        print_reload(result, text)

    holder.told = told

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            batcher.start()
            stack.callback(batcher.close)
            if reload_seconds:
                watch = asyncio.create_task(holder.watch(reload_seconds))
                stack.push_async_callback(_cancelled, watch)
            yield

    app = FastAPI(lifespan=life, redoc_url=None, redirect_slashes=False)

    async def answer(request: Request) -> Response:
        served = holder.served
        body = await read_body(request, limits)
        content, rows = served.read(body)
        return Response(await batcher.submit(served, content, rows), media_type=MEDIA_TYPE)

    async def health(request: Request) -> Response:
        return _json(_health(holder))

    async def ready(request: Request) -> Response:
        if batcher.waiting >= limits.max_waiting:
            raise RequestError(
                503, f"{batcher.waiting:,} requests wait.", headers={"Retry-After": "1"}
            )
        return _json(_health(holder))

    async def numbers(request: Request) -> Response:
        gauges = {
            "recsys_requests_waiting": batcher.waiting,
            "recsys_model_loaded_seconds": holder.loaded.since.timestamp(),
            "process_resident_memory_bytes": psutil.Process().memory_info().rss,
        }
        info = {"run": holder.served.run, "model": holder.served.name}
        return Response(counters.text(gauges, info), media_type=metrics.CONTENT_TYPE)

    app.add_api_route(holder.served.route, answer, methods=["POST"])
    for path, endpoint in (("/health", health), ("/ready", ready), ("/metrics", numbers)):
        app.add_api_route(path, endpoint, methods=["GET"])
    version = installed_version("recsys") or "0"
    written: list[tuple[Served, dict[str, Any]]] = []

    def document() -> dict[str, Any]:
        served = holder.served
        if not written or written[0][0] is not served:
            written[:] = [(served, openapi.document(served, limits, version))]
        return written[0][1]

    app.openapi = document  # type: ignore[method-assign]
    app.add_exception_handler(RequestError, _told)
    app.add_exception_handler(HTTPException, _told)
    app.add_exception_handler(Exception, _failed)
    app.add_middleware(_Counted, observe=counters.request)
    return app


class _Counted:
    """Tells status and time of every request."""

    def __init__(self, app: ASGIApp, observe: Callable[[str, int, float], None]) -> None:
        self._app = app
        self._observe = observe

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            self._observe(scope["path"], status, time.perf_counter() - began)


async def _told(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        detail = f"{request.method} {request.url.path}: {HTTPStatus(error.status_code).phrase}."
        error = RequestError(error.status_code, detail, headers=error.headers)
    assert isinstance(error, RequestError)
    return Response(error.body(), error.status, error.headers, problems.CONTENT_TYPE)


async def _failed(request: Request, error: Exception) -> Response:
    """What went wrong is in the server's log, not in the answer."""
    return await _told(
        request, RequestError(500, "the server could not answer this request; its log says why.")
    )


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def _health(holder: Holder) -> dict[str, Any]:
    served = holder.served
    told = {
        "status": "ok" if holder.error is None else "reload failed",
        "run": served.run,
        "model": served.name,
        "since": holder.loaded.since.isoformat(timespec="seconds"),
        **served.facts(),
    }
    return told if holder.error is None else {**told, "reload_error": holder.error}


def _json(content: dict[str, Any]) -> Response:
    return Response(json.dumps(content), media_type=MEDIA_TYPE)
