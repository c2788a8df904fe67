"""What the processes of the sharding tests run: one alone, then two together.

    python -m tests.training.sharded_jobs <folder of the data> <folder of the results> <rank>

Models are smooth on purpose: behind a kink, a difference of one rounding decides between two paths,
and losses then part for good.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from recsys.data.encode import FeaturePipeline
from recsys.data.loader import Loader
from recsys.data.prepare import Prepared
from recsys.data.store import Store
from recsys.embedding import sharding
from recsys.embedding.lookup import EmbeddingOptions
from recsys.errors import CheckpointError, ConfigError
from recsys.models.recommender import Recommender
from recsys.models.saved import ModelSpec
from recsys.training import table_files
from recsys.training.checkpoint import Checkpoints
from recsys.training.loop import Trainer
from recsys.training.optimizers import OptimizerOptions, Optimizers
from recsys.training.options import TrainerOptions
from recsys.training.ranks import Ranks

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
STEPS, HALF, BATCH = 50, 25, 251
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "mlp": ("mlp.MLP", {"hidden_dims": [16], "activation": "gelu", "batch_norm": False}),
    "din": (
        "din.DIN",
        {"hidden_dims": [16], "attention_dims": [8], "activation": "gelu",
         "attention_activation": "gelu"},
    ),
}  # fmt: skip
PART = {"user": "data_parallel", "item": "row_wise"}
CASES: dict[str, tuple[str | dict[str, str], str, str, str]] = {
    # name: kind, optimiser, model, layout; two kinds at once where that is no loss
    "row_wise": ("row_wise", "rowwise_adagrad", "din", "full"),
    "table_wise": ({"user": "table_wise", "item": "table_row_wise"}, "rowwise_adagrad", "mlp",
                   "full"),
    "columns": ({"user": "column_wise", "item": "table_column_wise"}, "adagrad", "mlp", "full"),
    "data_parallel": (PART, "rowwise_adagrad", "din", "full"),
    "sgd": ("auto", "sgd", "mlp", "full"),
    "multiplexed": ("row_wise", "adagrad", "din", "multiplexed"),
}  # fmt: skip


def prepared(folder: Path) -> Prepared:
    """The rows that the test has prepared."""
    stores = {split: Store.open(folder / split) for split in ("train", "val", "test")}
    pipeline = FeaturePipeline.load(folder / "pipeline")
    return Prepared(name="tiny", **stores, pipeline=pipeline, digest="", folder=folder)


def make(
    data: Prepared,
    ranks: Ranks,
    case: str,
    kind: str | dict[str, str] | None = None,
    folder: Path | None = None,
    steps: int = STEPS,
    batch_size: int = BATCH,
) -> tuple[Trainer, Loader, Loader]:
    """A trainer of a case, and its loaders.

    Args:
        kind: In place of the case's own.
    """
    own, optimizer, model, layout = CASES[case]
    kind = own if kind is None else kind
    torch.manual_seed(0)
    spec = ModelSpec("ctr", f"recsys.models.ctr.{MODELS[model][0]}", MODELS[model][1])
    rate = 1.0 if optimizer == "sgd" else 0.1
    chosen = OptimizerOptions(name=optimizer, lr=0.01, embedding_lr=rate)
    options = TrainerOptions(
        batch_size=batch_size, epochs=100, max_steps=steps, log_every=1, patience=0,
        eval_every=HALF, prefetch=0, clip_norm=None,
    )  # fmt: skip
    recommender = Recommender.build(
        data.pipeline.schema,
        EmbeddingOptions(layout=layout, dim=6, init_std=0.1, sharding=kind),
        spec.make,
        chosen.storage_factory(CPU, ranks.world_size, kind, batch_size),
        spec.pools_histories,
        spec.needs_fields,
    )
    checkpoints = None
    if folder is not None:
        checkpoints = Checkpoints(
            folder, keep_last=100, attach=lambda one: data.pipeline.save(one / "pipeline")
        )
    optimizers = Optimizers(recommender.lookup, recommender.model, chosen)
    trainer = Trainer(recommender, optimizers, options, checkpoints, ranks=ranks)
    shared = {"seed": 5, "rank": ranks.rank, "world_size": ranks.world_size, "prefetch": 0}
    train = Loader(data.train, batch_size, shuffle=True, **shared)
    return trainer, train, Loader(data.val, 301, shuffle=False, **shared)


def run(trainer: Trainer, train: Loader, val: Loader) -> dict[str, Any]:
    """Train, and say how it went."""
    trainer.fit(train, val)
    return {
        "losses": [loss for _, loss in trainer.curve.steps],
        "logloss": [one["logloss"] for one in trainer.curve.evaluations],
        "after": trainer.evaluate(val).compute()["logloss"],
    }


def continued(
    data: Prepared, ranks: Ranks, case: str, saved: Path, kind: str | dict[str, str]
) -> dict[str, Any]:
    """The second half of a case, from another run's checkpoint."""
    trainer, train, val = make(data, ranks, case, kind)
    trainer.load(Checkpoints(saved).load(HALF), train)
    return run(trainer, train, val)


