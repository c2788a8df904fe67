"""OptFS: the schedule, the rewinding, what is kept, exact continuation, and the saved table."""

import math
import os
import signal
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch
from torch import Tensor

from recsys.data.loader import Loader
from recsys.data.options import DataOptions
from recsys.data.prepare import Prepared, prepare
from recsys.data.raw import RandomSplit, RawDataset
from recsys.data.readers import Source
from recsys.data.schema import Field, Schema
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.row_counts import count_rows
from recsys.errors import CheckpointError, ConfigError
from recsys.models.recommender import Recommender
from recsys.models.saved import ModelSpec, SavedModel
from recsys.training.checkpoint import Checkpoints
from recsys.training.optfs import GateOptions, OptFSTrainer
from recsys.training.optimizers import OptimizerOptions, Optimizers
from recsys.training.options import TrainerOptions
from recsys.training.progress import EvaluationRecord, StepRecord
from recsys.training.signals import Interrupted

ROWS = 4000
NOISE = 150
GATE = {"search_epochs": 3, "rewind_epoch": 1, "final_temperature": 100.0, "gate_l1": 0.1}


@pytest.fixture(scope="module")
def frame() -> pl.DataFrame:
    """Two columns that matter, two of many values that do not, and a list."""
    rng = np.random.default_rng(0)
    left, right = rng.integers(0, 8, ROWS), rng.integers(0, 8, ROWS)
    effect = np.array([-2.0, 2.0, -1.5, 1.5, -2.0, 2.0, -1.5, 1.5])
    click = rng.random(ROWS) < 1 / (1 + np.exp(-effect[left] - effect[right]))
    columns = {
        "left": left,
        "noise": rng.integers(0, NOISE, ROWS),
        "right": right,
        "other_noise": rng.integers(0, NOISE, ROWS),
        "past": [rng.integers(0, 8, rng.integers(0, 4)).tolist() for _ in range(ROWS)],
        "price": rng.normal(size=ROWS),
        "click": click.astype(np.int8),
    }
    return pl.DataFrame(columns, schema_overrides={"past": pl.List(pl.Int64)})


