"""DIN training speed and memory on a CPU, against the usual padded implementation.

    python tests/benchmarks/bench_din.py
    python tests/benchmarks/bench_din.py --threads 1 --lengths real --repeats 11

A step is lookup, model, backward pass and a dense Adam on everything, for 1,024 rows: item and
category of width 64, attended over side by side, unit [80, 40], deep network [200, 80]. Histories
are all 100 events long (`full`), or geometric with mean 10, at most 100 (`real`).

The other side is what public DIN code does, written here: padded ids, the concatenation
[q, k, q - k, q * k] of [B, T, 512], an nn.Sequential, a mask. Both start from the same weights, and
their outputs are compared before and after training. With Dice that holds for full histories only:
padded positions enter the plain one's statistics, so it is timed, not compared, on the others.

Figures are medians over repeats in which both take turns; peak memory is that of a process of its
own per side, less that of a process that only makes the batch.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as nnf
from torch import Tensor, nn

from recsys.data.batch import Batch, Ragged
from recsys.data.schema import NUM_RESERVED, Encoding, Field, Kind, Schema
from recsys.embedding.lookup import EmbeddingOptions
from recsys.models.ctr.din import DIN
from recsys.models.recommender import Recommender
from recsys.training.loop import Trainer
from recsys.training.optimizers import OptimizerOptions, Optimizers
from recsys.training.options import TrainerOptions

SIZES = {"item": 20_000, "category": 500}
DIM, LONGEST, UNIT, DEEP = 64, 100, (80, 40), (200, 80)
HISTORIES = {"history": "item", "category_history": "category"}
Step = Callable[[], object]


@dataclass(frozen=True)
class Data:
    """One batch, jagged and padded."""

    batch: Batch
    padded: dict[str, Tensor]
    mask: Tensor

    @classmethod
    def draw(cls, rows: int, lengths: str) -> Data:
        generator = torch.Generator().manual_seed(0)
        counts = torch.full((rows,), LONGEST)
        if lengths == "real":
            uniform = torch.rand(rows, generator=generator)
            counts = (1 + torch.log(uniform) / torch.log(torch.tensor(0.9))).floor().long()
            counts = counts.clamp(max=LONGEST)
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
        mask = torch.arange(int(counts.max())) < counts.unsqueeze(1)

        def ids(name: str, count: int) -> Tensor:
            drawn = torch.randint(NUM_RESERVED, SIZES[name], (count,), generator=generator)
            return drawn.int()

        singles = torch.stack([ids(name, rows) for name in SIZES], dim=1)
        lists = {name: ids(table, int(offsets[-1])) for name, table in HISTORIES.items()}
        label = torch.randint(0, 2, (rows,), generator=generator).float()
        ragged = {name: Ragged(values, offsets) for name, values in lists.items()}
        padded = {
            HISTORIES[name]: torch.zeros(mask.shape, dtype=torch.int64).masked_scatter(
                mask, values.long()
            )
            for name, values in lists.items()
        }
        return cls(Batch(singles, torch.zeros(rows, 0), label, ragged), padded, mask)


class PlainDice(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(width, eps=1e-8, momentum=0.01, affine=False)
        self.alpha = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        p = torch.sigmoid(self.norm(x.flatten(0, -2)).view_as(x))
        return p * x + (1 - p) * self.alpha * x


class PlainDIN(nn.Module):
    """Padded, concatenated, masked."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.tables = nn.ModuleDict(
            {name: nn.Embedding(size, DIM, padding_idx=0) for name, size in SIZES.items()}
        )
        width = 2 * DIM

        def layers(sizes: tuple[int, ...], act: Callable[[int], nn.Module]) -> nn.Sequential:
            parts: list[nn.Module] = []
            for i, o in itertools.pairwise(sizes):
                parts += [nn.Linear(i, o), act(o)]
            return nn.Sequential(*parts, nn.Linear(sizes[-1], 1))

        chosen = PlainDice if activation == "dice" else lambda _: nn.Sigmoid()
        self.unit = layers((4 * width, *UNIT), chosen)
        self.deep = layers((2 * width, *DEEP), lambda _: nn.ReLU())

    def forward(self, ids: Tensor, padded: dict[str, Tensor], mask: Tensor) -> Tensor:
        tables = [self.tables[name] for name in SIZES]
        target = torch.cat([t(ids[:, i].long()) for i, t in enumerate(tables)], dim=1)
        events = torch.cat([self.tables[name](padded[name]) for name in SIZES], dim=2)
        query = target.unsqueeze(1).expand_as(events)
        joined = torch.cat([query, events, query - events, query * events], dim=2)
        weights = self.unit(joined).squeeze(2) * mask
        interest = (weights.unsqueeze(2) * events).sum(dim=1)
        return self.deep(torch.cat([target, interest], dim=1)).squeeze(1)


