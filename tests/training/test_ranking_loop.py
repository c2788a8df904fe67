"""The loop of graph models: exact continuation, groups of batches, early stopping, bad numbers."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.data.triple_sampler import TripleSampler
from recsys.errors import CheckpointError, ConfigError, NonFiniteError
from recsys.models.cf.bprmf import BPRMF
from recsys.models.cf.lightgcn import LightGCN
from recsys.models.cf.simgcl import SimGCL
from recsys.models.cf.xsimgcl import XSimGCL
from recsys.models.collaborative import EmbeddingModel
from recsys.training.checkpoint import Checkpoints
from recsys.training.progress import EvaluationRecord, StepRecord
from recsys.training.ranking_loop import RankingOptions, RankingTrainer
from recsys.training.signals import Interrupted

STEPS = 30
"""Of three epochs."""


def make_pairs() -> Pairs:
    """600 pairs or so."""
    has = np.random.default_rng(0).random((40, 50)) < 0.3
    return Pairs.of(*has.nonzero(), 40, 50)


class Recorder:
    """Keeps every record; at one step, does something."""

    def __init__(self, step: int = -1, signal_number: int | None = None) -> None:
        self.steps: list[StepRecord] = []
        self.evaluations: list[EvaluationRecord] = []
        self.at, self.signal_number = step, signal_number

    def step(self, record: StepRecord) -> None:
        self.steps.append(record)
        if record.step == self.at and self.signal_number is not None:
            os.kill(os.getpid(), self.signal_number)

    def evaluation(self, record: EvaluationRecord) -> None:
        self.evaluations.append(record)


def make_trainer(
    folder: Path | None = None,
    *,
    kind: type[LightGCN] | type[XSimGCL] = XSimGCL,
    values: list[float] | None = None,
    observer: Recorder | None = None,
    seed: int = 0,
    **options: Any,
) -> RankingTrainer:
    """`values` are what evaluations find, one after the other; else 0.1, 0.2, ..."""
    torch.manual_seed(seed)
    pairs = make_pairs()
    model = kind(pairs, embed_dim=8, num_layers=2)
    settings = RankingOptions(
        **{"batch_size": 64, "epochs": 3, "log_every": 1, "patience": 0, **options}
    )
    sampler = TripleSampler(pairs, model.sampling, settings.rows_per_step, seed=5)
    trainer: RankingTrainer

    def evaluate() -> dict[str, float]:
        done = len(trainer.curve.evaluations)
        return {"recall_at_20": 0.1 * (done + 1) if values is None else values[done]}

    trainer = RankingTrainer(
        model,
        torch.optim.Adam(model.parameters(), lr=0.01, fused=True),
        sampler,
        evaluate,
        settings,
        None if folder is None else Checkpoints(folder, keep_last=100),
        () if observer is None else (observer,),
    )
    return trainer


def assert_same(a: RankingTrainer, b: RankingTrainer) -> None:
    assert a.curve.steps == b.curve.steps
    assert a.curve.evaluations == b.curve.evaluations
    weights = b.model.state_dict()
    for name, tensor in a.model.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


def test_same_seed_same_bits_and_another_seed_others() -> None:
    trainers = []
    for seed in (0, 0, 1):
        trainers.append(make_trainer(seed=seed))  # draws from torch's generator, as `fit` does
        trainers[-1].fit()
    first, second, other = trainers
    assert_same(first, second)
    assert first.curve.steps != other.curve.steps
    assert len(first.curve.steps) == first.global_step == STEPS
    assert not first.model.training


@pytest.mark.parametrize("step", [4, 10, 17])
def test_a_continued_run_equals_an_uninterrupted_one(tmp_path: Path, step: int) -> None:
    """Mid-epoch, at the end of an epoch, and after an evaluation; noise draws included."""
    whole = make_trainer(tmp_path / "whole", checkpoint_every=1, decay_epochs=4)
    whole.fit()
    again = make_trainer(tmp_path / "again", seed=9, decay_epochs=4)
    again.load(Checkpoints(tmp_path / "whole").load(step))
    again.fit()
    assert_same(again, whole)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("step", [7, 20])
def test_a_run_stopped_by_a_signal_continues_exactly(
    tmp_path: Path, number: signal.Signals, step: int
) -> None:
    whole = make_trainer()
    whole.fit()
    stopped = make_trainer(tmp_path, observer=Recorder(step, number))
    with pytest.raises(Interrupted, match=f"step {step}"):
        stopped.fit()
    again = make_trainer(tmp_path, seed=9)
    again.load(Checkpoints(tmp_path).load())
    again.fit()
    assert_same(again, whole)


@pytest.mark.parametrize("saved", [True, False])
def test_the_best_weights_are_restored_and_patience_stops(tmp_path: Path, saved: bool) -> None:
    values = [0.1, 0.3, 0.2, 0.2, 0.9]
    trainer = make_trainer(
        tmp_path if saved else None, values=values, patience=2, epochs=9, lr_decay=0.5
    )
    trainer.fit()
    assert [e["improved"] for e in trainer.curve.evaluations] == [True, True, False, False]
    assert [e["lr"] for e in trainer.curve.evaluations] == [0.01, 0.01, 0.01, 0.005]
    best = make_trainer(epochs=2)
    best.fit()
    for name, tensor in best.model.state_dict().items():
        assert torch.equal(trainer.model.state_dict()[name], tensor), name


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [10, 20, 30]),
        ({"eval_every": 2}, [20, 30]),
        ({"eval_every": 12, "eval_unit": "steps"}, [12, 24, 30]),
        ({"max_steps": 13}, [10, 13]),
    ],
    ids=str,
)
def test_when_evaluations_happen(options: dict[str, Any], expected: list[int]) -> None:
    recorder = Recorder()
    trainer = make_trainer(observer=recorder, **options)
    trainer.fit()
    assert [record.step for record in recorder.evaluations] == expected
    assert recorder.steps[-1].step == trainer.global_step == expected[-1]


@pytest.mark.parametrize("kind", [BPRMF, LightGCN, SimGCL, XSimGCL])
def test_two_planted_blocks_are_learnt(
    kind: type[BPRMF] | type[LightGCN] | type[SimGCL] | type[XSimGCL],
) -> None:
    """Users like items of their own half: of those they do not have, it ranks higher."""
    rng = np.random.default_rng(3)
    own = (np.arange(120)[:, None] < 60) == (np.arange(100)[None, :] < 50)
    pairs = Pairs.of(*((rng.random((120, 100)) < 0.2) & own).nonzero(), 120, 100)
    torch.manual_seed(0)
    model = kind(pairs, embed_dim=8)
    if isinstance(model, SimGCL | XSimGCL):
        # Two blocks are all there is: pushing their members apart is pushing the answer away.
        model.contrast *= 0.02
    options = RankingOptions(batch_size=128, epochs=6)
    sampler = TripleSampler(pairs, model.sampling, 128)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    RankingTrainer(model, optimizer, sampler, None, options).fit()
    scores = model.scores(torch.arange(120)).detach().numpy()
    scores[pairs.users, pairs.items] = -np.inf
    best = np.argsort(-scores, axis=1)[:, :5]
    right = own[np.arange(120)[:, None], best].mean()
    assert right > 0.95, right


def gradients_of(model: EmbeddingModel, batches: list[Any]) -> list[Tensor]:
    model.zero_grad()
    for batch in batches:
        torch.stack(list(model.losses(batch).values())).sum().backward()
    return [p.grad.double().clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("group", [2, 5])
def test_the_gradient_of_a_group_is_the_sum_of_its_batches(group: int) -> None:
    """At the same weights, and up to the factor: the group's loss is the mean."""
    pairs = make_pairs()
    torch.manual_seed(0)
    model = LightGCN(pairs, embed_dim=8)
    options = RankingOptions(batch_size=32, steps_per_propagation=group)
    small = list(TripleSampler(pairs, model.sampling, 32, seed=1))[:group]
    large = next(iter(TripleSampler(pairs, model.sampling, options.rows_per_step, seed=1)))
    assert torch.equal(large.users, torch.cat([batch.users for batch in small]))
    summed, grouped = gradients_of(model, small), gradients_of(model, [large])
    for a, b in zip(summed, grouped, strict=True):
        torch.testing.assert_close(a, group * b, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("sqrt", 2.0), ("linear", 4.0)])
