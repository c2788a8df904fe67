"""Batch norm's statistics anew: those of the weights as they are, and nothing else moves."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recsys.data.prepare import Prepared
from recsys.training.batch_statistics import renew_batch_statistics
from tests.training.test_loop import make_data, make_trainer

NORMED: dict[str, dict[str, Any]] = {
    "mlp.MLP": {"hidden_dims": [16, 8], "dropout": 0.3, "batch_norm": True},
    "din.DIN": {"hidden_dims": [8], "activation": "dice"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_data(tmp_path_factory.mktemp("prepared"))


def test_statistics_are_the_mean_over_the_batches(data: Prepared) -> None:
    trainer, train, _, _ = make_trainer(data, arguments={**NORMED["mlp.MLP"], "dropout": 0.0})
    batches = list(train)[:5]
    for batch in batches:
        trainer.train_step(batch)
    recommender = trainer.recommender
    first = next(m for m in recommender.modules() if isinstance(m, nn.BatchNorm1d))
    linear = next(m for m in recommender.model.modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        units = [linear(trainer.lookup(batch).flat()).double() for batch in batches]
    mean = torch.stack([unit.mean(0) for unit in units]).mean(0)
    variance = torch.stack([unit.var(0) for unit in units]).mean(0)
    weights = [p.detach().clone() for p in recommender.parameters()]
    renew_batch_statistics(recommender, batches)
    assert first.running_mean is not None
    assert first.running_var is not None
    torch.testing.assert_close(first.running_mean.double(), mean, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(first.running_var.double(), variance, rtol=1e-4, atol=1e-6)
    assert first.momentum == 0.1
    for before, after in zip(weights, recommender.parameters(), strict=True):
        assert torch.equal(before, after)


@pytest.mark.parametrize("model", list(NORMED))
def test_training_is_the_same_and_validation_is_not(model: str, data: Prepared) -> None:
    weights: dict[int, list[Tensor]] = {}
    losses = {}
    for count in (0, 3):
        trainer, train, val, recorder = make_trainer(
            data, model=model, arguments=NORMED[model], epochs=2, norm_batches=count, lr_decay=1.0
        )
        trainer.fit(train, val)  # without checkpoints, so that the last weights stay
        weights[count] = [p.detach().clone() for p in trainer.recommender.parameters()]
        losses[count] = [one.metrics["logloss"] for one in recorder.evaluations]
    for without, renewed in zip(weights[0], weights[3], strict=True):
        assert torch.equal(without, renewed)
    assert losses[0] != losses[3]


def test_a_model_without_batch_norm_is_left_alone(data: Prepared) -> None:
    arguments = {"hidden_dims": [16], "batch_norm": False}
    trainer, _, _, _ = make_trainer(data, arguments=arguments)
    state = torch.get_rng_state()

    def refuse() -> Any:
        raise AssertionError("a batch was read")
        yield

    renew_batch_statistics(trainer.recommender, refuse())
    assert torch.equal(torch.get_rng_state(), state)


def test_a_last_batch_of_one_row_is_normalised_by_the_running_statistics(data: Prepared) -> None:
    rows = data.train.num_rows
    trainer, train, _, _ = make_trainer(
        data, arguments=NORMED["mlp.MLP"], batch_size=rows - 1, epochs=2
    )
    assert len(list(train)[-1]) == 1
    norm = next(m for m in trainer.recommender.modules() if isinstance(m, nn.BatchNorm1d))
    trainer.fit(train, None)
    assert trainer.global_step == 4
    assert norm.training
    assert int(norm.num_batches_tracked or 0) == 2  # the two whole batches alone
    assert all(torch.isfinite(p).all() for p in trainer.recommender.parameters())
