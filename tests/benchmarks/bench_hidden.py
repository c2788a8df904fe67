"""Training speed of hidden and cross layers on a CPU: torch's modules against the fused kernels.

    python tests/benchmarks/bench_hidden.py

The setting is DCNv2's on Frappe: 100 inputs, hidden layers [400, 400, 400] with batch
normalisation and dropout 0.4, batch 4096. Variants take turns, so that noise of the machine hits
all; figures are the best and the median of the repeats, and ratios are of the medians.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from recsys.embedding.embedded import Embedded
from recsys.layers.mlp import HiddenLayers
from recsys.models.ctr.dcnv2 import DCNv2

Variants = dict[str, Callable[[], object]]


def time_in_turns(variants: Variants, repeats: int) -> dict[str, list[float]]:
    """Seconds of every repeat of every variant."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats + 2):
        for name, run in variants.items():
            start = time.perf_counter()
            run()
            if repeat >= 2:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def make_hidden(args: argparse.Namespace, kernel: str) -> HiddenLayers:
    torch.manual_seed(0)
    return HiddenLayers(
        args.inputs, args.hidden, dropout=args.dropout, batch_norm=True, kernel=kernel
    )


def make_dcnv2(args: argparse.Namespace, kernel: str) -> DCNv2:
    torch.manual_seed(0)
    model = DCNv2(
        args.inputs // 10,
        10,
        0,
        num_cross_layers=4,
        hidden_dims=args.hidden,
        dropout=args.dropout,
        batch_norm=True,
    )
    for part in (model.hidden, model.cross):
        part.kernel = kernel
    return model


def products(args: argparse.Namespace) -> Callable[[], None]:
    """The matrix products of the hidden layers alone, forward and backward."""
    widths = [args.inputs, *args.hidden]
    weights = [torch.randn(o, i) for i, o in itertools.pairwise(widths)]
    inputs = [torch.randn(args.batch, i) for i in widths[:-1]]
    gradients = [torch.randn(args.batch, o) for o in widths[1:]]

    def run() -> None:
        for weight, x, gradient in zip(weights, inputs, gradients, strict=True):
            torch.mm(x, weight.T)
            torch.mm(gradient, weight)
            torch.mm(gradient.T, x)

    return run


def rounded(run: Callable[[], object]) -> Callable[[], None]:
    """The same with float32 operands rounded to bfloat16 inside the products."""

    def run_rounded() -> None:
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("medium")
        try:
            run()
        finally:
            torch.set_float32_matmul_precision(before)

    return run_rounded


def train(args: argparse.Namespace, kernel: str) -> Callable[[], None]:
    module = make_hidden(args, kernel)
    x = torch.randn(args.batch, args.inputs, requires_grad=True)
    gradient = torch.randn(args.batch, module.out_dim)

    def run() -> None:
        module.zero_grad()
        module(x).backward(gradient)

    return run


def train_dcnv2(args: argparse.Namespace, kernel: str) -> Callable[[], None]:
    model = make_dcnv2(args, kernel)
    embedded = Embedded.random(batch=args.batch, fields=args.inputs // 10, dim=10)
    embedded.fields.requires_grad_()

    def run() -> None:
        model.zero_grad()
        model(embedded).sum().backward()

    return run


def infer(args: argparse.Namespace, kernel: str) -> Callable[[], Tensor]:
    module = make_hidden(args, kernel).eval()
    x = torch.randn(args.batch, args.inputs)
    return torch.no_grad()(lambda: module(x))


def show(title: str, seconds: dict[str, list[float]], rows: int) -> None:
    print(f"\n{title}")
    slowest = statistics.median(next(iter(seconds.values())))
    for name, values in seconds.items():
        median, best = statistics.median(values), min(values)
        print(
            f"  {name:26s} median {median * 1e3:7.1f} ms  best {best * 1e3:7.1f} ms  "
            f"{rows / median:11,.0f} rows/s  {slowest / median:5.2f} x"
        )


def show_bound(args: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    """Multiply-adds of the products against the bytes of the elementwise passes."""
    widths = [args.inputs, *args.hidden]
    multiply_adds = 3 * args.batch * sum(a * b for a, b in itertools.pairwise(widths))
    alone, fused = min(seconds["products alone"]), min(seconds["fused"])  # the quietest repeats
    share = alone / fused
    # Forward: z twice, y; backward: dy and z twice, dz. One bit per element besides.
    moved = 4 * args.batch * sum(args.hidden) * (3 + 5 + 3 / 32)
    rest = fused - alone
    print(
        f"  bound: {multiply_adds / 1e9:.1f} G multiply-adds per step, {share:.0%} of the fused "
        f"step ({multiply_adds / alone / 1e9:,.0f} G/s); the elementwise passes move "
        f"{moved / 1e6:,.0f} MB, {moved / max(rest, 1e-9) / 1e9:.1f} GB/s of the rest"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=100)
    parser.add_argument("--hidden", type=int, nargs="+", default=[400, 400, 400])
    parser.add_argument("--dropout", type=float, default=0.4)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"{args.inputs} -> {args.hidden}, batch {args.batch}, {args.threads} threads")
    seconds = time_in_turns(
        {
            "torch": train(args, "torch"),
            "fused": train(args, "fused"),
            "products alone": products(args),
            "fused, bfloat16 products": rounded(train(args, "fused")),
            "bfloat16 products alone": rounded(products(args)),
        },
        args.repeats,
    )
    show("hidden layers, forward and backward", seconds, args.batch)
    show_bound(args, seconds)
    ways: Variants = {name: train_dcnv2(args, name) for name in ("torch", "fused")}
    ways["fused, bfloat16 products"] = rounded(train_dcnv2(args, "fused"))
    show("DCNv2, forward and backward", time_in_turns(ways, args.repeats), args.batch)
    ways = {name: infer(args, name) for name in ("torch", "fused")}
    show("hidden layers, inference", time_in_turns(ways, args.repeats), args.batch)


if __name__ == "__main__":
    main()
