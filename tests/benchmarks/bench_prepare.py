"""Speed and peak memory of preparing Criteo-shaped Parquet, beside pandas doing the same mapping.

    python tests/benchmarks/bench_prepare.py --rows 1M
    python tests/benchmarks/bench_prepare.py --rows 10M 20M --pandas-rows 10M --folder <scratch>

The table has 26 text columns (cardinalities of Criteo, up to 1.5 million, skewed), 13 numeric
columns with nulls and a label. Both map every text to a code by descending frequency and every
number to its standardised logarithm, and write the result. Each runs in a process of its own; peak
memory is that of the whole process, while the clocks start after its imports. Files are generated
once, seeded.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CARDINALITIES = [
    1460, 583, 1_500_000, 1_000_000, 305, 24, 12517, 633, 3, 93145, 5683, 1_200_000, 3194, 27,
    14992, 1_000_000, 10, 5652, 2173, 4, 1_200_000, 18, 15, 286181, 105, 142572,
]  # fmt: skip
CHUNK = 500_000
HEADER = f"{'':8}{'rows':>12}{'seconds':>10}{'rows/s':>12}{'cpu s':>9}{'peak GiB':>10}"


def generate(path: Path, rows: int, seed: int = 0) -> None:
    """Write the table, a chunk at a time."""
    vocabularies = []
    for position, size in enumerate(CARDINALITIES):
        ids = np.arange(size, dtype=np.uint64) * np.uint64(2654435761)
        ids = (ids + np.uint64(position * 7919 + 1)) % np.uint64(2**32)
        vocabularies.append(pa.array([f"{one:08x}" for one in ids.tolist()]))
    writer = None
    for number, start in enumerate(range(0, rows, CHUNK)):
        rng = np.random.default_rng([seed, number])
        count = min(CHUNK, rows - start)
        columns = {"label": pa.array((rng.random(count) < 0.25).astype(np.int8))}
        for i in range(13):
            x = np.floor(np.exp(rng.normal(2, 1.5, count))) - 1
            columns[f"I{i + 1}"] = pa.array(x, mask=rng.random(count) < 0.1 * (i % 4))
        for i, (size, vocabulary) in enumerate(zip(CARDINALITIES, vocabularies, strict=True)):
            draws = np.minimum((size * rng.random(count) ** 4).astype(np.int64), size - 1)
            draws = pa.array(draws, mask=rng.random(count) < 0.03 * (i % 3))
            columns[f"C{i + 1}"] = vocabulary.take(draws)
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def run_recsys(path: Path, folder: Path) -> None:
    from recsys.data.infer import infer_schema
    from recsys.data.options import DataOptions
    from recsys.data.prepare import prepare
    from recsys.data.raw import RawDataset
    from recsys.data.readers import Source

    source = Source.open(path)
    raw = RawDataset("bench", {"train": source}, infer_schema(source, "label"))
    prepare(raw, DataOptions(), folder)


def run_pandas(path: Path, folder: Path) -> None:
    import pandas as pd

    frame = pd.read_parquet(path)
    out = {"label": frame["label"].astype("float32")}
    for name in [c for c in frame if c.startswith("C")]:
        counts = frame[name].value_counts()
        codes = pd.Series(np.arange(3, 3 + len(counts)), index=counts.index)
        out[name] = frame[name].map(codes).fillna(1).astype("int32")
    for name in [c for c in frame if c.startswith("I")]:
        y = np.sign(frame[name]) * np.log1p(frame[name].abs())
        out[name] = ((y - y.mean()) / y.std(ddof=0)).fillna(0).astype("float32")
    folder.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(out).to_parquet(folder / "pandas.parquet")


def measure(what: str, path: Path, rows: int, folder: Path) -> dict[str, float]:
    """Run one side in a fresh process."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    os.sync()
    subprocess.run(
        [sys.executable, __file__, "--child", what, str(path), str(folder / "out")], check=True
    )
    seconds, cpu, peak = map(float, (folder / "out" / "usage").read_text().split())
    shutil.rmtree(folder / "out")
    return {"seconds": seconds, "rows/s": rows / seconds, "cpu_s": cpu, "peak_gib": peak}


def child(what: str, path: Path, folder: Path) -> None:
    if what == "recsys":
        pass
    else:
        import pandas  # noqa: F401
    start, cpu = time.perf_counter(), time.process_time()
    {"recsys": run_recsys, "pandas": run_pandas}[what](path, folder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak /= 2**30 if sys.platform == "darwin" else 2**20
    (folder / "usage").write_text(f"{seconds} {cpu} {peak}")


def size(text: str) -> int:
    return int(float(text.rstrip("kM")) * {"k": 1000, "M": 1_000_000}.get(text[-1], 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=size, nargs="+", default=[1_000_000])
    parser.add_argument("--pandas-rows", type=size, nargs="*", default=[1_000_000])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "recsys-bench")
    parser.add_argument("--child", nargs=3)
    arguments = parser.parse_args()
    if arguments.child:
        what, path, folder = arguments.child
        child(what, Path(path), Path(folder))
        return
    arguments.folder.mkdir(parents=True, exist_ok=True)
    print(
        f"{'':8}{'rows':>12}{'seconds':>10}{'rows/s':>12}{'cpu s':>9}{'peak GiB':>10}", flush=True
    )
    jobs = [("recsys", n) for n in arguments.rows] + [("pandas", n) for n in arguments.pandas_rows]
    for what, rows in jobs:
        path = arguments.folder / f"criteo-{rows}.parquet"
        if not path.exists():
            generate(path, rows)
        found = measure(what, path, rows, arguments.folder)
        print(
            f"{what:8}{rows:12,}{found['seconds']:10.1f}{found['rows/s']:12,.0f}"
            f"{found['cpu_s']:9.1f}{found['peak_gib']:10.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