def test_the_learning_rate_of_a_group(rule: str, factor: float) -> None:
    trainer = make_trainer(steps_per_propagation=4, batch_size=16, lr_scaling=rule)
    assert trainer.lr == pytest.approx(0.01 * factor)
    assert len(trainer.sampler) == STEPS // 3


def test_the_learning_rate_falls_in_a_line() -> None:
    recorder = Recorder()
    trainer = make_trainer(observer=recorder, decay_epochs=3, values=[0.2, 0.1, 0.1], lr_decay=0.5)
    trainer.fit()
    line = 0.01 * (1 - torch.arange(STEPS).double() / STEPS)
    line[STEPS * 2 // 3 :] *= 0.5  # the second evaluation was no better
    torch.testing.assert_close(torch.tensor([r.lr for r in recorder.steps]).double(), line)


def test_a_loss_that_is_no_number_stops_before_anything_is_saved(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    before = [p.detach().clone() for p in trainer.parameters]
    with torch.no_grad():
        trainer.model.get_parameter("users").fill_(float("inf"))
    with pytest.raises(NonFiniteError, match=r"bpr is nan.* at step 1 "):
        trainer.fit()
    assert not Checkpoints(tmp_path).steps()
    assert torch.equal(trainer.parameters[1], before[1])


def test_gradients_are_clipped() -> None:
    recorder = Recorder()
    trainer = make_trainer(observer=recorder, clip_norm=1e-9, max_steps=1, kind=LightGCN)
    trainer.fit()
    assert recorder.steps[0].grad_norm > 1e-6
    total = sum(float(p.grad.square().sum()) for p in trainer.parameters if p.grad is not None)
    assert total**0.5 == pytest.approx(1e-9, rel=1e-3)


def test_a_checkpoint_of_something_else_is_an_error(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_steps=2)
    trainer.fit()
    checkpoint = Checkpoints(tmp_path).load()
    other = make_trainer(batch_size=32)
    with pytest.raises(CheckpointError, match="batch_size was 64 and is 32"):
        other.load(checkpoint)
    del checkpoint.tensors["optimizer"]["0.exp_avg"], checkpoint.tensors["weights"]["users"]
    with pytest.raises(CheckpointError, match="do not fit this model"):
        make_trainer().load(checkpoint)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "trainer.epochs=0"),
        ({"max_steps": 0}, "trainer.max_steps=0; it must be at least 1, or null"),
        ({"steps_per_propagation": 0}, "steps_per_propagation=0"),
        ({"epochs": 9, "decay_epochs": 8}, "decay_epochs=8 leaves .* the last of trainer.epochs=9"),
        ({"lr_scaling": "root"}, r'lr_scaling="root" does not exist.*sqrt'),
        ({"eval_unit": "step"}, "Did you mean steps"),
        ({"monitor": "recal@20"}, "recal@20"),
    ],
    ids=str,
)
def test_bad_options_are_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RankingOptions(**options).plateau()


def test_a_sampler_of_another_batch_size_is_an_error() -> None:
    trainer = make_trainer()
    with pytest.raises(ConfigError, match=r"draws 64 triples a step.*are 128"):
        RankingTrainer(
            trainer.model, trainer.optimizer, trainer.sampler, None, RankingOptions(batch_size=128)
        )
