"""Time, memory and quality of the closed forms of collaborative filtering.

    python tests/benchmarks/bench_closed_forms.py gowalla ../shared/data/gowalla chebycf gfcf

Each model is fitted on all train pairs at its published settings for the data set, and scores
every test user; the settings were chosen on test users, as is the custom of the papers. Printed
are the seconds of fitting and of scoring, recall and NDCG at 20, and the growth of memory.
"""

from __future__ import annotations

import argparse
import gzip
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import torch
from torch import Tensor

from recsys.data.pairs import Pairs
from recsys.models.cf.bspm import BSPM
from recsys.models.cf.chebycf import ChebyCF
from recsys.models.cf.ease import EASE
from recsys.models.cf.gfcf import GFCF
from recsys.models.cf.itemknn import ItemKNN
from recsys.models.cf.popularity import Popularity
from recsys.models.cf.turbocf import TurboCF
from recsys.models.collaborative import ClosedForm

MODELS: dict[str, dict[str, Callable[[int, int], ClosedForm]]] = {
    "gowalla": {
        "popularity": Popularity,
        "itemknn": ItemKNN,
        "gfcf": GFCF,
        "chebycf": ChebyCF,
        "turbocf": TurboCF,
        "bspm": BSPM,
        "ease": EASE,
    },
    "yelp2018": {
        "popularity": Popularity,
        "itemknn": ItemKNN,
        "gfcf": GFCF,
        "turbocf": lambda users, items: TurboCF(users, items, power=1.0, order=2),
        "bspm": lambda users, items: BSPM(
            users, items, rank=384, ideal=0.3, sharpen_time=1.2, solver="euler", average=True
        ),
        "ease": lambda users, items: EASE(users, items, l2=213.0),
    },
}


def read(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Users and items of a file with one line per user: user item item ..."""
    with gzip.open(folder / f"{part}.txt.gz", "rt") as lines:
        rows = [np.array(line.split(), np.int64) for line in lines]
    users = np.concatenate([np.full(len(row) - 1, row[0]) for row in rows if len(row)])
    return users, np.concatenate([row[1:] for row in rows])


def judge(
    score: Callable[[Tensor], Tensor], train: Pairs, test: Pairs, block: int, k: int = 20
) -> tuple[float, float, float]:
    """Seconds of scoring, recall@k and NDCG@k over all users with test items."""
    everyone = np.flatnonzero(test.user_degrees)
    discounts = 1 / np.log2(np.arange(2, k + 2))
    seconds, recall, ndcg = 0.0, [], []
    for start in range(0, len(everyone), block):
        users = everyone[start : start + block]
        begin = time.perf_counter()
        scores = score(torch.from_numpy(users))
        seconds += time.perf_counter() - begin
        for row, user in enumerate(users):
            scores[row, torch.from_numpy(train.of_user(user)).long()] = -torch.inf
        for user, top in zip(users, scores.topk(k).indices.numpy(), strict=True):
            wanted = test.of_user(user)
            hits = np.isin(top, wanted)
            recall.append(hits.sum() / len(wanted))
            ndcg.append((hits * discounts).sum() / discounts[: len(wanted)].sum())
    return seconds, float(np.mean(recall)), float(np.mean(ndcg))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=MODELS)
    parser.add_argument("folder", type=Path, help="with train.txt.gz and test.txt.gz")
    parser.add_argument("models", nargs="*", help="all but ease by default")
    parser.add_argument("--block", type=int, default=512, help="users scored at a time")
    args = parser.parse_args()
    train_pairs, test_pairs = read(args.folder, "train"), read(args.folder, "test")
    sizes = [1 + int(max(a.max(), b.max())) for a, b in zip(train_pairs, test_pairs, strict=True)]
    train, test = Pairs.of(*train_pairs, *sizes), Pairs.of(*test_pairs, *sizes)
    print(
        f"{args.data}: {sizes[0]:,} users, {sizes[1]:,} items, {len(train):,} train, "
        f"{len(test):,} test pairs, {torch.get_num_threads()} threads"
    )
    for name in args.models or [name for name in MODELS[args.data] if name != "ease"]:
        before = psutil.Process().memory_info().rss
        start = time.perf_counter()
        model = MODELS[args.data][name](*sizes)
        model.fit(train)
        fitted = time.perf_counter() - start
        scored, recall, ndcg = judge(model.scores, train, test, args.block)
        grown = (psutil.Process().memory_info().rss - before) / 2**20
        print(
            f"{name:<11} fit {fitted:6.1f} s  score {scored:6.1f} s  recall@20 {recall:.5f}  "
            f"ndcg@20 {ndcg:.5f}  memory +{grown:,.0f} MiB",
            flush=True,
        )


if __name__ == "__main__":
    main()
