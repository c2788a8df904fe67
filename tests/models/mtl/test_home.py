from __future__ import annotations

import pytest
import torch

from recsys.errors import ConfigError
from recsys.layers.experts import mix
from recsys.models.mtl.home import FeatureGate, HoME, partition
from tests import contract

CATEGORIES = [["click", "conversion"], ["like", "follow"]]
OTHER = {0: "category 1", 1: "category 0"}


def build(**options: object) -> HoME:
    return contract.build("home", 2, categories=CATEGORIES, **options)


def test_feature_gates_start_neutral_and_equal_their_formula() -> None:
    torch.manual_seed(0)
    gate = FeatureGate(3, 5, num_loras=2, rank=2).double()
    x = torch.randn(4, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(gate(x), x)
    gate.up.weight.data.normal_()
    for s in range(3):
        choice = (x[:, s] @ gate.choice.weight[s].T).softmax(dim=1)
        factors = 0
        for lora in range(2):
            number = 2 * s + lora
            low = x[:, s] @ gate.down.weight[number].T @ gate.up.weight[number].T
            factors = factors + choice[:, lora, None] * 2 * low.sigmoid()
        torch.testing.assert_close(gate(x)[:, s], x[:, s] * factors)


def test_equals_the_layers_as_loops() -> None:
    model = build(num_shared=2, num_category=1, num_task=2, meta_dims=[6], task_dims=[5]).double()
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    model.eval()
    head = model.head
    x = contract.inputs(9, 2, dtype=torch.float64).flat()

    def experts_of(block, inputs, counts):
        linear, norm = block[0], block[1]
        outputs, number = [], 0
        for value, count in zip(inputs, counts, strict=True):
            for _ in range(count):
                unit = value @ linear.weight[number].T + linear.bias[number]
                width = unit.shape[1]
                part = slice(number * width, (number + 1) * width)
                unit = (unit - norm.running_mean[part]) / (norm.running_var[part] + 1e-3).sqrt()
                unit = unit * norm.weight[part] + norm.bias[part]
                outputs.append(unit * unit.sigmoid())
                number += 1
        return outputs

    def gate_of(gates, reader, value, seen):
        logits = value @ gates.logits.weight[reader][seen].T
        if len(seen) == 1 and gates.has_alone:
            return logits.sigmoid()
        return logits.softmax(dim=1)

    def mixture(weights, outputs, seen):
        return sum(weights[:, i, None] * outputs[e] for i, e in enumerate(seen))

    v = head.meta_features(x).unbind(1)  # shared, category 0, category 1
    meta = experts_of(head.meta_experts, v, [2, 1, 1])
    seen, own = [[0, 1, 2, 3], [0, 1, 2], [0, 1, 3]], [[0, 1], [2], [3]]
    z = [
        mixture(gate_of(head.meta_gates, r, v[r], seen[r]), meta, seen[r])
        + mixture(gate_of(head.meta_self_gates, r, v[r], own[r]), meta, own[r])
        for r in range(3)
    ]
    sources = [z[0], z[1], z[2], z[1], z[1], z[2], z[2]]
    gated = head.task_features(torch.stack(sources, dim=1)).unbind(1)
    outputs = experts_of(head.task_experts, gated, [2, 1, 1, 2, 2, 2, 2])
    mixed = []
    for task in range(4):
        category = 1 if task < 2 else 2
        mine = [4 + 2 * task, 5 + 2 * task]
        seen = [0, 1, 1 + category, *mine]
        both = torch.cat([z[category], z[0]], dim=1)
        mixed.append(
            mixture(gate_of(head.task_gates, task, both, seen), outputs, seen)
            + mixture(gate_of(head.task_self_gates, task, gated[3 + task], mine), outputs, mine)
        )
    torch.testing.assert_close(head(x), head.towers(torch.stack(mixed, dim=1)))


def test_a_task_never_sees_another_category_or_task() -> None:
    model = build().eval()
    head = model.head
    names = head.task_experts.names
    for task, name in enumerate(contract.TASKS.names):
        category = 0 if task < 2 else 1
        for expert, seen in zip(names, head.task_gates.mask[task].tolist(), strict=True):
            owner = expert.rpartition(".")[0]
            assert seen == (owner in ("shared", f"category {category}", name))


def test_every_group_gets_gradient_even_when_the_gates_turn_away() -> None:
    """Self gates: with the main gates shut on a group, its experts still learn."""
    model = build(num_task=1)
    head = model.head
    own = [i for i, name in enumerate(head.task_experts.names) if name.startswith("like.")]
    with torch.no_grad():
        head.task_gates.logits.weight.zero_()
        head.task_gates.mask[:, own] = False
    model(contract.inputs(32, 2))[:, 2].sum().backward()
    gradient = head.task_experts.first_layer().weight.grad
    assert gradient is not None
    assert gradient[own].any()


def test_mixing_is_linear_in_the_gates() -> None:
    weights, experts = torch.rand(2, 3, 4), torch.randn(2, 4, 5)
    torch.testing.assert_close(
        mix(weights, experts) + mix(weights, experts), mix(2 * weights, experts)
    )


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        ([["click"]], "conversion 0 times, like 0 times, follow 0 times"),
        ([["click", "conversion", "like", "follow"], ["like"]], "like 2 times"),
        ([["click", "conversion", "like", "folow"]], '"folow", which is no label.*follow'),
        (["click"], "it is a list of lists"),
        ([[]], "it is a list of lists"),
        ("click", "it is a list of lists"),
    ],
)
def test_categories_must_partition_the_tasks(categories: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        partition(categories, contract.TASKS)  # type: ignore[arg-type]


def test_one_category_by_default() -> None:
    assert partition(None, contract.TASKS) == [[0, 1, 2, 3]]


@pytest.mark.parametrize(
    "key", ["num_shared", "num_category", "num_task", "num_loras", "lora_rank"]
)
def test_numbers_must_be_positive(key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is 0"):
        contract.build("home", **{key: 0})
