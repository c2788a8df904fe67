"""One epoch of negatives on one core.

    python tests/benchmarks/bench_triples.py [--data ../shared/data/gowalla]

Goal: 810,128 triples of Gowalla with one exact negative each in less than half a second.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

from recsys.data.triple_sampler import Sampling, TripleSampler
from tests.benchmarks.bench_propagation import read_pairs

CASES = {
    "users, one exact": Sampling(draw="users"),
    "pairs, one exact": Sampling(draw="pairs"),
    "users, one of any": Sampling(draw="users", reject=False),
    "pairs, 16 exact": Sampling(draw="pairs", negatives=16),
    "pairs, 16 of any": Sampling(draw="pairs", negatives=16, reject=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path("../shared/data/gowalla"))
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train = read_pairs(arguments.data / "train.txt.gz")
    for name, sampling in CASES.items():
        start = time.perf_counter()
        sampler = TripleSampler(train, sampling, arguments.batch, seed=0)
        prepared = time.perf_counter() - start
        seconds = []
        for epoch in range(arguments.repeats):
            sampler.set_epoch(epoch)
            start = time.perf_counter()
            rows = sum(len(batch) for batch in sampler)
            seconds.append(time.perf_counter() - start)
        print(
            f"{name:20} {rows:,} rows in {min(seconds):.3f} s (first use {prepared:.3f} s), "
            f"{rows * sampling.negatives / min(seconds) / 1e6:.1f} million negatives a second"
        )


if __name__ == "__main__":
    main()
