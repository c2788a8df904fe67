"""Training steps at Criteo's shape, part by part: made for a GPU, runs small on a CPU.

    python tests/benchmarks/bench_gpu_training.py [--out table.md]
    python tests/benchmarks/bench_gpu_training.py --device cpu --most 2000 --batch 256 --steps 2
    torchrun --nproc-per-node 8 tests/benchmarks/bench_gpu_training.py --sharding auto

26 tables of 4 to 10 million rows, 13 numbers, batches of 65,536 rows; AutoInt, DCNv2 and DLRM, d
16 and 128, float32 and bfloat16, compiled and not. One line per combination: rows/s of whole steps;
the share of a step that the lookup, the model's forward and its backward take, and the rest (the
optimiser of the dense part, sums of losses), each timed by itself, so that they need not add up on
a busy machine; and the bandwidth of tables: bytes that a step must move for its vectors (read
forward, gradients written and read, rows and state read and written) over the seconds of lookup
forward and backward. Nothing is asserted on time.
"""

from __future__ import annotations

import argparse
import itertools
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from bench_sharding import FIELDS, MODELS, make_batches, make_schema, make_trainer

from recsys.data.batch import Batch
from recsys.training.loop import Trainer
from recsys.training.ranks import Ranks

HEADS = ("model", "d", "precision", "compile", "rows/s", "ms", "lookup", "forward", "backward",
         "rest", "table GB/s", "peak GiB")  # fmt: skip


def seconds(device: torch.device, work: Callable[[], object], steps: int, warm: int = 3) -> float:
    """Median seconds of a piece of work, the device waited for."""
    found = []
    for step in range(steps + warm):
        begin = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if step >= warm:
            found.append(time.perf_counter() - begin)
    return statistics.median(found)


def table_bytes(rows: int, width: int) -> int:
    """What a step must move for the vectors of its rows, at least: forward reads and writes them,
    backward writes and reads gradients, the update reads and writes rows and one number each."""
    per_id = 4 * (2 * width + 2 * width + 2 * width + 2)
    return rows * FIELDS * per_id


def measure(trainer: Trainer, batches: list[Batch], steps: int) -> dict[str, float]:
    """Seconds of whole steps and of their parts."""
    device, turn = trainer.device, itertools.cycle(batches)

    def lookup() -> None:
        trainer.lookup(batches[0])

    def lookup_both_ways() -> None:
        trainer.lookup(batches[0]).fields.sum().backward()

    def forward() -> None:
        with torch.no_grad(), trainer._autocast():
            trainer._interaction(embedded)

    def both_ways() -> None:
        trainer.optimizers.zero_grad()
        leaves = embedded.fields.detach().requires_grad_()
        inputs = type(embedded)(leaves, embedded.dense, embedded.linear, embedded.second)
        with trainer._autocast():
            logits, _ = trainer._interaction(inputs)
        logits.float().sum().backward()

    whole = seconds(device, lambda: trainer.train_step(next(turn)), steps)
    with torch.no_grad():
        embedded = trainer.lookup(batches[0])
    found = {"step": whole, "lookup": seconds(device, lookup, steps)}
    found["table"] = seconds(device, lookup_both_ways, steps)
    found["forward"] = seconds(device, forward, steps)
    found["model"] = seconds(device, both_ways, steps)
    return found


def line(found: dict[str, float], rows: int, all_rows: int, width: int, peak: float) -> list[str]:
    """The cells after model, width, precision and compile."""
    step = found["step"]
    backward = found["table"] - found["lookup"] + found["model"] - found["forward"]
    rest = step - found["table"] - found["model"]
    shares = [found["lookup"], found["forward"], backward, rest]
    return [
        f"{all_rows / step:,.0f}",
        f"{step * 1e3:.1f}",
        *(f"{max(one, 0) / step:.0%}" for one in shares),
        f"{table_bytes(rows, width) / found['table'] / 1e9:.0f}",
        f"{peak:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--dims", default="16,128")
    parser.add_argument("--precisions", default="float32,bfloat16")
    parser.add_argument("--compile", default="false,true")
    parser.add_argument("--batch", type=int, default=65_536, help="rows over all processes")
    parser.add_argument("--most", type=int, default=10_000_000, help="rows of the largest table")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--sharding", default="none")
    parser.add_argument("--out", type=Path, help="the table as Markdown")
    args = parser.parse_args()
    device = torch.device(args.device)
    ranks = Ranks.join(device, needs_group=args.sharding != "none")
    if device.type == "cuda":
        device = torch.device("cuda", torch.cuda.current_device())
    schema = make_schema(args.most)
    rows = args.batch // ranks.world_size
    batches = [one.to(device) for one in make_batches(schema, rows, 4, ranks.rank)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()
    about = (
        f"{ranks.world_size} x {name or platform.machine()}, torch {torch.__version__}, batch "
        f"{args.batch:,}, {sum(field.size or 0 for field in schema.coded):,} table rows, "
        f"sharding {args.sharding}"
    )
    lines = [about, "", "| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    if ranks.is_first:
        print("\n".join(lines))
    grid = itertools.product(
        args.models.split(","), map(int, args.dims.split(",")), args.precisions.split(","),
        (text == "true" for text in args.compile.split(",")),
    )  # fmt: skip
    for model, dim, precision, compiled in grid:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        trainer = make_trainer(
            args.sharding, model, schema, dim, args.batch, ranks, device,
            precision=precision, compile=compiled,
        )  # fmt: skip
        found = measure(trainer, batches, args.steps)
        peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else 0.0
        width = trainer.lookup.storage.width
        cells = [model, str(dim), precision, "yes" if compiled else "no"]
        cells += line(found, rows, args.batch, width, peak)
        lines.append("| " + " | ".join(cells) + " |")
        if ranks.is_first:
            print(lines[-1], flush=True)
        del trainer
    if ranks.is_first and args.out:
        args.out.write_text("\n".join(lines) + "\n")
    ranks.leave()


if __name__ == "__main__":
    main()
