"""AutoInt training speed on a CPU: the attention layers alone, the whole step, and a peer.

    python tests/benchmarks/bench_autoint.py
    python tests/benchmarks/bench_autoint.py --vocab 100000 \
        --peer-python <venv>/bin/python --peer-script <folder>/deepctr_autoint.py

The setting is that of the peer's script: 39 fields of width 16, 3 layers, 2 heads, no MLP. Every
figure is the best of its repeats, and variants take turns, so that noise of the machine hits all.
"""

from __future__ import annotations

import argparse
import functools
import resource
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.schema import NUM_RESERVED, Encoding, Field, Kind, Schema
from recsys.embedding.lookup import EmbeddingOptions
from recsys.layers.attention import AttentionStack, FieldAttention
from recsys.models.base import ModelInputs
from recsys.models.ctr.autoint import AutoInt
from recsys.models.recommender import Recommender
from recsys.training.loop import Trainer
from recsys.training.optimizers import OptimizerOptions, Optimizers
from recsys.training.options import TrainerOptions

Step = Callable[[], object]


def best_seconds(variants: dict[str, Step], repeats: int) -> dict[str, float]:
    """Shortest time of each variant; they take turns, after one warm-up each."""
    for step in variants.values():
        step()
    best = dict.fromkeys(variants, float("inf"))
    for _ in range(repeats):
        for name, step in variants.items():
            start = time.perf_counter()
            step()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


# -- the attention layers alone ------------------------------------------------------------------


def with_sdpa(layer: FieldAttention, fields: Tensor) -> Tensor:
    """The layer with torch's own fused attention in the middle."""
    query, key, value = (
        x.unflatten(2, (layer.num_heads, -1)).transpose(1, 2)
        for x in nnf.linear(fields, layer.weight.flatten(0, 1)).chunk(3, dim=2)
    )
    out = nnf.scaled_dot_product_attention(query, key, value, scale=layer.scale)
    return torch.relu(out.transpose(1, 2).flatten(2) + fields)


