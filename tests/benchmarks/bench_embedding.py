"""Lookup, backward and update of one batch, by storage and optimiser.

    python tests/benchmarks/bench_embedding.py [--vocab 10000] [--dim 16] [--batch 4096]

Bound: a step must at least read the looked-up vectors, read their gradients, and read and write the
touched rows and their state; the table prints those bytes and the bandwidth that was reached.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch

from recsys.embedding.storage import DenseStorage, FusedStorage, SparseStorage, Storage
from recsys.training.row_sparse import LazyAdam, RowwiseAdagrad


def power_law(rows: int, fields: int, vocab: int, seed: int) -> torch.Tensor:
    """Ids of a field fall off as 1 / rank, as in click logs; each field has its own range."""
    draw = np.random.default_rng(seed).random((rows, fields))
    ids = np.minimum(np.exp(draw * np.log(vocab)).astype(np.int64), vocab - 1)
    return torch.from_numpy((ids + np.arange(fields) * vocab).ravel() + 1)


def timed(step: Callable[[int], None], repeats: int) -> float:
    for i in range(3):
        step(i)
    seconds = []
    for i in range(repeats):
        start = time.perf_counter()
        step(i)
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def make_step(
    storage: Storage, optimizer: torch.optim.Optimizer | None, ids: list[torch.Tensor]
) -> Callable[[int], None]:
    gradient = torch.randn(ids[0].shape[0], storage.width)

    def step(i: int) -> None:
        vectors, _ = storage(ids[i % len(ids)])
        vectors.backward(gradient)
        if optimizer is not None:
            optimizer.step()
            optimizer.zero_grad()

    return step


def torchrec_step(
    rows: int, dim: int, ids: list[torch.Tensor]
) -> tuple[Callable[[int], None], Callable[[], None]]:
    """TorchRec's sharded collection on one process, fed bags of one; and how to leave its group."""
    import torch.distributed as dist
    from torch.distributed.optim import _apply_optimizer_in_backward
    from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor
    from torchrec.distributed import DistributedModelParallel
    from torchrec.optim import RowWiseAdagrad

    os.environ.update(RANK="0", WORLD_SIZE="1", MASTER_ADDR="127.0.0.1", MASTER_PORT="29533")
    dist.init_process_group("gloo")
    config = EmbeddingBagConfig(
        name="t", num_embeddings=rows, embedding_dim=dim, feature_names=["rows"]
    )
    collection = EmbeddingBagCollection([config], device=torch.device("meta"))
    _apply_optimizer_in_backward(RowWiseAdagrad, collection.parameters(), {"lr": 0.01})
    model = DistributedModelParallel(collection, device=torch.device("cpu"))
    lengths = torch.ones(ids[0].shape[0], dtype=torch.int64)
    gradient = torch.randn(ids[0].shape[0], dim)

    def step(i: int) -> None:
        bags = KeyedJaggedTensor(["rows"], ids[i % len(ids)], lengths=lengths)
        model(bags).values().backward(gradient)

    return step, dist.destroy_process_group


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vocab", type=int, default=10_000)
    parser.add_argument("--fields", type=int, default=39)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = args.vocab * args.fields + 1
    ids = [power_law(args.batch, args.fields, args.vocab, seed) for seed in range(4)]
    distinct = statistics.mean(len(batch.unique()) for batch in ids)
    print(
        f"{rows:,} rows x {args.dim}, batch {args.batch} x {args.fields}: {distinct:,.0f} distinct"
    )

    def fused() -> tuple[Storage, None]:
        return FusedStorage(rows, args.dim, optimizer="rowwise_adagrad", lr=0.01), None

    def sparse_adagrad() -> tuple[Storage, torch.optim.Optimizer]:
        storage = SparseStorage(rows, args.dim)
        return storage, RowwiseAdagrad(storage.parameters())

    def lazy_adam() -> tuple[Storage, torch.optim.Optimizer]:
        storage = SparseStorage(rows, args.dim)
        return storage, LazyAdam(storage.parameters())

    def torch_sparse_adam() -> tuple[Storage, torch.optim.Optimizer]:
        storage = SparseStorage(rows, args.dim)
        return storage, torch.optim.SparseAdam(list(storage.parameters()))

    def dense_adam() -> tuple[Storage, torch.optim.Optimizer]:
        storage = DenseStorage(rows, args.dim)
        return storage, torch.optim.Adam(storage.parameters(), fused=True)

    looked_up = args.batch * args.fields * args.dim * 4
    per_row = {"FBGEMM row-wise Adagrad": 2, "row-wise Adagrad": 2, "lazy Adam": 6}
    cases = {
        "FBGEMM row-wise Adagrad": fused,
        "row-wise Adagrad": sparse_adagrad,
        "lazy Adam": lazy_adam,
        "torch SparseAdam": torch_sparse_adam,
        "dense Adam (fused)": dense_adam,
    }
    for name, make in cases.items():
        seconds = timed(make_step(*make(), ids), args.repeats)
        line = f"{name:26s} {args.batch / seconds:10,.0f} rows/s  {seconds * 1e3:7.1f} ms"
        if name in per_row:
            bound = 3 * looked_up + per_row[name] * distinct * args.dim * 4
            line += f"  {bound / 2**20:6.1f} MiB at least, {bound / seconds / 1e9:5.2f} GB/s"
        print(line)
    step, leave = torchrec_step(rows, args.dim, ids)
    seconds = timed(step, args.repeats)
    leave()
    speed = args.batch / seconds
    print(f"{'TorchRec DMP, 1 process':26s} {speed:10,.0f} rows/s  {seconds * 1e3:7.1f} ms")
    table = torch.zeros(rows, args.dim)

    def gather(i: int) -> None:
        table.index_select(0, ids[i % 4])

    seconds = timed(gather, args.repeats)
    print(f"{'(gather alone)':26s} {args.batch / seconds:10,.0f} rows/s  {seconds * 1e3:7.1f} ms")


if __name__ == "__main__":
    main()
