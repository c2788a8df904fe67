from __future__ import annotations

import pytest
import torch

from recsys.layers.experts import Experts, Gates, Towers, expert_names, mix, visible

GROUPS = [("shared", 2), ("a", 1), ("b", 3)]


def test_masks_say_who_sees_whom() -> None:
    assert expert_names(GROUPS) == ("shared.0", "shared.1", "a.0", "b.0", "b.1", "b.2")
    mask = visible(GROUPS, [["a"], ["shared", "b"]])
    assert mask.tolist() == [[False] * 2 + [True] + [False] * 3, [True, True, False] + [True] * 3]


def test_gates_are_a_softmax_over_what_is_seen() -> None:
    torch.manual_seed(0)
    mask = visible(GROUPS, [["shared", "a"], ["shared", "b"]])
    gates = Gates(("a", "b"), expert_names(GROUPS), 4, mask).double()
    x = torch.randn(5, 2, 4, dtype=torch.float64)
    weights = gates(x)
    for reader in range(2):
        logits = x[:, reader] @ gates.logits.weight[reader].T
        seen = mask[reader]
        torch.testing.assert_close(weights[:, reader, seen], logits[:, seen].softmax(dim=1))
        assert not weights[:, reader, ~seen].any()


def test_a_reader_of_one_expert() -> None:
    mask = visible(GROUPS, [["a"], ["b"]])
    x = torch.randn(5, 4)
    torch.manual_seed(0)
    plain = Gates(("a", "b"), expert_names(GROUPS), 4, mask)
    sigmoid = Gates(("a", "b"), expert_names(GROUPS), 4, mask, sigmoid_alone=True)
    sigmoid.load_state_dict(plain.state_dict())
    assert (plain(x)[:, 0, 2] == 1).all()
    logit = x @ plain.logits.weight[0, 2]
    torch.testing.assert_close(sigmoid(x)[:, 0, 2], logit.sigmoid())
    torch.testing.assert_close(sigmoid(x)[:, 1], plain(x)[:, 1])  # three experts: softmax
    assert not sigmoid(x)[:, 0, [0, 1, 3, 4, 5]].any()


def test_dropped_weights_are_made_up_for() -> None:
    torch.manual_seed(0)
    gates = Gates(("a",), expert_names([("e", 4)]), 3, torch.ones(1, 4).bool(), dropout=0.5)
    x = torch.randn(20_000, 3)
    kept = gates(x)
    whole = gates.eval()(x)
    assert ((kept == 0).float().mean() - 0.5).abs() < 0.02
    torch.testing.assert_close(kept[kept > 0], 2 * whole[kept > 0])


@pytest.mark.parametrize(
    "mask", [torch.zeros(1, 2).bool(), torch.ones(2, 2).bool(), torch.ones(1, 3).bool()]
)
def test_impossible_masks(mask: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="the mask is"):
        Gates(("a",), ("e", "f"), 3, mask)


def test_mixtures_and_towers_equal_loops() -> None:
    torch.manual_seed(0)
    experts = Experts(expert_names(GROUPS), 4, [5]).double()
    gates = Gates(("a", "b"), experts.names, 4, visible(GROUPS, [["a"], ["b"]])).double()
    towers = Towers(2, 5, [3], activation="tanh").double()
    x = torch.randn(7, 4, dtype=torch.float64)
    hidden, weights = experts(x), gates(x)
    slow = torch.stack(
        [sum(weights[:, r, g, None] * hidden[:, g] for g in range(6)) for r in range(2)], dim=1
    )
    mixed = mix(weights, hidden)
    torch.testing.assert_close(mixed, slow)
    assert towers.hidden is not None
    first, last = towers.hidden[0], towers.output
    for task in range(2):
        unit = (mixed[:, task] @ first.weight[task].T + first.bias[task]).tanh()
        logit = unit @ last.weight[task, 0] + last.bias[task, 0]
        torch.testing.assert_close(towers(mixed)[:, task], logit.float())
