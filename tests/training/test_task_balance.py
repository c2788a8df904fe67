from __future__ import annotations

import math

import pytest
import torch

from recsys.errors import ConfigError
from recsys.training.task_balance import TaskBalance, TaskOptions

NAMES = ("click", "like", "follow")


def test_fixed_weights() -> None:
    balance = TaskBalance(NAMES, TaskOptions(weights={"like": 2.0, "follow": 0.0}))
    assert balance(torch.tensor([1.0, 10.0, 100.0]), share=1.0).item() == 21.0
    assert not list(balance.parameters())


def test_uncertainty_finds_the_weights_that_its_formula_has() -> None:
    balance = TaskBalance(NAMES, TaskOptions(balance="uncertainty"))
    losses = torch.tensor([0.5, 0.1, 2.0])
    optimizer = torch.optim.Adam(balance.parameters(), lr=0.05)
    for _ in range(2000):
        optimizer.zero_grad()
        # Two parts of a batch: what does not depend on rows must count once.
        (balance(losses / 4, share=0.25) + balance(losses * 3 / 4, share=0.75)).backward()
        optimizer.step()
    torch.testing.assert_close(balance.current().detach(), 1 / (2 * losses), rtol=1e-3, atol=0)


def test_dwa_follows_the_pace_of_the_epochs() -> None:
    balance = TaskBalance(NAMES, TaskOptions(balance="dwa", weights={"follow": 3.0}))
    epochs = [[1.0, 1.0, 1.0], [0.5, 1.0, 0.8]]
    for losses in epochs:
        assert balance.current().tolist() == [1.0, 1.0, 3.0]
        for step in (0.9, 1.1):
            balance.stepped(torch.tensor(losses) * step)
        balance.epoch_done()
    e = [math.exp(r / 2) for r in (0.5, 1.0, 0.8)]
    expected = [3 * one / sum(e) for one in e]
    expected[2] *= 3
    assert balance.current().tolist() == pytest.approx(expected, rel=1e-6)


def test_state_continues_in_the_middle_of_an_epoch() -> None:
    one, other = (TaskBalance(NAMES, TaskOptions(balance="dwa")) for _ in range(2))
    for balance in (one, other):
        for value in (3.0, 2.0, 1.0):
            balance.stepped(torch.tensor([value, 1.0, value**2]))
            if value == 2.0 and balance is other:
                fresh = TaskBalance(NAMES, TaskOptions(balance="dwa"))
                fresh.load_state_dict(other.state_dict())
                other = fresh
                balance = fresh
            balance.epoch_done()
    assert torch.equal(one.current(), other.current())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"balance": "dwaa"}, 'tasks.balance="dwaa" does not exist.*dwa'),
        ({"weights": {"click": -1.0}}, "tasks.weights.click=-1.0; it must be a number >= 0"),
        ({"weights": {"clik": 1.0}}, "tasks.weights.clik is of no label.*click"),
        ({"weights": dict.fromkeys(NAMES, 0.0)}, "leave no label to learn"),
    ],
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TaskBalance(NAMES, TaskOptions(**options))  # type: ignore[arg-type]