def job(data: Prepared, out: Path, ranks: Ranks) -> dict[str, Any]:
    """Every case; then the halves that go on where one process left off, split in another way."""
    found: dict[str, Any] = {}
    for case in CASES:
        folder = out / f"{case}-{ranks.world_size}"
        found[case] = run(*make(data, ranks, case, folder=folder))
    if ranks.world_size == 1:
        return found
    found["1 to 2"] = continued(data, ranks, "row_wise", out / "row_wise-1", "row_wise")
    two = out / "row_wise-2"
    found["to table_wise"] = continued(data, ranks, "row_wise", two, "table_wise")
    found["to data_parallel"] = continued(data, ranks, "row_wise", two, PART)
    back = out / "data_parallel-2"
    found["from data_parallel"] = continued(data, ranks, "data_parallel", back, "row_wise")
    columns = out / "columns-2"
    found["columns to rows"] = continued(data, ranks, "columns", columns, "row_wise")
    found["no row"] = no_row(data, ranks)
    found["refused"] = told(lambda: refused_plan(data, ranks))
    found["not agreed"] = told(lambda: sharding.agreed(failing))
    found["full disk"] = told(lambda: full_disk(data, ranks, out / "full"))
    found["other optimiser"] = told(lambda: continued(data, ranks, "columns", two, "row_wise"))
    return found


def no_row(data: Prepared, ranks: Ranks) -> list[float]:
    """Losses of two steps; in the second one process has the only row."""
    size = data.train.num_rows - 1
    trainer, train, _ = make(data, ranks, "row_wise", batch_size=size)
    losses = []
    for batch in itertools.islice(train, 2):
        losses.append(float(trainer.train_step(batch)[0]))
    return losses


def refused_plan(data: Prepared, ranks: Ranks) -> object:
    """Tables for which one process, the last, has no memory."""
    real = sharding.free_memory
    try:
        if ranks.rank == ranks.world_size - 1:
            sharding.free_memory = lambda device: 1000
        return make(data, ranks, "row_wise")
    finally:
        sharding.free_memory = real


def failing() -> None:
    raise ConfigError("the first process alone knows why")


def full_disk(data: Prepared, ranks: Ranks, folder: Path) -> object:
    """A checkpoint that the last process cannot write."""
    trainer, train, val = make(data, ranks, "row_wise", folder=folder, steps=HALF)

    class Full(table_files._Writer):
        def write_data(self, *_: Any) -> Any:
            raise OSError(28, "No space left on device")

    real = table_files._Writer
    try:
        if ranks.rank == ranks.world_size - 1:
            table_files._Writer = Full  # type: ignore[misc]
        return run(trainer, train, val)
    finally:
        table_files._Writer = real  # type: ignore[misc]


def told(make_it: Callable[[], object]) -> str:
    """The kind and text of the error that something ends with."""
    try:
        make_it()
    except (ConfigError, CheckpointError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def start(arguments: list[str], timeout: float = 300) -> None:
    """Run this module on a pair of processes, without the seconds that torchrun takes; when one
    fails the other is ended."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.sharded_jobs", *arguments]
    said = [Path(arguments[1]) / f"{rank}.txt" for rank in range(2)]
    pair = [
        subprocess.Popen(
            [*command, str(rank)], cwd=ROOT, env=environment, stdout=path.open("w"),
            stderr=subprocess.STDOUT,
        )
        for rank, path in enumerate(said)
    ]  # fmt: skip
    deadline = time.monotonic() + timeout
    try:
        while any(process.poll() is None for process in pair):
            assert not any(process.poll() for process in pair), said
            assert time.monotonic() < deadline, "out of time"
            time.sleep(0.05)
        assert not any(process.poll() for process in pair)
    except AssertionError as error:
        texts = "\n".join(path.read_text()[-3000:] for path in said)
        raise AssertionError(f"{error}\n{texts}") from error
    finally:
        for process in pair:
            process.kill()
            process.wait()


def as_rank(rank: int, world_size: int) -> Ranks:
    """Join as torchrun would have it."""
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(world_size), "LOCAL_WORLD_SIZE": str(world_size),
    }  # fmt: skip
    return Ranks.join(CPU)


def main() -> None:
    torch.set_num_threads(1)
    data, out, rank = prepared(Path(sys.argv[1])), Path(sys.argv[2]), int(sys.argv[3])
    if rank == 0:  # one process first, whose checkpoints the pair goes on from
        alone = Ranks.join(CPU, needs_group=True)
        (out / "1.json").write_text(json.dumps(job(data, out, alone)))
        alone.leave()
    ranks = as_rank(rank, 2)
    (out / f"2.{rank}.json").write_text(json.dumps(job(data, out, ranks)))
    ranks.wait()
    ranks.leave()


if __name__ == "__main__":
    main()
