from __future__ import annotations

import pytest
import torch
from torch import nn

from recsys.errors import ConfigError
from recsys.models.mtl.mmoe import MMoE
from tests import contract


def textbook(model: MMoE, x: torch.Tensor) -> torch.Tensor:
    """Ma et al., Eq. 5-7, an expert and a task at a time."""
    head = model.head
    first, second = head.experts[0], head.experts[2]
    logits = []
    experts = []
    for expert in range(len(head.experts.names)):
        hidden = (x @ first.weight[expert].T + first.bias[expert]).relu()
        experts.append((hidden @ second.weight[expert].T + second.bias[expert]).relu())
    for task in range(len(contract.TASKS)):
        gate = (x @ head.gates.logits.weight[task].T).softmax(dim=1)
        mixed = sum(gate[:, e, None] * experts[e] for e in range(len(experts)))
        tower, out = head.towers.hidden[0], head.towers.output
        hidden = (mixed @ tower.weight[task].T + tower.bias[task]).relu()
        logits.append(hidden @ out.weight[task, 0] + out.bias[task, 0])
    return torch.stack(logits, dim=1)


def test_equals_the_textbook() -> None:
    model = contract.build("mmoe", 2, num_experts=3, expert_dims=[6, 5], tower_dims=[4]).double()
    embedded = contract.inputs(9, 2, dtype=torch.float64)
    torch.testing.assert_close(model(embedded), textbook(model, embedded.flat()).float())


@pytest.mark.parametrize(
    "options",
    [{"activation": "silu", "batch_norm": True}, {"dropout": 0.2, "gate_dropout": 0.1}],
    ids=str,
)
def test_variants_keep_the_contract(options: dict[str, object]) -> None:
    model = contract.build("mmoe", 2, **options)
    contract.assert_output(model, contract.inputs(9, 2))
    contract.assert_rows_do_not_mix(model, contract.inputs(17, 2))
    assert any(isinstance(m, nn.BatchNorm1d) for m in model.modules()) == ("batch_norm" in options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_experts": 0}, "num_experts is 0; it must be at least 1"),
        ({"gate_dropout": 1.0}, "gate_dropout is 1.0"),
        ({"expert_dims": []}, "hidden_dims is"),
        ({"activation": "swish"}, '"swish" is not an activation'),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("mmoe", **options)
