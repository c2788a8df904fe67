from __future__ import annotations

import pytest
import torch

from recsys.errors import ConfigError
from recsys.models.mtl.ple import PLE
from tests import contract

SPECIFIC, SHARED = 2, 3


def textbook(model: PLE, x: torch.Tensor) -> torch.Tensor:
    """Tang et al., Sec. 4: a level, a task and an expert at a time."""
    head, tasks = model.head, len(contract.TASKS)
    own, common = [x] * tasks, x
    for level, (experts, gates) in enumerate(zip(head.experts, head.gates, strict=True)):
        linear = experts[0]

        def expert(number: int, value: torch.Tensor, linear=linear) -> torch.Tensor:
            return (value @ linear.weight[number].T + linear.bias[number]).relu()

        specific = [
            [expert(t * SPECIFIC + i, own[t]) for i in range(SPECIFIC)] for t in range(tasks)
        ]
        shared = [expert(tasks * SPECIFIC + i, common) for i in range(SHARED)]
        fused = []
        for task in range(tasks):
            seen = [*specific[task], *shared]
            numbers = [*range(task * SPECIFIC, (task + 1) * SPECIFIC)]
            numbers += range(tasks * SPECIFIC, tasks * SPECIFIC + SHARED)
            gate = (own[task] @ gates.logits.weight[task][numbers].T).softmax(dim=1)
            fused.append(sum(gate[:, i, None] * one for i, one in enumerate(seen)))
        if level < len(head.experts) - 1:
            everyone = [one for group in specific for one in group] + shared
            gate = (common @ gates.logits.weight[tasks].T).softmax(dim=1)
            common = sum(gate[:, i, None] * one for i, one in enumerate(everyone))
        own = fused
    logits = []
    for task in range(tasks):
        tower, out = head.towers.hidden[0], head.towers.output
        hidden = (own[task] @ tower.weight[task].T + tower.bias[task]).relu()
        logits.append(hidden @ out.weight[task, 0] + out.bias[task, 0])
    return torch.stack(logits, dim=1)


@pytest.mark.parametrize("levels", [[[6]], [[6], [5]], [[6], [5], [4]]], ids=str)
def test_equals_the_textbook(levels: list[list[int]]) -> None:
    model = contract.build(
        "ple", 2, levels=levels, num_specific=SPECIFIC, num_shared=SHARED, tower_dims=[4]
    ).double()
    embedded = contract.inputs(9, 2, dtype=torch.float64)
    torch.testing.assert_close(model(embedded), textbook(model, embedded.flat()).float())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_specific": 0}, "num_specific is 0"),
        ({"num_shared": 0}, "num_shared is 0"),
        ({"levels": []}, r"levels is \[\]"),
        ({"levels": [64]}, r"levels is \[64\]; it lists the hidden layers"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("ple", **options)
