"""The contract of the multi-task models that their YAML files do not show."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.embedding.embedded import Embedded
from recsys.errors import ConfigError
from recsys.models.base import Tasks
from recsys.models.multitask import PLAUSIBLE_TASKS, MTLModel


class Constant(MTLModel):
    """Zero for every task."""

    def forward(self, embedded: Embedded) -> Tensor:
        self.check_input(embedded)
        return torch.zeros(len(embedded), len(self.tasks))


def test_tasks_know_their_parents() -> None:
    tasks = Tasks(("pay", "click", "cart", "like"), (2, -1, 1, -1))
    assert len(tasks) == 4
    assert tasks.pairs == [(2, 0), (1, 2)]


def test_one_label_is_too_few() -> None:
    with pytest.raises(ConfigError, match=r"learns several labels.* 1 \(click\).*ctr model"):
        Constant(3, 4, 0, Tasks(("click",), (-1,)))


def test_while_data_is_unread_two_tasks_are_supposed() -> None:
    model = Constant(3, 4, 0, None)
    assert not model.tasks_known
    assert model.tasks is PLAUSIBLE_TASKS
    assert model.learns_tasks
    assert model.flat_dim == 12
    assert Constant(3, 4, 2, Tasks(("a", "b"), (-1, -1))).flat_dim == 14
    assert model(Embedded.random(batch=5, fields=3, dim=4)).shape == (5, 2)
