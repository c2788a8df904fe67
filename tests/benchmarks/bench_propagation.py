"""One LightGCN optimiser step: this library against torch.sparse.mm on the full COO adjacency.

    python tests/benchmarks/bench_propagation.py [--data ../shared/data/gowalla] [--layers 3]

The baseline is what public LightGCN code does: K products of the [N, N] matrix, recorded by
autograd, and Adam. Both start from the same weights and batches, take turns, and the first losses
must agree. Bound: a product reads 4 D bytes for each of the E pairs; a step has two per layer, once
forward and once backward, of which the last forward and the first backward have only the rows of
the batch. The table prints those bytes and the bandwidth that whole products reached.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from recsys.data.pairs import Pairs
from recsys.data.triple_sampler import TripleSampler
from recsys.data.triples import Triples
from recsys.layers.propagation import Both
from recsys.models.cf.lightgcn import LightGCN
from recsys.models.cf.simgcl import SimGCL
from recsys.models.cf.xsimgcl import XSimGCL
from recsys.models.collaborative import EmbeddingModel


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
    """LightGCN as it is usually written."""

    def __init__(self, train: Pairs, users: Tensor, items: Tensor, layers: int) -> None:
        super().__init__()
        self.users = nn.Parameter(users.clone())
        self.items = nn.Parameter(items.clone())
        self.layers = layers
        u = torch.from_numpy(train.users.astype(np.int64))
        i = torch.from_numpy(train.items.astype(np.int64)) + train.num_users
        indices = torch.stack([torch.cat([u, i]), torch.cat([i, u])])
        size = train.num_users + train.num_items
        degrees = torch.bincount(indices[0], minlength=size).clamp(min=1).float()
        values = (degrees[indices[0]] * degrees[indices[1]]).rsqrt()
        self.matrix = torch.sparse_coo_tensor(indices, values, (size, size)).coalesce()

    def loss(self, batch: Triples) -> Tensor:
        x = torch.cat([self.users, self.items])
        layers = [x]
        for _ in range(self.layers):
            layers.append(torch.sparse.mm(self.matrix, layers[-1]))
        users, items = torch.stack(layers, 1).mean(1).split([len(self.users), len(self.items)])
        u, i, j = users[batch.users], items[batch.positives], items[batch.negatives[:, 0]]
        bpr = nnf.softplus((u * j).sum(1) - (u * i).sum(1)).mean()
        parts = (self.users[batch.users], self.items[batch.positives])
        ego = [*parts, self.items[batch.negatives[:, 0]]]
        return bpr + 1e-4 * sum(part.pow(2).sum() for part in ego) / (2 * len(batch))


def stepper(
    loss: Callable[[Triples], Tensor], optimizer: torch.optim.Optimizer, batches: list[Triples]
) -> Callable[[], float]:
    """One optimiser step a call; the value of the loss."""
    count = [0]

    def step() -> float:
        value = loss(batches[count[0] % len(batches)])
        count[0] += 1
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return float(value.detach())

    return step


def take_turns(variants: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for turn in range(repeats + 1):
        for name, variant in variants.items():
            start = time.perf_counter()
            value = variant()
            if turn:
                seconds[name].append(time.perf_counter() - start)
            else:
                print(f"{name:24} first loss {value:.7f}")
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/gowalla"))
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    train = read_pairs(arguments.data / "train.txt.gz")
    batches = [
        batch
        for batch, _ in zip(
            TripleSampler(train, LightGCN.sampling, arguments.batch, seed=0),
            range(16),
            strict=False,
        )
    ]
    torch.manual_seed(0)
    ours = LightGCN(train, embed_dim=arguments.dim, num_layers=arguments.layers)
    plain = Plain(train, ours.users.detach(), ours.items.detach(), arguments.layers)

    def sum_of(model: EmbeddingModel) -> Callable[[Triples], Tensor]:
        return lambda batch: torch.stack(list(model.losses(batch).values())).sum()

    graph = ours.graph
    whole = Both(ours.users.detach(), ours.items.detach())
    variants: dict[str, Callable[[], float]] = {
        "torch.sparse.mm, COO": stepper(plain.loss, adam(plain), batches),
        "LightGCN": stepper(sum_of(ours), adam(ours), batches),
    }
    for kind in (SimGCL, XSimGCL):
        model = kind(train, embed_dim=arguments.dim, num_layers=arguments.layers)
        variants[kind.__name__] = stepper(sum_of(model), adam(model), batches)
    variants["a whole product"] = lambda: float(graph.product(whole).users[0, 0])
    for kind_name, fused in (("Adam, fused", True), ("Adam, foreach", False)):
        variants[kind_name] = idle_adam(ours, fused)
    seconds = take_turns(variants, arguments.repeats)
    base = statistics.median(seconds["torch.sparse.mm, COO"])
    print(f"{len(train):,} pairs, {graph.nbytes / len(train):.1f} bytes of graph each")
    for name, times in seconds.items():
        median, best = statistics.median(times), min(times)
        print(
            f"{name:24} median {median * 1e3:8.1f} ms  best {best * 1e3:8.1f} ms  "
            f"{base / median:6.2f} x"
        )
    gathered = 2 * len(train) * 4 * arguments.dim
    print(
        f"a layer gathers {gathered / 1e9:.2f} GB; whole products read "
        f"{gathered / min(seconds['a whole product']) / 1e9:.1f} GB/s; a step of whole products "
        f"only would read {2 * arguments.layers * gathered / 1e9:.2f} GB"
    )


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)


def idle_adam(model: EmbeddingModel, fused: bool) -> Callable[[], float]:
    """An update of copies of all weights, with gradients that are there already."""
    copies = [nn.Parameter(p.detach().clone()) for p in model.parameters()]
    for copy in copies:
        copy.grad = torch.randn_like(copy)
    optimizer = torch.optim.Adam(copies, lr=1e-3, fused=fused, foreach=None if fused else True)

    def step() -> float:
        optimizer.step()
        return 0.0

    return step


if __name__ == "__main__":
    main()
