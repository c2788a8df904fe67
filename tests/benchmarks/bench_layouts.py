"""Collisionless, hashed and multiplexed tables at equal bytes, as in the paper's Table 1.

    python tests/benchmarks/bench_layouts.py --frappe <folder> [--seeds 3] [--jobs 2]

Trains DCNv2 (2 crosses beside [200, 200]) for every layout, ratio, data set and seed, each in a
process of its own, and prints test AUC as mean +- standard deviation over seeds. One setting serves
every layout of a data set; early stopping sees validation rows alone. Runs that exist in `--out`
are kept, so that an interrupted table continues.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

CELLS = [("full", 1.0)] + [
    (layout, ratio) for ratio in (0.1, 0.01) for layout in ("hashed", "multiplexed")
]
COMMON = [
    "ctr=dcnv2",
    "ctr.num_cross_layers=2",
    "ctr.hidden_dims=[200,200]",
    "ctr.dropout=0.2",
    "tracking=none",
    "console=none",
    "trainer.epochs=15",
    "embedding.init_std=0.01",
]
L2 = {"synthetic": 0.0, "frappe": 0.05}
"""Dense L2 on the tables: the published one on Frappe, where none overfits; none is needed else."""


def arguments(name: str, source: str, layout: str, ratio: float, seed: int) -> list[str]:
    keys = [
        f"embedding={layout}",
        "embedding.dim=10",
        f"optimizer.embedding_l2={L2[name]}",
        f"seed={seed}",
    ]
    if layout != "full":
        keys.append(f"embedding.ratio={ratio}")
    if name == "frappe":
        keys += [f"data.source={source}"]
    return [*COMMON, f"data={name}", *keys]


def run(out: Path, name: str, keys: list[str], threads: int) -> dict:
    result = out / f"{name}.json"
    if not result.exists():
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
        subprocess.run(
            [sys.executable, "-m", "pipelines.train", *keys, f"result_file={result}",
             f"output_dir={out / 'runs' / name}"],
            check=True,
            env=environment,
        )  # fmt: skip
    return json.loads(result.read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frappe", help="folder of the Frappe files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("outputs/bench_layouts"))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    sets = {"synthetic": "synthetic", **({"frappe": args.frappe} if args.frappe else {})}
    threads = max(1, (os.cpu_count() or 1) // args.jobs)
    work = {}
    with ThreadPoolExecutor(args.jobs) as pool:
        for seed in range(1, args.seeds + 1):
            for data, source in sets.items():
                for layout, ratio in CELLS:
                    keys = arguments(data, source, layout, ratio, seed)
                    work[data, layout, ratio, seed] = pool.submit(
                        run, args.out, f"{data}-{layout}-{ratio}-{seed}", keys, threads
                    )
        results = {key: future.result() for key, future in work.items()}
    for data in sets:
        print(f"\n| {data} | bytes of the tables | test AUC |\n|---|---|---|")
        for layout, ratio in CELLS:
            runs = [results[data, layout, ratio, seed] for seed in range(1, args.seeds + 1)]
            test = [r["metrics"]["test"]["auc"] for r in runs]
            deviation = statistics.stdev(test) if len(test) > 1 else 0.0
            print(
                f"| {layout} {ratio:g} | {runs[0]['embedding_bytes']['weights']:,} | "
                f"{statistics.mean(test):.4f} +- {deviation:.4f} |"
            )


if __name__ == "__main__":
    main()
