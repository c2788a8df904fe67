"""UltraGCN training steps on a CPU: this library against a gather of every row's negatives.

    python tests/benchmarks/bench_ultragcn.py [--data ../shared/data/gowalla] [--threads 1 2]

A step is drawing a batch, losses, backward pass and Adam. The other side (`plain`) is what public
code does: gather [B, n, D] negatives, autograd, L2 of all parameters, dense Adam. Ours has each
row's own negatives (`sampled`, the published setting), sets shared by 16 rows (`grouped`), and all
items (`all`). All start from the same weights; `plain` and `sampled` see the same batch once, where
losses and gradients must agree. They take turns; figures are medians. The epoch is extrapolated
from a step. The item-item graph, made once, is timed apart.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from recsys.data.pairs import Pairs
from recsys.data.triple_sampler import TripleSampler
from recsys.data.triples import Triples
from recsys.layers.item_graph import item_graph
from recsys.models.cf.ultragcn import NEGATIVES, UltraGCN

Step = Callable[[], object]


def read_pairs(path: Path) -> Pairs:
    """Lines of `user item item ...`."""
    users, items = [], []
    with gzip.open(path, "rt") as file:
        for line in file:
            numbers = np.array(line.split(), dtype=np.int64)
            users.append(np.full(len(numbers) - 1, numbers[0]))
            items.append(numbers[1:])
    u, i = np.concatenate(users), np.concatenate(items)
    return Pairs.of(u, i, int(u.max()) + 1, int(i.max()) + 1)


class Plain(nn.Module):
    """UltraGCN as it is usually written; constants are those of `ours`."""

    def __init__(self, ours: UltraGCN) -> None:
        super().__init__()
        self.users = nn.Parameter(ours.users.detach().clone())
        self.items = nn.Parameter(ours.items.detach().clone())
        self.constants = ours

    def forward(self, batch: Triples) -> Tensor:
        c = self.constants
        user = nnf.embedding(batch.users, self.users)
        positive = nnf.embedding(batch.positives, self.items)
        negative = nnf.embedding(batch.negatives, self.items)
        scales = c.user_scales[batch.users]
        s_positive = (user * positive).sum(-1)
        s_negative = (user.unsqueeze(1) * negative).sum(-1)
        w_positive = c.w1 + c.w2 * scales * c.item_scales[batch.positives]
        w_negative = c.w3 + c.w4 * scales.unsqueeze(1) * c.item_scales[batch.negatives]
        loss = _bce(s_positive, 1.0, w_positive) + c.negative_weight * _bce(
            s_negative, 0.0, w_negative
        ).mean(1)
        near = nnf.embedding(c.neighbors[batch.positives].long(), self.items)
        omega = c.neighbor_weights[batch.positives]
        graph = -(omega * nnf.logsigmoid((user.unsqueeze(1) * near).sum(-1))).sum()
        square = sum(p.square().sum() / 2 for p in (self.users, self.items))
        return loss.sum() + c.item_weight * graph + c.decay * square


def _bce(scores: Tensor, label: float, weights: Tensor) -> Tensor:
    labels = torch.full_like(scores, label)
    return nnf.binary_cross_entropy_with_logits(scores, labels, weights, reduction="none")


def batches(train: Pairs, model: UltraGCN, rows: int) -> Iterator[Triples]:
    sampler = TripleSampler(train, model.sampling, rows)
    while True:
        yield from sampler
        sampler.set_epoch(sampler.epoch + 1)


def build(train: Pairs, negatives: str, options: argparse.Namespace) -> UltraGCN:
    torch.manual_seed(0)
    chosen = {"negatives": negatives, "num_negatives": options.negatives}
    return UltraGCN(train, init_std=0.01, **chosen)


def our_loss(model: UltraGCN, batch: Triples) -> Tensor:
    return torch.stack(list(model.losses(batch).values())).sum()


def check_equal(ours: UltraGCN, plain: Plain, batch: Triples) -> None:
    losses = our_loss(ours, batch), plain(batch)
    torch.testing.assert_close(*losses, rtol=1e-5, atol=0)
    for loss in losses:
        loss.backward()
    for one, other in ((ours.users, plain.users), (ours.items, plain.items)):
        assert one.grad is not None
        assert other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)


def our_step(train: Pairs, model: UltraGCN, options: argparse.Namespace) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    drawn = batches(train, model, options.rows)

    def step() -> None:
        optimizer.zero_grad()
        our_loss(model, next(drawn)).backward()
        optimizer.step()

    return step


def plain_step(train: Pairs, model: Plain, options: argparse.Namespace) -> Step:
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
    users = torch.from_numpy(train.users.astype(np.int64))
    items = torch.from_numpy(train.items.astype(np.int64))

    def step() -> None:
        at = torch.randint(len(users), (options.rows,))
        drawn = torch.randint(train.num_items, (options.rows, options.negatives))
        optimizer.zero_grad()
        model(Triples(users[at], items[at], drawn)).backward()
        optimizer.step()

    return step


def medians(steps: dict[str, Step], repeats: int) -> dict[str, float]:
    """Median seconds of each; they take turns, after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for turn in range(repeats + 1):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    return {name: statistics.median(found) for name, found in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/data/gowalla"))
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--negatives", type=int, default=1500)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--repeats", type=int, default=24)
    options = parser.parse_args()
    train = read_pairs(options.data / "train.txt.gz")
    print(f"{train.num_users:,} users, {train.num_items:,} items, {len(train):,} pairs")
    for threads in options.threads:
        torch.set_num_threads(threads)
        start = time.perf_counter()
        item_graph(train, 10)
        print(f"\n{threads} thread(s): item-item graph {time.perf_counter() - start:.2f} s")
        models = {name: build(train, name, options) for name in NEGATIVES}
        plain = Plain(models["sampled"])
        check_equal(models["sampled"], plain, next(batches(train, models["sampled"], options.rows)))
        steps = {"plain": plain_step(train, plain, options)}
        steps |= {name: our_step(train, model, options) for name, model in models.items()}
        seconds = medians(steps, options.repeats)
        count = -(-len(train) // options.rows)
        for name, value in seconds.items():
            print(
                f"  {name:8s} {value * 1e3:8.1f} ms a step  {value * count:8,.0f} s an epoch of "
                f"{count:,}  {seconds['plain'] / value:5.1f} x as fast"
            )


if __name__ == "__main__":
    main()
