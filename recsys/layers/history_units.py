"""Which histories a model attends over, and with which target.

Letters   B rows, P events of all rows end to end, D width.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.embedding.embedded import Embedded, History
from recsys.errors import ConfigError, SchemaError


class HistoryUnits:
    """The histories of a schema, one unit each, or side by side as one.

    Histories that were collected together (the items a person bought, and their categories) hold
    one event at each position. `joint` lets one unit see [item; category] of every event.

    Args:
        model: Name of the model, for messages.
        embed_dim: Width of a vector.
        slots: Names of the slots; None while data is unread, when one history is supposed.
        histories: Name of each history -> its width.
        joint: Put all histories side by side.

    Raises:
        ConfigError: The data has no history.
    """

    def __init__(
        self,
        model: str,
        embed_dim: int,
        slots: tuple[str, ...] | None,
        histories: Mapping[str, int] | None,
        joint: bool,
    ) -> None:
        known = dict(histories or {})
        if not known and slots is None:
            known = {"history": embed_dim}
        if not known:
            raise ConfigError(
                f"{model} reads histories, but this data has none. A history is a column of lists "
                "with data.fields.<column>.kind=history and data.fields.<column>.shares=<the "
                "categorical field it is a history of>; MovieLens makes one with data.history=true."
            )
        self.histories = tuple(known)
        self.joint = joint
        self.widths = {self.histories[0]: sum(known.values())} if joint else known
        """Name of each unit, a joint one's being its first history's -> width of its events and of
        its target."""

    def of(self, embedded: Embedded) -> list[tuple[History, Tensor]]:
        """Events and target [B, D] of each unit.

        Raises:
            SchemaError: Histories to be joined differ in their numbers of events.
            ValueError: The batch lacks a history.
        """
        for name in self.histories:
            if name not in embedded.history:
                raise ValueError(
                    f'the batch has no history "{name}"; it has {sorted(embedded.history)}. Build '
                    "the model from the schema of this data, and the lookup with "
                    "pool_histories=False."
                )
        found = [(embedded.history[n], embedded.target[n]) for n in self.histories]
        if not self.joint or len(found) == 1:
            return found
        first = found[0][0]
        unread = first.offsets.is_meta or torch.compiler.is_exporting()  # a scorer checks by itself
        for name, (history, _) in zip(self.histories, found, strict=True):
            if not unread and not torch.equal(history.offsets, first.offsets):
                raise SchemaError(
                    f'joint=true puts histories side by side, event by event, but "{name}" and '
                    f'"{self.histories[0]}" differ in their numbers of events. Use joint=false, or '
                    "keep only histories that were collected together (data.fields.<column>.kind="
                    "ignore)."
                )
        values = torch.cat([history.values for history, _ in found], dim=1)
        target = torch.cat([target for _, target in found], dim=1)
        return [(History(values, first.offsets, first.longest), target)]
