from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from recsys.data.batch import Batch
from recsys.models.expert_health import ExpertHealth, GateHealth, examine_experts, summary
from recsys.models.mtl.mmoe import MMoE
from tests import contract


class Plain(nn.Module):
    """A recommender whose lookup hands over what the batch holds."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> torch.Tensor:
        embedded = contract.inputs(len(batch))
        return self.model(embedded)


def loss(logits: torch.Tensor, batch: Batch) -> torch.Tensor:
    return (logits - batch.label).square().sum()


def batches(rows: int = 64) -> list[Batch]:
    empty = torch.zeros(rows, 0)
    return [Batch(empty.long(), empty, torch.ones(rows, 4))]


def build(**options: object) -> MMoE:
    return contract.build("mmoe", num_experts=3, expert_dims=[16], **options)


def test_a_dead_expert_is_seen_dead() -> None:
    model = build()
    with torch.no_grad():
        model.head.experts[0].bias[1] = -100.0  # ReLU lets nothing through
    (health,), _ = examine_experts(Plain(model), batches(), loss)
    assert health.block == "head.experts"
    assert health.names == ("shared.0", "shared.1", "shared.2")
    assert health.zero_share[1] == 1.0
    assert health.gradient_norm[1] == 0.0
    assert (health.zero_share[[0, 2]] < 0.9).all()
    assert (health.gradient_norm[[0, 2]] > 0).all()
    assert summary([health], [])["zero_share_max"] == 1.0
    assert summary([health], [])["gradient_share_min"] == 0.0


def test_normalised_swish_experts_are_alive() -> None:
    model = build(activation="silu", batch_norm=True)
    for _ in range(30):  # running statistics
        model(contract.inputs(64))
    (health,), _ = examine_experts(Plain(model), batches(), loss)
    assert (health.zero_share < 0.1).all()


def test_gradients_are_those_of_the_loss_and_nothing_changes() -> None:
    model = build().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    (health,), (gates,) = examine_experts(Plain(model), batches() * 2, loss)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    (loss(model.eval()(contract.inputs(64)), batches()[0]) / 64).backward()
    gradient = model.head.experts.first_layer().weight.grad
    assert gradient is not None
    norms = gradient.flatten(1).norm(dim=1)
    np.testing.assert_allclose(health.gradient_norm, norms.numpy(), rtol=1e-5)
    weights = model.head.gates(contract.inputs(64).flat()).mean(dim=0)
    np.testing.assert_allclose(gates.weight, weights.detach().numpy(), rtol=1e-5)
    assert gates.readers == contract.TASKS.names


def test_models_without_experts_have_nothing_to_examine() -> None:
    assert examine_experts(Plain(contract.build("sharedbottom")), batches(), loss) == ([], [])
    assert summary([], []) == {}


def test_summary_names_the_worst() -> None:
    health = ExpertHealth("e", ("a", "b"), np.array([0.1, 0.3]), np.array([1.0, 3.0]))
    mask = np.array([[True, True, False], [False, True, True]])
    weight = np.array([[0.9, 0.1, 0.0], [0.0, 0.7, 0.3]])
    found = summary([health], [GateHealth("g", ("x", "y"), ("a", "b", "c"), weight, mask)])
    assert found["zero_share_max"] == 0.3
    assert found["gradient_share_min"] == 0.5
    assert found["gate_weight_min"] == pytest.approx(0.2)
    assert found["gate_owned_max"] == pytest.approx(0.875)  # b: 0.7 of 0.8