@pytest.fixture(scope="module")
def data(frame: pl.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    coded: dict[str, Any] = {"encoding": "vocabulary", "dtype": "int"}
    schema = Schema(
        fields=(
            Field(name="left", kind="categorical", **coded),
            Field(name="noise", kind="categorical", **coded),
            Field(name="right", kind="categorical", **coded),
            Field(name="other_noise", kind="categorical", **coded),
            Field(name="past", kind="history", shares="left", max_length=4, **coded),
            Field(name="price", kind="numeric", encoding="standard", dtype="float"),
        ),
        labels=("click",),
    )
    raw = RawDataset(
        "planted", {"all": Source.from_frame(frame)}, schema, RandomSplit((0.7, 0.15, 0.15), 0)
    )
    return prepare(raw, DataOptions(), tmp_path_factory.mktemp("prepared"))


class Recorder:
    def __init__(self) -> None:
        self.evaluations: list[EvaluationRecord] = []

    def step(self, record: StepRecord) -> None: ...

    def evaluation(self, record: EvaluationRecord) -> None:
        self.evaluations.append(record)


def make(
    data: Prepared,
    folder: Path | None = None,
    *,
    model: str = "dcnv2.DCNv2",
    arguments: dict[str, Any] | None = None,
    gate: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[OptFSTrainer, Loader, Loader, ModelSpec]:
    torch.manual_seed(0)
    if arguments is None:
        arguments = {"hidden_dims": [16], "dropout": 0.1, "batch_norm": True}
    spec = ModelSpec("ctr", f"recsys.models.ctr.{model}", arguments)
    chosen = OptimizerOptions(lr=0.01)
    recommender = Recommender.build(
        data.pipeline.schema,
        EmbeddingOptions(dim=4, init_std=0.1),
        spec.make,
        chosen.storage_factory(torch.device("cpu")),
        spec.pools_histories,
        spec.needs_fields,
    )
    settings = {"batch_size": 256, "epochs": 2, "log_every": 1, "patience": 0, **options}
    trainer = OptFSTrainer(
        recommender,
        Optimizers(recommender.lookup, recommender.model, chosen),
        TrainerOptions(**settings),
        GateOptions(**(GATE | (gate or {}))),
        count_rows(data.train, recommender.lookup.layout),
        None if folder is None else Checkpoints(folder, keep_last=100),
        (Recorder(),),
    )
    assert data.val is not None
    train = Loader(data.train, settings["batch_size"], shuffle=True, seed=5)
    return trainer, train, Loader(data.val, 512, shuffle=False), spec


def copies(trainer: OptFSTrainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.recommender.tensors().items()}


# -- the schedule ----------------------------------------------------------------------------


@pytest.mark.parametrize(("gamma", "epochs"), [(1000.0, 10), (200.0, 15), (5.0, 2)])
def test_temperature_starts_at_one_and_ends_at_gamma(gamma: float, epochs: int) -> None:
    options = GateOptions(final_temperature=gamma, search_epochs=epochs, rewind_epoch=0)
    path = [options.temperature(epoch) for epoch in range(epochs)]
    assert path[0] == 1.0
    assert path[-1] == pytest.approx(gamma)
    ratios = {round(after / before, 9) for before, after in pairwise(path)}
    assert len(ratios) == 1


def test_the_search_runs_its_epochs_at_those_temperatures(data: Prepared, tmp_path: Path) -> None:
    trainer, train, val, _ = make(data, tmp_path)
    seen: list[tuple[int, float, bool]] = []
    whole_epoch = trainer._run_epoch

    def spy(*arguments: Any) -> None:
        whole_epoch(*arguments)
        seen.append((trainer.epoch, trainer.gates.temperature, trainer.searching))

    trainer._run_epoch = spy  # type: ignore[method-assign]
    trainer.fit(train, val)
    assert [stage for _, _, stage in seen] == [True] * 3 + [False] * 2
    np.testing.assert_allclose([tau for _, tau, _ in seen[:3]], [1.0, 10.0, 100.0])
    assert trainer.epoch == 5
    assert all("kept_share" in one for one in trainer.curve.evaluations)


def test_gates_move_by_an_adam_of_their_own(data: Prepared) -> None:
    """One step against torch's Adam on the loss with its penalty written out."""
    trainer, train, _, _ = make(data, model="lr.LR", arguments={}, gate={"gate_l1": 3.0})
    with torch.no_grad():
        trainer.lookup.storage.table()[1:] += 0.5
    gates, table = trainer.gates, trainer.lookup.storage.table().clone()
    batch = next(iter(train))
    logits = torch.full_like(gates.logits, 0.5, requires_grad=True)
    start = 1 + math.exp(-0.5)
    factor = torch.sigmoid(logits) * start
    rows = trainer.lookup.layout.rows(batch.ids, trainer.lookup.plan.coded)
    past = batch.ragged["past"]
    weights = (factor * table[:, -1])[trainer.lookup.layout.rows_of(past.values, "left")]
    owner = torch.arange(len(batch)).repeat_interleave(past.lengths)
    pooled = torch.zeros(len(batch)).index_add(0, owner, weights) / past.lengths.clamp(min=1)
    numbers = (batch.dense * trainer.lookup.numeric[:, -1].detach()).sum(1)
    logit = (factor * table[:, -1])[rows].sum(1) + pooled + numbers
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logit, batch.label)
    (loss + 3.0 / trainer.num_seen * torch.sigmoid(logits)[1:].sum()).backward()
    assert logits.grad is not None
    before = gates.logits.detach().clone()
    trainer.train_step(batch)
    moved = gates.logits.detach() - before
    expected = -0.01 * logits.grad / (logits.grad.abs() + 1e-8)  # Adam's first step
    torch.testing.assert_close(moved, expected, rtol=1e-3, atol=1e-7)


def test_rewinding_restores_every_tensor_and_forgets_the_optimiser(data: Prepared) -> None:
    """Crosses' biases, batch norm's statistics and numeric vectors too; the gates stay."""
    trainer, train, val, _ = make(data)
    after_first: dict[str, Tensor] = {}
    whole_epoch = trainer._run_epoch

    def spy(*arguments: Any) -> None:
        whole_epoch(*arguments)
        if trainer.epoch == 1:
            after_first.update(copies(trainer))

    trainer._run_epoch = spy  # type: ignore[method-assign]
    trainer._run_stage(train, val, 3 * len(train))
    searched = copies(trainer)
    trainer.begin_retraining()
    gates = [name for name in searched if name.startswith("tables.") and name.endswith(".gate")]
    assert len(gates) == 4
    found = copies(trainer)
    assert found.keys() == searched.keys() == after_first.keys()
    for name, tensor in found.items():
        expected = searched if name in gates else after_first
        assert torch.equal(tensor, expected[name]), name
    changed = [name for name in found if not torch.equal(searched[name], after_first[name])]
    assert {"numeric", "tables.left.weight"} <= set(changed)
    assert any("running_mean" in name for name in changed)
    assert any("bias" in name and "cross" in name for name in changed)
    assert trainer.optimizers.state_tensors() == {}
    assert trainer.start is None
    assert trainer.plateau.best is None


def test_hard_gates_do_not_move(data: Prepared) -> None:
    trainer, train, val, _ = make(data)
    trainer._run_stage(train, val, 3 * len(train))
    trainer.begin_retraining()
    before = trainer.gates.logits.clone()
    trainer.train_step(next(iter(train)))
    assert torch.equal(trainer.gates.logits, before)
    kept = trainer.gates.kept
    assert kept is not None
    assert torch.equal(kept, (before > 0) & trainer.seen)


# -- what is kept ----------------------------------------------------------------------------


def test_noise_loses_its_rows_and_signal_keeps_them(data: Prepared, tmp_path: Path) -> None:
    keys: dict[str, Any] = {"epochs": 8, "patience": 2}
    gate = {"search_epochs": 10, "gate_l1": 0.3, "final_temperature": 200.0}
    trainer, train, val, _ = make(data, tmp_path / "gated", gate=gate, **keys)
    trainer.fit(train, val)
    fields = trainer.report()["fields"]
    for name in ("left", "right"):
        assert fields[name]["kept"] >= 0.85 * fields[name]["seen"], fields
    for name in ("noise", "other_noise"):
        assert fields[name]["kept"] <= 0.15 * fields[name]["seen"], fields
    open_gates = {"gate_l1": 0.0, "search_epochs": 2, "lr": 1e-9}
    full, train, val, _ = make(data, tmp_path / "full", gate=open_gates, **keys)
    full.fit(train, val)
    assert full.report()["kept_share"] == 1.0
    gated_auc, full_auc = (t.evaluate(val).compute()["auc"] for t in (trainer, full))
    assert gated_auc > full_auc  # hundreds of rows of noise only overfit


def test_the_report_counts_rows_that_training_reads(data: Prepared) -> None:
    trainer, *_ = make(data)
    report = trainer.report()
    # 8 values and the code for unseen ones, which no training row has, and missing ones.
    assert report["fields"]["left"] == {"rows": 10, "seen": 8, "kept": 8}
    assert report["rows"] == 20 + 2 * (NOISE + 2)
    assert report["seen_rows"] == 16 + 2 * NOISE == report["kept_rows"]
    assert report["kept_share"] == 1.0


# -- continuation ----------------------------------------------------------------------------


@pytest.mark.parametrize("stop", [7, 12, 24, 36, 43])
def test_sigterm_in_either_stage_and_continuation_give_the_same_run(
    data: Prepared, tmp_path: Path, stop: int
) -> None:
    """In the first epoch, at its end, after the rewinding point, at the last search step (36), and
    while training again; 12 steps an epoch."""
    whole, train, val, _ = make(data, tmp_path / "whole")
    assert len(train) == 12
    whole.fit(train, val)

    class Killer(Recorder):
        def step(self, record: StepRecord) -> None:
            if record.step == stop:
                os.kill(os.getpid(), signal.SIGTERM)

    stopped, train, val, _ = make(data, tmp_path / "run")
    stopped.observers = (Killer(),)
    with pytest.raises(Interrupted, match=f"step {stop}"):
        stopped.fit(train, val)
    again, train, val, _ = make(data, tmp_path / "run")
    torch.manual_seed(99)  # whatever the process drew before must not matter
    again.load(Checkpoints(tmp_path / "run").load(), train)
    assert again.searching == (stop <= 36)
    again.fit(train, val)
    assert again.curve.steps == whole.curve.steps
    assert again.curve.evaluations == whole.curve.evaluations
    assert again.report() == whole.report()
    for name, tensor in copies(whole).items():
        assert torch.equal(again.recommender.tensors()[name], tensor), name


def test_a_checkpoint_without_gates_is_refused(data: Prepared, tmp_path: Path) -> None:
    trainer, train, val, _ = make(data, tmp_path, max_steps=2)
    trainer.fit(train, val)
    assert trainer.global_step == 4  # two steps of each stage
    checkpoint = Checkpoints(tmp_path).load()
    del checkpoint.state["gate_stage"]
    other, train, _, _ = make(data)
    with pytest.raises(CheckpointError, match="without gate=optfs"):
        other.load(checkpoint, train)


# -- the saved table -------------------------------------------------------------------------


@pytest.mark.parametrize("stem", ["dcnv2.DCNv2", "fm.FM", "lr.LR"])
def test_the_saved_model_has_only_the_rows_kept_and_the_same_logits(
    data: Prepared, frame: pl.DataFrame, tmp_path: Path, stem: str
) -> None:
    arguments = {"hidden_dims": [8]} if stem.startswith("dcn") else {}
    gate = {"gate_l1": 1.0, "search_epochs": 6}
    trainer, train, val, spec = make(data, model=stem, arguments=arguments, gate=gate)
    trainer.fit(train, val)
    recommender, report = trainer.recommender, trainer.report()
    assert 0 < report["kept_rows"] < report["seen_rows"]
    gated = SavedModel(recommender, data.pipeline, spec)
    expected = gated.predict_logits(frame)
    recommender.lookup.prune()
    pruned = SavedModel(recommender, data.pipeline, spec)
    np.testing.assert_allclose(pruned.predict_logits(frame), expected, rtol=0, atol=1e-6)
    folder = pruned.save(tmp_path / "model")
    loaded = SavedModel.load(folder)
    np.testing.assert_array_equal(loaded.predict_logits(frame), pruned.predict_logits(frame))
    table = loaded.recommender.lookup.storage.table()
    assert table.shape[0] == report["kept_rows"] + 1
    assert loaded.recommender.lookup.gates is None
    never_seen = frame.head(5).with_columns(noise=pl.lit(10_000))
    assert np.isfinite(loaded.predict_logits(never_seen)).all()


# -- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("gate_l1", -1.0),
        ("final_temperature", 0.5),
        ("search_epochs", 1),
        ("rewind_epoch", 10),
        ("rewind_epoch", -1),
        ("init", 0.0),
        ("lr", 0.0),
        ("name", "optf"),
    ],
)
def test_options_out_of_range_are_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=rf"gate\.{key}="):
        GateOptions(**{key: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("multiplexed", "adam", 1), "embedding=full"),
        (("hashed", "adam", 1), "embedding=full"),
        (("unified", "adam", 1), "embedding=full"),
        (("full", "lazy_adam", 1), "optimizer=adam"),
        (("full", "rowwise_adagrad", 1), "optimizer=adam"),
        (("full", "adam", 2), "without torchrun"),
    ],
)
def test_what_cannot_be_gated_is_refused(arguments: tuple[str, str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GateOptions().check(*arguments)
    GateOptions().check("full", "adam", 1)


def test_data_without_coded_columns_is_refused(data: Prepared) -> None:
    trainer, *_ = make(data)
    with pytest.raises(ConfigError, match="coded columns"):
        OptFSTrainer(
            trainer.recommender,
            trainer.optimizers,
            trainer.options,
            GateOptions(),
            torch.zeros(trainer.lookup.layout.num_rows, dtype=torch.int64),
        )
