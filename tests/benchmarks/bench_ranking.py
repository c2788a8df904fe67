"""Time and memory of a full ranking, beside the plain ways to write one: run it by hand.

python tests/benchmarks/bench_ranking.py [dim] [k]

Gowalla's pairs where ../shared/data/gowalla is there, drawn pairs of the same size elsewhere; the
vectors are random, with a lean towards popular items. What bounds a full ranking is the product of
the vectors: the first line says how long it would take at the rate of a large square product.
"""

import gzip
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.metrics import top_items
from recsys.metrics.ranking import FullRanking, Ranking

NUM_USERS, NUM_ITEMS = 29_858, 40_981
FOLDER = Path(__file__).parents[3] / "shared/data/gowalla"
MIB = 1 << 20


def read_pairs(part: str, size: int) -> Pairs:
    if not FOLDER.is_dir():
        rng = np.random.default_rng(size)
        return Pairs.of(
            rng.integers(0, NUM_USERS, size),
            (NUM_ITEMS * rng.random(size) ** 2).astype(int),
            NUM_USERS,
            NUM_ITEMS,
        )
    with gzip.open(FOLDER / f"{part}.txt.gz", "rt") as lines:
        rows = [np.array(line.split(), np.int64) for line in lines]
    users = np.concatenate([np.full(len(row) - 1, row[0]) for row in rows])
    return Pairs.of(users, np.concatenate([row[1:] for row in rows]), NUM_USERS, NUM_ITEMS)


def timed(function: Callable[[], float], repeats: int) -> tuple[float, float]:
    """Best time of a few, and the result."""
    best, result = float("inf"), 0.0
    for _ in range(repeats):
        begin = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - begin)
    return best, result


def product_rate() -> float:
    """FLOP per second of a product of square matrices."""
    size = 1536
    one = torch.randn(size, size)
    out = torch.empty_like(one)
    return 2 * size**3 / timed(lambda: float(torch.mm(one, one, out=out)[0, 0]), repeats=10)[0]


def plain_torch(
    users: Tensor, items: Tensor, train: Pairs, test: Pairs, k: int, block: int
) -> float:
    """Recall by masking with minus infinity, torch.topk, and a lookup in a dense row of marks."""
    total = 0.0
    offsets, degrees = train.offsets, train.user_degrees
    for start in range(0, NUM_USERS, block):
        stop = min(start + block, NUM_USERS)
        scores = users[start:stop] @ items.T
        rows = np.repeat(np.arange(stop - start), degrees[start:stop])
        columns = train.items[offsets[start] : offsets[stop]]
        scores[torch.from_numpy(rows), torch.from_numpy(columns).long()] = float("-inf")
        best = scores.topk(k, dim=1).indices
        marks = torch.zeros(stop - start, NUM_ITEMS, dtype=torch.bool)
        sizes = test.user_degrees[start:stop]
        rows = np.repeat(np.arange(stop - start), sizes)
        columns = test.items[test.offsets[start] : test.offsets[stop]]
        marks[torch.from_numpy(rows), torch.from_numpy(columns).long()] = True
        hits = marks.gather(1, best).sum(dim=1)
        total += float((hits[sizes > 0] / torch.from_numpy(sizes)[sizes > 0]).sum())
    return total / int((test.user_degrees > 0).sum())


def user_loop(
    users: Tensor, items: Tensor, train: Pairs, test: Pairs, k: int, chosen: range
) -> float:
    """Recall of some users, one after the other."""
    shares = []
    for user in chosen:
        scores = (items @ users[user]).numpy()
        scores[train.of_user(user)] = -np.inf
        best = np.argpartition(-scores, k)[:k]
        wanted = set(test.of_user(user).tolist())
        if wanted:
            shares.append(len(wanted.intersection(best.tolist())) / len(wanted))
    return float(np.mean(shares))


def main(dim: int, k: int) -> None:
    train, test = read_pairs("train", 810_128), read_pairs("test", 217_242)
    generator = torch.Generator().manual_seed(0)
    users, items = (torch.randn(n, dim, generator=generator) for n in (NUM_USERS, NUM_ITEMS))
    users[:, 0], items[:, 0] = 1.0, torch.from_numpy(np.log1p(train.item_degrees)).float() * 4
    found: dict[str, Ranking] = {}

    def full(way: str) -> float:
        setting = FullRanking(test, train, ks=[k])
        found[way] = (
            setting.of_vectors(users, items)
            if way == "vectors"
            else setting.of_scores(lambda rows: users[rows] @ items.T)
        )
        return found[way].metrics[f"recall_at_{k}"]

    top_items.top_items_kernel()
    torch.randn(64, 64) @ torch.randn(64, 64)
    before = psutil.Process().memory_info().rss
    peaks = []
    threads = torch.get_num_threads()
    print(f"{NUM_USERS:,} users x {NUM_ITEMS:,} items, D = {dim}, k = {k}, {threads} threads")
    flop = 2 * NUM_USERS * NUM_ITEMS * dim
    bound = flop / product_rate()
    print(f"bound: {flop / 1e9:.0f} GFLOP in {bound:.2f} s at {flop / bound / 1e9:.0f} GFLOP/s")
    rows = []
    for way in ("vectors", "scores"):
        rows.append((f"recsys, {way}, all metrics", *timed(lambda way=way: full(way), repeats=3)))
        peaks.append((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before) / MIB)
    block = 24 * MIB // (4 * NUM_ITEMS)
    rows.append(
        (
            "mask, torch.topk, recall only",
            *timed(lambda: plain_torch(users, items, train, test, k, block), repeats=2),
        )
    )
    some = range(0, NUM_USERS, 100)
    seconds, recall = timed(lambda: user_loop(users, items, train, test, k, some), repeats=1)
    rows.append(("loop over every 100th user x 100", seconds * NUM_USERS / len(some), recall))
    print(f"{'seconds, best of a few':36}{'time':>8}{'/ bound':>9}  recall")
    for name, seconds, recall in rows:
        print(f"{name:36}{seconds:8.2f}{seconds / bound:9.2f}  {recall:.6f}")
    print(f"peak above the vectors, vectors {peaks[0]:.0f} MiB, then scores {peaks[1]:.0f} MiB")
    for name, value in found["vectors"].metrics.items():
        print(f"{name:24}{value:.6f}  {value - found['scores'].metrics[name]:+.1e} by scores")


if __name__ == "__main__":
    arguments = [int(argument) for argument in sys.argv[1:]]
    main(*(arguments + [64, 20][len(arguments) :]))
