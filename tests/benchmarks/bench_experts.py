"""Mixtures of experts, forward and backward: one block against a loop over experts and tasks.

    python tests/benchmarks/bench_experts.py [--in-dim 328] [--width 64] [--threads 2]

The loop is the form that public code has: a module per expert and a gate per task, outputs stacked,
each task's weighted sum by itself. Both have the same weights, and their outputs and gradients are
compared before anything is timed. The bound is what the matrix products alone take, at the rate at
which this machine forms the largest of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from recsys.layers.experts import Experts, Gates, expert_names


class Loop(nn.Module):
    """Experts and gates one by one."""

    def __init__(self, experts: Experts, gates: Gates, norm: bool) -> None:
        super().__init__()
        first = experts.first_layer()
        num, width, in_dim = first.weight.shape
        self.experts = nn.ModuleList()
        for number in range(num):
            linear = nn.Linear(in_dim, width)
            linear.weight.data.copy_(first.weight[number])
            linear.bias.data.copy_(first.bias[number])
            parts = [nn.BatchNorm1d(width, eps=1e-3), nn.SiLU()] if norm else [nn.ReLU()]
            self.experts.append(nn.Sequential(linear, *parts))
        self.gates = nn.ModuleList()
        for weight in gates.logits.weight:
            gate = nn.Linear(in_dim, num, bias=False)
            gate.weight.data.copy_(weight)
            self.gates.append(gate)

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.stack([expert(x) for expert in self.experts], dim=1)
        mixed = [(gate(x).softmax(dim=1).unsqueeze(2) * hidden).sum(dim=1) for gate in self.gates]
        return torch.stack(mixed, dim=1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--tasks", type=int, default=7)
    parser.add_argument("--experts", type=int, default=24)
    parser.add_argument("--in-dim", type=int, default=328)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    for norm in (False, True):
        compare(options, norm)


def compare(options: argparse.Namespace, norm: bool) -> None:
    names = expert_names([("shared", options.experts)])
    activation = "silu" if norm else "relu"
    experts = Experts(
        names, options.in_dim, [options.width], activation=activation, batch_norm=norm,
        norm_eps=1e-3,
    )  # fmt: skip
    mask = torch.ones(options.tasks, options.experts, dtype=torch.bool)
    tasks = [f"task {number}" for number in range(options.tasks)]
    gates = Gates(tasks, names, options.in_dim, mask)
    loop = Loop(experts, gates, norm)
    x = torch.randn(options.batch, options.in_dim)

    def step(forward: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        leaf = x.clone().requires_grad_(True)
        out = forward(leaf)
        out.square().sum().backward()
        assert leaf.grad is not None
        return out.detach(), leaf.grad

    def block(leaf: Tensor) -> Tensor:
        return experts.mixed(leaf, gates(leaf))

    for mine, theirs in zip(step(block), step(loop), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5 * float(theirs.abs().max()))
    weight = torch.randn(options.in_dim, options.experts * (options.width + options.tasks))
    seconds: dict[str, list[float]] = {"block": [], "loop": [], "products": []}
    for _ in range(options.repeats):
        for name, work in (
            ("block", lambda: step(block)),
            ("loop", lambda: step(loop)),
            ("products", lambda: [x @ weight for _ in range(3)]),
        ):
            begin = time.perf_counter()
            work()
            seconds[name].append(time.perf_counter() - begin)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = {name: options.batch / value for name, value in median.items()}
    print(
        f"{options.experts} experts {options.in_dim} -> {options.width} {activation}"
        f"{' with batch norm' if norm else ''}, {options.tasks} tasks, batch {options.batch}, "
        f"{options.threads} threads: block {rows['block']:,.0f} rows/s, loop {rows['loop']:,.0f} "
        f"rows/s, ratio {rows['block'] / rows['loop']:.2f}; products alone {rows['products']:,.0f} "
        f"rows/s, of which the block is {rows['block'] / rows['products']:.0%}"
    )


if __name__ == "__main__":
    main()
