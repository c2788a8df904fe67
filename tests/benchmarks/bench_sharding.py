"""What sharding costs: steps of one process with and without TorchRec, and of several processes.

    python tests/benchmarks/bench_sharding.py [--model dcnv2] [--batch 4096] [--steps 30]
    torchrun --nproc-per-node 2 tests/benchmarks/bench_sharding.py --arms sharded

Rows have Criteo's shape, 26 ids and 13 numbers, ids drawn by a power law. Arms take turns step by
step, so that what else runs on the machine falls on all of them alike. `cpu` is processor time of
this process, which a busy machine inflates less than `wall`.

Arms: `sparse` is what a CPU trains with by default, `fused` FBGEMM's table called directly,
`sharded` the same table behind TorchRec, row-wise, `tables` the same table-wise.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.schema import Field, Schema
from recsys.embedding.lookup import EmbeddingOptions
from recsys.embedding.storage import FusedStorage, Storage
from recsys.models.recommender import Recommender
from recsys.models.saved import ModelSpec
from recsys.training.loop import Trainer
from recsys.training.optimizers import OptimizerOptions, Optimizers
from recsys.training.options import TrainerOptions
from recsys.training.ranks import Ranks

FIELDS, NUMBERS = 26, 13
MODELS = {
    "autoint": ("autoint.AutoInt", {}),
    "dcnv2": ("dcnv2.DCNv2", {}),
    "dlrm": ("dlrm.DLRM", {}),
}
ARMS = ("sparse", "fused", "sharded", "tables")
KINDS = {"sharded": "row_wise", "tables": "table_wise"}


def make_schema(most: int) -> Schema:
    """26 tables from 4 rows up to `most`, by a geometric series; 13 numbers."""
    sizes = [round(4 * (most / 4) ** (i / (FIELDS - 1))) + 3 for i in range(FIELDS)]
    ids = [
        Field(name=f"C{i}", kind="categorical", encoding="vocabulary", size=size)
        for i, size in enumerate(sizes)
    ]
    numbers = [Field(name=f"I{i}", kind="numeric", encoding="log") for i in range(NUMBERS)]
    return Schema(fields=(*numbers, *ids), labels=("click",))


def make_batches(schema: Schema, rows: int, count: int, rank: int = 0) -> list[Batch]:
    """Batches of one process; small ids are frequent (density 1/x)."""
    generator = torch.Generator().manual_seed(rank)
    sizes = torch.tensor([field.size or 0 for field in schema.coded]) - 3
    found = []
    for _ in range(count):
        uniform = torch.rand(rows, FIELDS, generator=generator)
        ids = (sizes.double() ** uniform).long().clamp(max=sizes - 1) + 3
        found.append(
            Batch(
                ids=ids.int(),
                dense=torch.randn(rows, NUMBERS, generator=generator),
                label=(torch.rand(rows, generator=generator) < 0.25).float(),
            )
        )
    return found


def make_trainer(
    arm: str,
    model: str,
    schema: Schema,
    dim: int,
    batch: int,
    ranks: Ranks,
    device: torch.device,
    **options: object,
) -> Trainer:
    """A trainer of an arm, or of a kind of sharding; row-wise Adagrad updates its tables."""
    torch.manual_seed(0)
    chosen = OptimizerOptions(name="rowwise_adagrad", embedding_lr=0.02)
    kind = "none" if arm in ("sparse", "fused") else KINDS.get(arm, arm)
    make: Callable[[int, int], Storage] = chosen.storage_factory(
        device, ranks.world_size, kind, batch
    )
    if arm == "fused":

        def make(num_rows: int, width: int) -> Storage:
            return FusedStorage(
                num_rows, width, optimizer="rowwise_adagrad", lr=0.02, device=device
            )

    name, arguments = MODELS[model]
    spec = ModelSpec("ctr", f"recsys.models.ctr.{name}", arguments)
    numeric = "dense" if model == "dlrm" else "vector"
    embedding = EmbeddingOptions(dim=dim, numeric=numeric, sharding=kind)
    recommender = Recommender.build(schema, embedding, spec.make, make).to(device)
    optimizers = Optimizers(recommender.lookup, recommender.model, chosen)
    settings = TrainerOptions(batch_size=batch, device=device.type, **options)  # type: ignore[arg-type]
    return Trainer(recommender, optimizers, settings, ranks=ranks)


def measure(trainers: dict[str, Trainer], batches: list[Batch], steps: int) -> dict[str, dict]:
    """Median seconds of a step of each arm, by turns."""
    wall: dict[str, list[float]] = {arm: [] for arm in trainers}
    cpu: dict[str, list[float]] = {arm: [] for arm in trainers}
    for step in range(steps + 3):
        batch = batches[step % len(batches)]
        for arm, trainer in trainers.items():
            begin, used = time.perf_counter(), time.process_time()
            trainer.train_step(batch)
            if step >= 3:  # the first ones allocate
                wall[arm].append(time.perf_counter() - begin)
                cpu[arm].append(time.process_time() - used)
    return {
        arm: {"wall": statistics.median(wall[arm]), "cpu": statistics.median(cpu[arm])}
        for arm in trainers
    }


def parts(trainer: Trainer, batch: Batch, steps: int) -> Tensor:
    """Median seconds of processor time of a lookup alone, forward and backward."""
    found = []
    for _ in range(steps):
        used = time.process_time()
        trainer.lookup(batch).fields.sum().backward()
        found.append(time.process_time() - used)
    return torch.tensor(found).median()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=MODELS, default="dcnv2")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--batch", type=int, default=4096, help="rows over all processes")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--most", type=int, default=1_000_000, help="rows of the largest table")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    device = torch.device("cpu")
    ranks = Ranks.join(device, needs_group=True)
    schema = make_schema(args.most)
    batches = make_batches(schema, args.batch // ranks.world_size, 8, ranks.rank)
    trainers = {
        arm: make_trainer(arm, args.model, schema, args.dim, args.batch, ranks, device)
        for arm in args.arms.split(",")
        if not (arm == "fused" and ranks.world_size > 1)
    }
    found = measure(trainers, batches, args.steps)
    lookups = {arm: float(parts(one, batches[0], 10)) for arm, one in trainers.items()}
    if ranks.is_first:
        rows = sum(field.size or 0 for field in schema.coded)
        print(
            f"{args.model}, batch {args.batch:,} over {ranks.world_size} processes of "
            f"{torch.get_num_threads()} threads, d {args.dim}, {rows:,} table rows"
        )
        base = found.get("fused")
        heads = ("ms wall", "ms cpu", "rows/s", "over fused", "lookup cpu")
        print(f"{'arm':<10}" + "".join(f"{head:>12}" for head in heads))
        for arm, one in found.items():
            over = f"{one['cpu'] / base['cpu'] - 1:+.1%}" if base else ""
            print(
                f"{arm:<10}{one['wall'] * 1e3:>12.1f}{one['cpu'] * 1e3:>12.1f}"
                f"{args.batch / one['wall']:>12,.0f}{over:>12}{lookups[arm] * 1e3:>12.1f}"
            )
        if args.out:
            args.out.write_text(json.dumps(found, indent=1))
    ranks.leave()


if __name__ == "__main__":
    main()
