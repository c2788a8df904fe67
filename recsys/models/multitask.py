"""Contract of the multi-task models: one logit for each label of a row.

Letters   B rows, K tasks, F slots, D embedding width, N dense columns.
"""

from __future__ import annotations

from typing import ClassVar

from recsys.errors import ConfigError
from recsys.models.base import InteractionModel, Tasks

PLAUSIBLE_TASKS = Tasks(("first", "second"), (-1, 0))
"""Tasks to build a model for while the data is unread."""


class MTLModel(InteractionModel):
    """A multi-task model: `forward(Embedded) -> logits [B, K]`, tasks in the order of the labels.

    A logit is that of P(label = 1) among ALL rows; that of a nested label is then of the joint
    event, such as P(click and conversion).

    Args:
        num_fields: F.
        embed_dim: D.
        num_dense: N.
        tasks: None while data is unread.

    Raises:
        ConfigError: the data has one label only.
    """

    learns_tasks: ClassVar[bool] = True
    separate_tables: ClassVar[bool] = False
    """True when each task has vectors of its own: `fields` is then [B, F, K * D]."""

    def __init__(
        self, num_fields: int, embed_dim: int, num_dense: int, tasks: Tasks | None
    ) -> None:
        super().__init__(num_fields, embed_dim, num_dense)
        self.tasks_known = tasks is not None
        self.tasks = PLAUSIBLE_TASKS if tasks is None else tasks
        if len(self.tasks) < 2:
            raise ConfigError(
                f"{type(self).__name__} learns several labels, but this data has "
                f"{len(self.tasks)} ({', '.join(self.tasks.names)}). Name them with data.labels="
                "[a,b], or choose a ctr model."
            )

    @property
    def flat_dim(self) -> int:
        """Width of `Embedded.flat`."""
        return self.num_fields * self.embed_dim + self.num_dense
