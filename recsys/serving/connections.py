"""Connections that do not send: uvicorn waits for a request's headers for ever, this does not."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.auto import AutoHTTPProtocol

HEADER_BYTES = 65_536


def patient_for(seconds: float) -> type[asyncio.Protocol]:
    """uvicorn's protocol, which closes a connection whose headers are not there in time, or are
    larger than 64 KiB.

    Args:
        seconds: From the connection, or from the first byte of a later request.
    """

    class Patient(AutoHTTPProtocol):  # type: ignore[misc, valid-type]
        _deadline: asyncio.TimerHandle | None = None
        _read = 0

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self._deadline = self.loop.call_later(seconds, self._give_up)

        def connection_lost(self, exc: Exception | None) -> None:
            self._no_deadline()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._no_deadline()  # a request is being answered; its body has a time of its own
                return
            self._read += len(data)
            if self._read > HEADER_BYTES:
                self._give_up()
            elif self._deadline is None:
                self._deadline = self.loop.call_later(seconds, self._give_up)

        def _no_deadline(self) -> None:
            self._read = 0
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

        def _give_up(self) -> None:
            self._deadline = None
            if not self.transport.is_closing():
                self.transport.close()

    return Patient
