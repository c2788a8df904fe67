from __future__ import annotations

import pytest
import torch

from recsys.embedding.embedded import History
from recsys.errors import ConfigError
from recsys.models.base import ModelInputs
from recsys.models.mtl.dtrn import TaskInterest
from tests import contract

HEADS = ["mmoe", "ple", "home"]


def events(lengths: list[int], dim: int = 4) -> History:
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    values = torch.randn(int(offsets[-1]), dim, dtype=torch.float64)
    return History(values, offsets, max(*lengths, 1))


def test_interest_equals_its_formula_row_by_row() -> None:
    torch.manual_seed(0)
    layer = TaskInterest(4, condition_dim=6, hyper_dim=5).double()
    layer.hyper[2].weight.data.normal_()
    layer.hyper[2].bias.data.normal_()
    history = events([3, 0, 1, 5])
    target, condition = torch.randn(4, 4).double(), torch.randn(3, 6).double()
    found = layer(history, target, condition)
    gamma, delta = layer.hyper(condition).chunk(2, dim=1)
    for row in range(4):
        x = history.values[history.offsets[row] : history.offsets[row + 1]]
        if not len(x):
            assert not found[row].any()
            continue
        q, k, v = layer.projections(x).chunk(3, dim=1)
        attended = ((q @ k.T) / 2).softmax(dim=1) @ v
        n = torch.nn.functional.layer_norm(x + layer.output(attended), (4,))
        for task in range(3):
            own = n * (1 + gamma[task]) + delta[task]
            weights = ((own @ target[row]) / 2).softmax(dim=0)
            torch.testing.assert_close(found[row, task], weights @ own)


def test_rows_without_events_send_no_nan_back() -> None:
    layer = TaskInterest(4, condition_dim=6, hyper_dim=5).double()
    for lengths in ([0, 2], [0, 0]):
        layer.zero_grad()
        history = events(lengths)
        layer(history, torch.randn(2, 4).double(), torch.randn(3, 6).double()).sum().backward()
        assert all(p.grad is None or torch.isfinite(p.grad).all() for p in layer.parameters())


@pytest.mark.parametrize("head", HEADS)
def test_heads_keep_the_contract(head: str) -> None:
    model = contract.build("dtrn", 2, head=head)
    contract.assert_output(model, contract.inputs(9, 2))
    contract.assert_rows_do_not_mix(model, contract.inputs(17, 2))
    contract.assert_gradient_reaches_everything(model, contract.inputs(64, 2))


def test_field_weights_start_neutral_and_are_explained() -> None:
    model = contract.build("dtrn").eval()
    found = model.explain(contract.inputs(6))
    assert list(found) == [f"gates.{name}" for name in contract.TASKS.names]
    assert all((weights == 1).all() and weights.shape == (6, 5) for weights in found.values())
    torch.nn.init.normal_(model.excite.weight)
    click, like = (model.explain(contract.inputs(6))[f"gates.{n}"] for n in ("click", "like"))
    assert not torch.equal(click, like)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"head": "cgc"}, 'head is "cgc"'),
        ({"head": "home", "expert_dims": [64]}, "needs the width of the meta layer"),
        ({"categories": [["click"]]}, "head=mmoe has no use for"),
        ({"head": "home", "categories": [["click"]]}, "must hold every label exactly once"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        contract.build("dtrn", **options)


def test_needs_a_history() -> None:
    inputs = ModelInputs(
        num_fields=2, embed_dim=4, num_dense=0, slots=("a", "b"), tasks=contract.TASKS
    )
    with pytest.raises(ConfigError, match="DTRN reads histories"):
        contract.make("dtrn", inputs)
