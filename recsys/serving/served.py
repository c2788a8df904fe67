"""What a server needs of a model: requests in, answers out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class Served(Protocol):
    """A loaded model behind one route.

    `read` runs on the thread of the event loop and is quick; `answer` runs on the scoring thread,
    never twice at once.
    """

    route: str
    """Path that clients post to."""
    run: str
    """Id of the run, for people."""
    name: str
    """Of the model, as its paper spells it."""
    interface: dict[str, Any]
    """What clients rely on, as plain data: a model with another one does not replace this one."""

    def read(self, body: bytes) -> tuple[Any, int]:
        """Check a request; the job that `answer` takes, and how many rows it has.

        Raises:
            RequestError: the request is at fault.
        """
        ...

    def answer(self, jobs: Sequence[Any]) -> list[bytes | Exception]:
        """The JSON of each answer, or why there is none."""
        ...

    def example(self) -> dict[str, Any]:
        """A request that it answers."""
        ...

    def facts(self) -> dict[str, Any]:
        """What /health tells."""
        ...

    def request_schema(self) -> dict[str, Any]:
        """JSON schema of a request."""
        ...

    def answer_schema(self) -> dict[str, Any]:
        """JSON schema of an answer."""
        ...