def make_ours(activation: str) -> Trainer:
    vocabulary = {"encoding": Encoding.VOCABULARY}
    fields = [Field(name=n, kind=Kind.CATEGORICAL, size=s, **vocabulary) for n, s in SIZES.items()]
    fields += [
        Field(name=n, kind=Kind.HISTORY, shares=t, size=SIZES[t], **vocabulary)
        for n, t in HISTORIES.items()
    ]
    options = OptimizerOptions(name="adam")
    recommender = Recommender.build(
        Schema(fields=tuple(fields), labels=("click",)),
        EmbeddingOptions(dim=DIM, init_std=0.1),
        lambda inputs: DIN(
            inputs.num_fields,
            inputs.embed_dim,
            inputs.num_dense,
            inputs.slots,
            inputs.histories,
            joint=True,
            attention_dims=UNIT,
            attention_activation=activation,
            hidden_dims=DEEP,
            activation="relu",
        ),
        options.storage_factory(torch.device("cpu")),
        pool_histories=False,
    )
    optimizers = Optimizers(recommender.lookup, recommender.model, options)
    return Trainer(recommender, optimizers, TrainerOptions(clip_norm=None))


@torch.no_grad()
def copy_weights(ours: Trainer, plain: PlainDIN) -> None:
    for name in SIZES:
        plain.tables[name].weight[1:] = ours.lookup.tables_state()[f"{name}.weight"]
    model = ours.model
    linear = [layer for layer in model.modules() if isinstance(layer, nn.Linear)]
    theirs = [layer for layer in plain.modules() if isinstance(layer, nn.Linear)]
    for one, other in zip(linear, theirs, strict=True):
        other.weight.copy_(one.weight)
        other.bias.copy_(one.bias)


def sides(data: Data, activation: str, compared: bool) -> dict[str, Step]:
    """A training step of each, after checking that they compute the same."""
    torch.manual_seed(0)
    ours, plain = make_ours(activation), PlainDIN(activation)
    copy_weights(ours, plain)
    optimizer = torch.optim.Adam(plain.parameters(), fused=True)
    arguments = (data.batch.ids, data.padded, data.mask)

    def plain_step() -> float:
        optimizer.zero_grad()
        loss = nnf.binary_cross_entropy_with_logits(plain(*arguments), data.batch.label)
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    def our_step() -> float:
        return float(ours.train_step(data.batch)[0])

    if compared:
        with torch.no_grad():
            torch.testing.assert_close(
                ours.recommender(data.batch), plain(*arguments), rtol=1e-4, atol=1e-5
            )
        losses = [(our_step(), plain_step()) for _ in range(3)]
        torch.testing.assert_close(*torch.tensor(losses).T, rtol=1e-3, atol=1e-4)
    return {"ours": our_step, "plain": plain_step}


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


def peak_mib(args: argparse.Namespace, lengths: str, activation: str, side: str) -> float:
    """Peak memory of a process that makes the batch and takes three steps of one side."""
    command = [sys.executable, __file__, "--rows", str(args.rows), "--lengths", lengths]
    command += ["--activation", activation, "--child", side]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout.splitlines()[-1])


def run_child(args: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    data = Data.draw(args.rows, args.lengths[0])
    if args.child != "nothing":
        step = sides(data, args.activation[0], compared=False)[args.child]
        for _ in range(3):
            step()
    # Linux's own record: ru_maxrss starts at the parent's size.
    status = Path("/proc/self/status").read_text()
    print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1024)
    parser.add_argument("--lengths", nargs="+", default=["full", "real"], choices=["full", "real"])
    parser.add_argument(
        "--activation", nargs="+", default=["sigmoid", "dice"], choices=["sigmoid", "dice"]
    )
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--child", choices=["ours", "plain", "nothing"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        run_child(args)
        return
    for lengths in args.lengths:
        data = Data.draw(args.rows, lengths)
        events = int(data.mask.sum())
        print(f"\n{lengths}: {args.rows} rows, {events:,} events, padded {data.mask.numel():,}")
        for activation in args.activation:
            compared = activation != "dice" or lengths == "full"
            steps = sides(data, activation, compared)
            base = peak_mib(args, lengths, activation, "nothing")
            memory = {n: peak_mib(args, lengths, activation, n) - base for n in steps}
            for threads in args.threads:
                torch.set_num_threads(threads)
                seconds = medians(steps, args.repeats)
                for name, value in seconds.items():
                    print(
                        f"  {activation:8s} {threads} thread(s)  {name:6s} "
                        f"{args.rows / value:9,.0f} rows/s  {value * 1e3:8.1f} ms  "
                        f"peak +{memory[name]:,.0f} MiB (1 thread)"
                    )
                print(f"  {'':22s} {seconds['plain'] / seconds['ours']:.1f} x as fast")


if __name__ == "__main__":
    main()
