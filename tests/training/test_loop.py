"""The loop: exact continuation, blocks equal whole batches, early stopping, bad numbers."""

import math
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from recsys.data.loader import Loader
from recsys.data.options import DataOptions
from recsys.data.prepare import Prepared, prepare
from recsys.data.raw import RandomSplit, RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Field, Schema
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.row_counts import count_rows
from recsys.errors import CheckpointError, ConfigError, NonFiniteError
from recsys.models.recommender import Recommender
from recsys.models.saved import ModelSpec
from recsys.training.checkpoint import Checkpoints
from recsys.training.loop import Trainer
from recsys.training.optimizers import OptimizerOptions, Optimizers
from recsys.training.options import TrainerOptions
from recsys.training.progress import EvaluationRecord, StepRecord
from recsys.training.signals import Interrupted

CPU = torch.device("cpu")
ROWS = 3000


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return make_data(tmp_path_factory.mktemp("prepared"))


def make_data(folder: Path) -> Prepared:
    """A few thousand rows with a category, a number and a history that matter."""
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 30, ROWS), rng.integers(0, 40, ROWS)
    price = rng.normal(size=ROWS)
    past = [rng.integers(0, 40, rng.integers(0, 5)).tolist() for _ in range(ROWS)]
    logit = rng.normal(size=30)[user] + rng.normal(size=40)[item] + 0.5 * price
    click = (rng.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    frame = pl.DataFrame(
        {"user": user, "item": item, "price": price, "past": past, "click": click},
        schema_overrides={"past": pl.List(pl.Int64)},
    )
    vocabulary: dict[str, Any] = {"encoding": "vocabulary", "dtype": "int"}
    schema = Schema(
        fields=(
            Field(name="user", kind="categorical", **vocabulary),
            Field(name="item", kind="categorical", **vocabulary),
            Field(name="price", kind="numeric", encoding="standard", dtype="float"),
            Field(name="past", kind="history", shares="item", max_length=5, **vocabulary),
        ),
        labels=("click",),
    )
    raw = RawDataset(
        "tiny", {"all": Source.from_frame(frame)}, schema, RandomSplit((0.8, 0.1, 0.1), 0)
    )
    return prepare(raw, DataOptions(), folder)


class Recorder:
    """Keeps every record."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.evaluations: list[EvaluationRecord] = []

    def step(self, record: StepRecord) -> None:
        self.steps.append(record)

    def evaluation(self, record: EvaluationRecord) -> None:
        self.evaluations.append(record)


def make_trainer(
    data: Prepared,
    folder: Path | None = None,
    *,
    model: str = "mlp.MLP",
    arguments: dict[str, Any] | None = None,
    optimizer: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[Trainer, Loader, Loader, Recorder]:
    torch.manual_seed(0)
    if arguments is None:
        arguments = {"hidden_dims": [16], "dropout": 0.2} if model == "mlp.MLP" else {}
    spec = ModelSpec("ctr", f"recsys.models.ctr.{model}", arguments)
    chosen = OptimizerOptions(**(optimizer or {"name": "adam", "lr": 0.01}))
    settings = {"batch_size": 256, "epochs": 3, "log_every": 1, "patience": 0, **options}
    trainer_options = TrainerOptions(**settings)
    recommender = Recommender.build(
        data.pipeline.schema,
        EmbeddingOptions(dim=4, init_std=0.1),
        spec.make,
        chosen.storage_factory(CPU),
        spec.pools_histories,
        spec.needs_fields,
    )
    counts = None
    if chosen.embedding_mba:
        counts = count_rows(data.train, recommender.lookup.layout)
    recorder = Recorder()
    trainer = Trainer(
        recommender,
        Optimizers(recommender.lookup, recommender.model, chosen, counts),
        trainer_options,
        None if folder is None else Checkpoints(folder, keep_last=100),
        (recorder,),
    )
    train = Loader(data.train, settings["batch_size"], shuffle=True, seed=5)
    assert data.val is not None
    return trainer, train, Loader(data.val, 512, shuffle=False), recorder


def losses(trainer: Trainer) -> list[tuple[int, float]]:
    return trainer.curve.steps


OPTIMIZERS = {
    "adam": {"name": "adam", "lr": 0.01, "embedding_l2": 1e-3},
    "lazy_adam": {"name": "lazy_adam", "lr": 0.01},
    "rowwise_adagrad": {"name": "rowwise_adagrad", "lr": 0.01, "embedding_lr": 0.1},
    "mba": {"name": "lazy_adam", "lr": 0.01, "embedding_mba": 1.0},
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("step", [4, 10, 17])
def test_a_continued_run_has_the_losses_of_an_uninterrupted_one(
    data: Prepared, tmp_path: Path, optimizer: str, step: int
) -> None:
    """Mid-epoch, at the end of an epoch, and after a validation; dropout draws included."""
    keys: dict[str, Any] = {"optimizer": OPTIMIZERS[optimizer], "checkpoint_every": 1}
    whole, train, val, _ = make_trainer(data, tmp_path / "whole", **keys)
    whole.fit(train, val)
    again, train, val, _ = make_trainer(data, tmp_path / "again", **keys)
    torch.manual_seed(99)  # whatever the process drew before must not matter
    again.load(Checkpoints(tmp_path / "whole").load(step), train)
    again.fit(train, val)
    assert losses(again) == losses(whole)
    assert again.curve.evaluations == whole.curve.evaluations
    for name, tensor in whole.recommender.tensors().items():
        assert torch.equal(again.recommender.tensors()[name], tensor), name


def test_sigterm_saves_the_finished_step_and_the_run_continues_exactly(
    data: Prepared, tmp_path: Path
) -> None:
    whole, train, val, _ = make_trainer(data, tmp_path / "whole")
    whole.fit(train, val)

    class Killer(Recorder):
        def step(self, record: StepRecord) -> None:
            if record.step == 7:
                os.kill(os.getpid(), signal.SIGTERM)

    stopped, train, val, _ = make_trainer(data, tmp_path / "run")
    stopped.observers = (Killer(),)
    with pytest.raises(Interrupted, match="step 7"):
        stopped.fit(train, val)
    again, train, val, _ = make_trainer(data, tmp_path / "run")
    again.load(Checkpoints(tmp_path / "run").load(), train)
    assert again.global_step == 7
    again.fit(train, val)
    assert losses(again) == losses(whole)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_blocks_of_rows_train_as_whole_batches_do(data: Prepared, optimizer: str) -> None:
    curves = []
    for block in (None, 100):
        trainer, train, val, _ = make_trainer(
            data,
            model="autoint.AutoInt",
            arguments={"attention_dim": 8, "num_layers": 2, "wide": True},
            optimizer=OPTIMIZERS[optimizer],
            block_rows=block,
            epochs=1,
        )
        trainer.fit(train, val)
        curves.append([loss for _, loss in losses(trainer)])
    np.testing.assert_allclose(curves[0], curves[1], rtol=2e-4)


def test_blocks_are_refused_where_rows_depend_on_each_other(data: Prepared) -> None:
    with pytest.raises(ConfigError, match=r"trainer\.block_rows=64, but MLP"):
        make_trainer(data, block_rows=64)


def test_training_learns_and_early_stopping_restores_the_best(
    data: Prepared, tmp_path: Path
) -> None:
    trainer, train, val, recorder = make_trainer(
        data, tmp_path, epochs=40, patience=2, optimizer={"name": "adam", "lr": 0.03}
    )
    trainer.fit(train, val)
    values = [record.metrics["auc"] for record in recorder.evaluations]
    assert len(values) < 40
    assert trainer.evaluate(val).compute()["auc"] == max(values)
    assert max(values) > 0.7
    assert [record.improved for record in recorder.evaluations[-2:]] == [False, False]
    assert recorder.evaluations[-1].scale == pytest.approx(
        0.1 ** sum(not r.improved for r in recorder.evaluations), rel=0.5
    )


def test_max_steps_and_eval_every(data: Prepared) -> None:
    trainer, train, val, recorder = make_trainer(data, max_steps=13, eval_every=5)
    trainer.fit(train, val)
    assert trainer.global_step == 13
    assert [record.step for record in recorder.evaluations] == [5, 10, 13]
    assert [record.step for record in recorder.steps] == list(range(1, 14))


def test_a_loss_that_is_not_a_number_names_step_rows_and_remedy(
    data: Prepared, tmp_path: Path
) -> None:
    trainer, train, val, _ = make_trainer(
        data, tmp_path, optimizer={"name": "adam", "lr": 1e30}, clip_norm=None
    )
    with pytest.raises(NonFiniteError, match=r"at step \d+ \(lr 1e\+30\).*rows.*optimizer\.lr"):
        trainer.fit(train, val)
    for step in Checkpoints(tmp_path).steps():
        for tensor in Checkpoints(tmp_path).load(step).tensors["weights"].values():
            assert tensor.isfinite().all()


def test_a_checkpoint_of_another_schema_shows_the_difference(
    data: Prepared, tmp_path: Path
) -> None:
    trainer, train, val, _ = make_trainer(data, tmp_path, max_steps=2)
    trainer.fit(train, val)
    checkpoint = Checkpoints(tmp_path).load()
    checkpoint.state["schema"]["fields"][0]["size"] = 7
    with pytest.raises(CheckpointError, match=r'- .*"user".*"size": 7(.|\n)*\+ .*"user"'):
        trainer.load(checkpoint, train)


def test_a_checkpoint_of_another_model_or_optimizer_is_refused(
    data: Prepared, tmp_path: Path
) -> None:
    trainer, train, val, _ = make_trainer(data, tmp_path, max_steps=2)
    trainer.fit(train, val)
    checkpoint = Checkpoints(tmp_path).load()
    other, train, _, _ = make_trainer(data, model="autoint.AutoInt")
    with pytest.raises(CheckpointError, match="do not fit this model"):
        other.load(checkpoint, train)
    other, train, _, _ = make_trainer(data, optimizer=OPTIMIZERS["lazy_adam"])
    with pytest.raises(CheckpointError, match="optimiser state"):
        other.load(checkpoint, train)


def test_gradient_clipping_reports_the_norm_before_and_bounds_it_after(data: Prepared) -> None:
    trainer, train, _, _ = make_trainer(data, clip_norm=1e-3)
    batch = next(iter(train))
    trainer.train_step(batch)
    gradients = [p.grad for p in trainer.recommender.parameters() if p.grad is not None]
    total = math.sqrt(sum(float((g**2).sum()) for g in gradients))
    assert total == pytest.approx(1e-3, rel=1e-2)


def test_options_out_of_range_are_refused() -> None:
    for key, value in (("epochs", 0), ("eval_every", 0), ("batch_size", -1)):
        with pytest.raises(ConfigError, match=f"trainer.{key}={value}"):
            TrainerOptions(**{key: value})
    with pytest.raises(ConfigError, match="float16"):
        TrainerOptions(precision="float16")
