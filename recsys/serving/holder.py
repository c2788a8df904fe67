"""The model that is served now, and its replacement by a newer one while requests go on.

A new model is loaded and tried out beside the old one, then takes its place in one assignment.
Requests that were read before finish on the old one. Whatever is wrong with the new one, the old
one stays, and /health tells.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from recsys.errors import ConfigError
from recsys.serving.served import Served

_LOG = logging.getLogger(__name__)


class Origin(Protocol):
    """Where models come from; both calls may take long and run on a thread."""

    def version(self) -> str:
        """What is to be served now, as a text that changes with it."""
        ...

    def load(self) -> Served:
        """Load it, and try it out."""
        ...


@dataclass(frozen=True)
class Loaded:
    """A model, the version it was, and when it came."""

    served: Served
    version: str
    since: datetime


class Holder:
    """Holds the model.

    Args:
        origin: Where it comes from.
        told: Called, on the event loop, with `done` or `failed` and a sentence after each reload.
    """

    def __init__(
        self, origin: Origin, told: Callable[[str, str], None] = lambda result, text: None
    ) -> None:
        self._origin = origin
        self.told = told
        self.loaded = _load(origin)
        self.error: str | None = None
        """Why the newest model is not the one that is served."""
        self._failed: str | None = None
        self._lock = asyncio.Lock()

    @property
    def served(self) -> Served:
        return self.loaded.served

    async def reload(self, anyhow: bool = False) -> bool:
        """Take the model that is to be served now, if it is another one.

        Args:
            anyhow: Load it even where nothing seems to have changed, or it failed before.

        Returns:
            Whether it was replaced.
        """
        async with self._lock:
            version = None
            try:
                version = await asyncio.to_thread(self._origin.version)
                if not anyhow and version in (self.loaded.version, self._failed):
                    if version == self.loaded.version:
                        self.error = self._failed = None
                    return False
                loaded = await asyncio.to_thread(_load, self._origin)
                self._check(loaded.served)
            except Exception as error:  # whatever it is, the old model goes on
                self._failed = version
                text = f"{type(error).__name__}: {error}"
                if text != self.error:
                    _LOG.warning("reload failed, run %s stays: %s", self.served.run, text)
                    self.told("failed", f"reload failed, run {self.served.run} stays: {text}")
                self.error = text
                return False
            self.loaded = loaded
            self.error = self._failed = None
            self.told("done", f"run {loaded.served.run} is served now")
            return True

    async def watch(self, seconds: float) -> None:
        """Look for another model again and again; ends when it is cancelled."""
        while True:
            await asyncio.sleep(seconds)
            await self.reload()

    def _check(self, new: Served) -> None:
        if (new.route, new.interface) == (self.served.route, self.served.interface):
            return
        changed = [
            part
            for part in {**self.served.interface, **new.interface}
            if self.served.interface.get(part) != new.interface.get(part)
        ]
        raise ConfigError(
            f"run {new.run} takes other requests than run {self.served.run} ({self.served.route}: "
            f"{', '.join(changed) or new.route}). Start a server of its own for it."
        )


def _load(origin: Origin) -> Loaded:
    version = origin.version()
    return Loaded(origin.load(), version, datetime.now(UTC))
