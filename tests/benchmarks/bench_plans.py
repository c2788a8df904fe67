"""Plans for machines that are not here: tables on the meta device, TorchRec's planner.

    python tests/benchmarks/bench_plans.py

26 tables of 4 rows up to half of all rows, by a geometric series, rows of a billion and of ten;
row-wise Adagrad; 65,536 rows of a batch per process. No memory of these tables is ever allocated.
"""

from __future__ import annotations

import argparse
import time
import warnings
from collections import Counter

import torch
from torch import nn

from recsys.embedding.sharding import Cluster, plan_tables
from recsys.errors import ConfigError

FIELDS = 26
CLUSTERS = {"8 x 80 GB": Cluster(8, 8, "cuda", 80 * 10**9),
            "64 x 80 GB": Cluster(64, 8, "cuda", 80 * 10**9)}  # fmt: skip


def sizes(total: int) -> list[int]:
    """26 sizes in a geometric series from 4 rows, that add up to about `total`."""
    low, high = 1.0, 1e3
    for _ in range(200):
        ratio = (low + high) / 2
        low, high = (
            (ratio, high) if sum(4 * ratio**i for i in range(FIELDS)) < total else (low, ratio)
        )
    return [max(4, round(4 * ratio**i)) for i in range(FIELDS)]


def plan(rows: list[int], width: int, cluster: Cluster, batch: int) -> tuple[list[str], float]:
    """Cells of a line, and the seconds of planning."""
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection

    names = [f"C{i}" for i in range(len(rows))]
    module = nn.Module()
    module.rows = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=name, num_embeddings=count, embedding_dim=width, feature_names=[name]
            )
            for name, count in zip(names, rows, strict=True)
        ],
        device=torch.device("meta"),
    )
    params = {"optimizer": EmbOptimType.EXACT_ROWWISE_ADAGRAD, "learning_rate": 0.02}
    kinds = dict.fromkeys(names, ("table_wise", "row_wise"))
    begin = time.perf_counter()
    try:
        found = plan_tables(module, kinds, cluster, batch, params).plan["rows"]
    except ConfigError:
        return ["does not fit", "", ""], time.perf_counter() - begin
    taken = time.perf_counter() - begin
    per_rank: Counter[int] = Counter()
    for one in found.values():
        for shard in one.sharding_spec.shards:
            count, columns = shard.shard_sizes
            per_rank[shard.placement.rank()] += 4 * count * (columns + 1)
    split = Counter(one.sharding_type for one in found.values())
    held = [per_rank[rank] / 1e9 for rank in range(cluster.world_size)]
    what = ", ".join(f"{count} {kind}" for kind, count in sorted(split.items()))
    return [what, f"{min(held):.1f}", f"{max(held):.1f}"], taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", default="16,128")
    parser.add_argument("--rows", default="1000000000,10000000000")
    parser.add_argument("--batch", type=int, default=65_536)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    print(
        "| machines | rows | d | weights and state, GB | plan | least GB | most GB | planned in |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for rows in map(int, args.rows.split(",")):
        for width in map(int, args.dims.split(",")):
            for name, cluster in CLUSTERS.items():
                tables = sizes(rows)
                cells, taken = plan(tables, width, cluster, args.batch)
                need = sum(tables) * (width + 1) * 4 / 1e9
                print(
                    f"| {name} | {rows:.0e} | {width} | {need:,.0f} | {' | '.join(cells)} | "
                    f"{taken:.1f} s |"
                )


if __name__ == "__main__":
    main()
