"""Reading rows of 4, 8 and 16 bits a number, beside float32 and what torch and FBGEMM have.

    python tests/benchmarks/bench_compact_tables.py [--rows 3900000] [--dim 16] [--reads 160000]

Every reader reads the same uniform rows, by turns, into float32. Seconds are of the processor: the
machine may be busy. Bound: the bytes of the rows read and of the numbers written.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from recsys.embedding.compact_rows import FORMATS, CompactRows
from recsys.embedding.compact_storage import CompactStorage


def fbgemm_reader(bits: int, rows: torch.Tensor, weights: torch.Tensor) -> Callable[[], object]:
    """FBGEMM's table for inference, bags of one; its contents are its own, which costs the same."""
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import (
        IntNBitTableBatchedEmbeddingBagsCodegen,
    )

    kind = {16: SparseType.FP16, 8: SparseType.INT8, 4: SparseType.INT4}[bits]
    table = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("table", *weights.shape, kind, EmbeddingLocation.HOST)],
        device="cpu",
        pooling_mode=PoolingMode.SUM,
        output_dtype=SparseType.FP32,
    )
    table.fill_random_weights()
    offsets = torch.arange(len(rows) + 1, dtype=torch.int32)
    return lambda: table(rows.int(), offsets)


def readers(rows: torch.Tensor, weights: torch.Tensor) -> dict[str, tuple[int, Callable]]:
    """Name -> bytes of a row, and what reads them."""
    dim = weights.shape[1]
    found: dict[str, tuple[int, Callable]] = {
        "float32, torch": (4 * dim, lambda: F.embedding(rows, weights))
    }
    offsets = torch.arange(len(rows) + 1)
    quantized = torch.ops.quantized
    for bits, name in ((8, "byte"), (4, "4bit")):
        packed = getattr(quantized, f"embedding_bag_{name}_prepack")(weights)
        look_up = getattr(quantized, f"embedding_bag_{name}_rowwise_offsets")
        found[f"int{bits}, torch's quantized bags"] = (
            packed.shape[1],
            lambda look_up=look_up, packed=packed: look_up(
                packed, rows, offsets, False, 0, False, None, None, True
            ),
        )
    for name in FORMATS:
        storage = CompactStorage(len(weights), CompactRows(name, dim, dim))
        storage.fill(weights)
        size = storage.rows.num_bytes
        found[name] = (size, lambda storage=storage: storage(rows))
        found[f"{name}, by torch's operations"] = (
            size,
            lambda s=storage: s.rows.decode(s.stored.index_select(0, rows)),
        )
        try:
            found[f"{name}, FBGEMM"] = (
                size,
                fbgemm_reader(storage.rows.bits, rows, weights),
            )
        except (ImportError, OSError, RuntimeError) as error:
            print(f"no FBGEMM reader of {name}: {error}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=3_900_000)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--reads", type=int, default=160_000)
    parser.add_argument("--repeats", type=int, default=21)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    weights = torch.randn(args.rows, args.dim) * 0.1
    rows = torch.randint(0, args.rows, (args.reads,))
    found = readers(rows, weights)
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for _ in range(args.repeats + 1):
        for name, (_, read) in found.items():
            begin = time.process_time()
            read()
            seconds[name].append(time.process_time() - begin)
    print(f"{args.rows:,} rows x {args.dim}, {args.reads:,} read, one thread")
    for name, (size, _) in found.items():
        middle = statistics.median(seconds[name][1:])
        moved = args.reads * (size + 4 * args.dim)
        print(
            f"{name:<34}{size:>4} bytes a row  {1e9 * middle / args.reads:7.1f} ns a row  "
            f"{moved / middle / 1e9:5.2f} GB/s"
        )


if __name__ == "__main__":
    main()