def layer_variants(args: argparse.Namespace) -> dict[str, Step]:
    """Forward and backward of the stack, in the ways that were considered."""
    fields = torch.randn(args.batch, args.fields, args.dim, requires_grad=True)
    gradient = torch.randn(args.batch, args.fields, args.dim)

    def stack(kernel: str) -> AttentionStack:
        layers = [FieldAttention(args.dim, args.dim, args.heads) for _ in range(args.layers)]
        return AttentionStack(*layers, kernel=kernel)

    eager, fused = stack("torch"), stack("fused")
    compiled = torch.compile(stack("torch"), dynamic=False)

    def sdpa(x: Tensor) -> Tensor:
        for layer in eager:
            x = with_sdpa(layer, x)
        return x

    def low_precision(x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return eager(x).float()

    def run(function: Callable[[Tensor], Tensor], rows: int) -> None:
        for start in range(0, args.batch, rows):
            part = fields.detach()[start : start + rows].requires_grad_()
            function(part).backward(gradient[start : start + rows])

    ways: dict[str, tuple[Callable[[Tensor], Tensor], int]] = {
        "eager, one product for Q, K, V": (eager, args.batch),
        "scaled_dot_product_attention": (sdpa, args.batch),
        "eager, blocks": (eager, args.block),
        "bfloat16 autocast, blocks": (low_precision, args.block),
        "torch.compile, blocks": (compiled, args.block),
        "fused kernel": (fused, args.batch),
        "fused kernel, blocks": (fused, args.block),
    }
    return {name: functools.partial(run, *way) for name, way in ways.items()}


def multiply_adds(args: argparse.Namespace) -> tuple[int, int]:
    """Multiply-adds of a row in the attention layers, forward, and backward as the kernel does it.

    Forward: three projections, scores, weighted values. Backward: the projections and scores again,
    then the gradients of weighted values (2), scores (2), and projections (2 times 3).
    """
    projection = args.fields * args.dim * args.dim
    scores = args.fields * args.fields * args.dim
    forward = 3 * projection + 2 * scores
    backward = 3 * projection + scores + 4 * scores + 6 * projection
    return args.layers * forward, args.layers * backward


def peak_multiply_adds(size: int = 2048) -> float:
    """Multiply-adds per second of a large float32 matrix product, torch's own."""
    a, b = torch.randn(size, size), torch.randn(size, size)
    return size**3 / best_seconds({"": lambda: a @ b}, 5)[""]


# -- the whole training step ---------------------------------------------------------------------


def make_batches(args: argparse.Namespace) -> list[Batch]:
    """Rows of the peer's generator: ids of a field fall off as 1 / rank."""
    rng = np.random.default_rng(1)
    draw = rng.random((args.rows, args.fields))
    ids = np.minimum(np.exp(draw * np.log(args.vocab)).astype(np.int64), args.vocab - 1)
    label = torch.from_numpy((rng.random(args.rows) < 0.3).astype(np.float32))
    codes = torch.from_numpy(ids.astype(np.int32)) + NUM_RESERVED
    return [
        Batch(
            ids=codes[start : start + args.batch],
            dense=torch.zeros(len(label[start : start + args.batch]), 0),
            label=label[start : start + args.batch],
        )
        for start in range(0, args.rows, args.batch)
    ]


def make_trainer(
    args: argparse.Namespace, kernel: str, block_rows: int | None, optimizer: str
) -> Trainer:
    torch.manual_seed(0)
    fields = [
        Field(
            name=f"f{i}",
            kind=Kind.CATEGORICAL,
            encoding=Encoding.VOCABULARY,
            size=args.vocab + NUM_RESERVED,
        )
        for i in range(args.fields)
    ]
    options = OptimizerOptions(name=optimizer)

    def make_model(inputs: ModelInputs) -> AutoInt:
        return AutoInt(
            inputs.num_fields,
            inputs.embed_dim,
            inputs.num_dense,
            attention_dim=args.dim,
            num_heads=args.heads,
            num_layers=args.layers,
            scale=False,
            layer_norm=False,
            kernel=kernel,
        )

    recommender = Recommender.build(
        Schema(fields=tuple(fields), labels=("label",)),
        EmbeddingOptions(dim=args.dim),
        make_model,
        options.storage_factory(torch.device("cpu")),
    )
    return Trainer(
        recommender,
        Optimizers(recommender.lookup, recommender.model, options),
        TrainerOptions(block_rows=block_rows, clip_norm=None),
    )


def epoch(trainer: Trainer, batches: list[Batch]) -> None:
    for batch in batches:
        trainer.train_step(batch)


def train_variants(args: argparse.Namespace) -> dict[str, Step]:
    batches = make_batches(args)
    ways = {
        "fused, blocks, row-wise Adagrad": ("fused", args.block, "rowwise_adagrad"),
        "fused, row-wise Adagrad": ("fused", None, "rowwise_adagrad"),
        "fused, blocks, lazy Adam": ("fused", args.block, "lazy_adam"),
        "fused, blocks, dense Adam": ("fused", args.block, "adam"),
        "torch, row-wise Adagrad": ("torch", None, "rowwise_adagrad"),
        "torch, blocks, row-wise Adagrad": ("torch", args.block, "rowwise_adagrad"),
    }
    chosen = list(ways.items())[: 1 if args.only_best else None]
    return {
        name: functools.partial(epoch, make_trainer(args, *way), batches) for name, way in chosen
    }


# -- the peer ------------------------------------------------------------------------------------


def run_peer(args: argparse.Namespace) -> str:
    """The peer's own result line, from a process of its own."""
    numbers = {
        "--rows": args.rows,
        "--fields": args.fields,
        "--vocab": args.vocab,
        "--dim": args.dim,
        "--batch": args.batch,
        "--layers": args.layers,
        "--heads": args.heads,
        "--threads": args.threads,
    }
    options = [str(part) for pair in numbers.items() for part in pair]
    done = subprocess.run(
        [str(args.peer_python), str(args.peer_script), *options, "--epochs", "2"],
        check=True,
        capture_output=True,
        text=True,
    )
    return next(line for line in done.stdout.splitlines() if line.startswith("RESULT"))


def show(title: str, seconds: dict[str, float], rows: int) -> None:
    print(f"\n{title}")
    for name, value in seconds.items():
        print(f"  {name:34s} {rows / value:10,.0f} rows/s  {value / rows * 1e6:7.2f} us/row")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=40_960)
    parser.add_argument("--fields", type=int, default=39)
    parser.add_argument("--vocab", type=int, default=10_000, help="ids per field")
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--block", type=int, default=512, help="rows of a block")
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--only-best", action="store_true", help="only the fastest step, to read peak memory"
    )
    parser.add_argument("--peer-python", type=Path)
    parser.add_argument("--peer-script", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"AutoInt: {args.fields} fields x {args.vocab:,} ids, width {args.dim}, {args.layers} "
        f"layers, {args.heads} heads, batch {args.batch}, {args.threads} threads"
    )
    seconds = best_seconds(train_variants(args), args.repeats)
    show("whole training step", seconds, args.rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"  peak memory {peak:,.0f} MiB")
    if not args.only_best:
        seconds = best_seconds(layer_variants(args), args.repeats)
        show("attention layers, forward and backward", seconds, args.batch)
        show_bound(args, args.batch / seconds["fused kernel, blocks"])
    if args.peer_python and args.peer_script:
        print(f"\npeer: {run_peer(args)}")


def show_bound(args: argparse.Namespace, reached: float) -> None:
    forward, backward = multiply_adds(args)
    peak = peak_multiply_adds()
    weights = args.layers * args.heads * args.fields**2
    print(
        f"  bound: {forward / 1e3:,.0f} + {backward / 1e3:,.0f} thousand multiply-adds per row at "
        f"{peak / 1e9:,.0f} G/s (a large product) = {peak / (forward + backward):,.0f} rows/s; "
        f"reached {reached * (forward + backward) / peak:.0%}, with {2 * weights:,} exponentials "
        "per row besides"
    )
    print(
        f"  unfused, one layer's attention weights alone are {4 * weights / args.layers * 1e-3:.0f}"
        " kB per row, moved through memory about ten times forward and backward"
    )


if __name__ == "__main__":
    main()
