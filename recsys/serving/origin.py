"""From what a person calls a run to a model that is ready to be served.

A folder is looked at again and again: when another model lies there, by a new training into it or
by a link that points elsewhere, it is another version. A run id is one model for ever.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from recsys.serving.served import Served


class RunOrigin:
    """A run as the origin of models.

    Args:
        run: What a person calls it: a folder, an MLflow run id, `models:/<name>@<alias>`.
        resolve: From that to the id of a run or a folder, which changes when an alias moves.
        find: From an id or a folder to the folder of its model.
        make: Loads a model from its folder, and tries it out.
    """

    def __init__(
        self,
        run: str,
        resolve: Callable[[str], str],
        find: Callable[[str], Path],
        make: Callable[[Path, str], Served],
    ) -> None:
        self._run = run
        self._resolve = resolve
        self._find = find
        self._make = make

    def version(self) -> str:
        """The run that is meant, and the state of its folder."""
        run = self._resolve(self._run)
        for folder in (Path(run) / "model", Path(run)):
            card = folder / "model.json"
            if card.is_file():
                state = card.stat()
                return f"{folder.resolve()} {state.st_ino} {state.st_mtime_ns} {state.st_size}"
        return run

    def load(self) -> Served:
        """The model that is meant now."""
        run = self._resolve(self._run)
        return self._make(self._find(run), run)
