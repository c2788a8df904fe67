"""Rows per second of the loader, beside what memory allows and beside torch's DataLoader.

python tests/benchmarks/bench_loader.py --rows 4000000 --fields 39 --batch 4096
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from recsys.data.encode import EncodedTable
from recsys.data.loader import Loader, Order
from recsys.data.schema import Encoding, Field, Kind, Schema
from recsys.data.store import Store, StoreWriter

CODES = 1_000_000


class Rows(Dataset):
    """The usual way: one item per row, collated by torch."""

    def __init__(self, store: Store) -> None:
        self.ids, self.label = torch.from_numpy(store.ids), torch.from_numpy(store.label)

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.ids[row], self.label[row]


def write_store(folder: Path, rows: int, fields: int, length: int) -> Store:
    """Random codes; with `length`, a history of up to so many events as well."""
    schema = Schema(
        tuple(
            Field(name=f"f{i}", kind=Kind.CATEGORICAL, encoding=Encoding.VOCABULARY, size=CODES)
            for i in range(fields)
        )
        + (
            (Field(name="history", kind=Kind.HISTORY, encoding=Encoding.VOCABULARY, size=CODES),)
            if length
            else ()
        ),
        ("click",),
    )
    draw = np.random.default_rng(0)
    with StoreWriter(folder, schema, files=[("random", rows)]) as writer:
        for start in range(0, rows, 262_144):
            size = min(262_144, rows - start)
            offsets = np.concatenate([[0], np.cumsum(draw.integers(0, length + 1, size))])
            events = draw.integers(3, CODES, int(offsets[-1]), np.int32)
            writer.append(
                EncodedTable(
                    ids=draw.integers(3, CODES, (size, fields), np.int32),
                    dense=np.empty((size, 0), np.float32),
                    ragged={"history": (events, offsets)} if length else {},
                    label=draw.integers(0, 2, size).astype(np.float32),
                    weight=None,
                    group=None,
                )
            )
    return Store.open(folder)


def rows_per_s(batches: Callable[[], Iterable], size: Callable[..., int], limit: int) -> float:
    """Best of three passes over at most `limit` rows."""
    best = 0.0
    for _ in range(3):
        start, rows = time.perf_counter(), 0
        for batch in batches():
            rows += size(batch)
            if rows >= limit:
                break
        best = max(best, rows / (time.perf_counter() - start))
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=4_000_000)
    parser.add_argument("--fields", type=int, default=39)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--history", type=int, default=0, help="longest history; 0 has none")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report(write_store(Path(folder) / "store", args.rows, args.fields, args.history), args)


def report(store: Store, args: argparse.Namespace) -> None:
    arrays = [store.ids, store.label, *(array for pair in store.ragged.values() for array in pair)]
    num_bytes = sum(array.nbytes for array in arrays) // store.num_rows
    source = torch.from_numpy(store.ids)
    target = torch.empty_like(source)
    copies = []
    for _ in range(3):
        start = time.perf_counter()
        target.copy_(source)
        copies.append(source.nbytes / (time.perf_counter() - start))
    del target
    bound = max(copies) / num_bytes
    start = time.perf_counter()
    Order(store.num_rows, 4_194_304, (0, 0)).rows(0, 1)
    order_s = time.perf_counter() - start

    print(f"{store.num_rows:,} rows x {args.fields} fields, batch {args.batch:,}")
    print(f"{num_bytes} bytes gathered per row; a plain copy moves {max(copies) / 1e9:.1f} GB/s,")
    print(f"which bounds any loader here by {bound:,.0f} rows/s")
    print(f"making the order of an epoch takes {order_s:.2f} s\n")
    print(f"{'':44}{'rows/s':>14}{'of the bound':>14}")
    for label, shuffle, prefetch, shuffle_rows in (
        ("loader, in order", False, 2, 4_194_304),
        ("loader, permuted, read in the caller's thread", True, 0, 4_194_304),
        ("loader, permuted", True, 2, 4_194_304),
        ("loader, permuted in windows of 1/8", True, 2, max(store.num_rows // 8, 1)),
    ):
        loader = Loader(
            store, args.batch, shuffle=shuffle, prefetch=prefetch, shuffle_rows=shuffle_rows
        )
        show(label, rows_per_s(lambda loader=loader: loader, len, store.num_rows), bound)
    naive = DataLoader(Rows(store), args.batch, shuffle=True)
    speed = rows_per_s(lambda: naive, lambda batch: len(batch[1]), 20 * args.batch)
    show("torch DataLoader, row by row", speed, bound)


def show(label: str, speed: float, bound: float) -> None:
    print(f"{label:46}{speed:>12,.0f}{speed / bound:>14.1%}")


if __name__ == "__main__":
    main()
