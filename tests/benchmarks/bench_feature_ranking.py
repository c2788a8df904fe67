"""Feature ranking: planted columns, the published package beside it, and tables of many rows.

    python tests/benchmarks/bench_feature_ranking.py planted --seeds 7 11 12 13 14
    python tests/benchmarks/bench_feature_ranking.py peer --outrank <venv>/bin/outrank
    python tests/benchmarks/bench_feature_ranking.py rows --rows 1M 10M --folder <scratch>

`planted` and `peer` use the generator of the shared bench (40 or 100 columns, 200,000 rows); both
programs run as their users run them, from the command line, CSV parsing included, in turn, and the
peak is that of the whole tree of processes (proportional set size, so that shared pages count
once). `rows` writes Parquet of 100 columns: 40 text columns of up to 200,000 values, 40 of whole
numbers, 20 numeric.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "bench"
CHUNK = 500_000
EVERY_S = 0.5
"""Between looks at the memory, which cost the watched processes time."""


def planted_table(folder: Path, columns: int, seed: int) -> Path:
    """A planted set of the shared bench, made once."""
    path = folder / f"f{columns}_{seed}"
    if not (path / "truth.json").exists():
        generator = [sys.executable, str(SHARED / "outrank_data.py"), str(path)]
        keys = ["--rows", "200000", "--features", str(columns), "--seed", str(seed)]
        subprocess.run([*generator, *keys], check=True, stdout=subprocess.DEVNULL)
    return path


def watched(command: list[str], cwd: Path) -> tuple[float, float]:
    """Seconds and peak memory in MiB of a command and all of its children."""
    start, peak = time.perf_counter(), 0
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin", "HOME": str(cwd)}
    with (
        tempfile.TemporaryFile() as said,  # a pipe that nobody reads would stop the package
        subprocess.Popen(command, cwd=cwd, env=environment, stdout=said, stderr=said) as process,
    ):
        root = psutil.Process(process.pid)
        while process.poll() is None:
            used = 0
            try:
                for one in (root, *root.children(recursive=True)):
                    used += one.memory_full_info().pss
            except psutil.Error:
                pass
            peak = max(peak, used)
            with contextlib.suppress(subprocess.TimeoutExpired):  # its end is not to be waited for
                process.wait(EVERY_S)
        seconds = time.perf_counter() - start
        if process.returncode:
            said.seek(0)
            raise RuntimeError(said.read().decode()[-2000:])
    return seconds, peak / 2**20


ALONE = ["ranking.pairs=0", "ranking.halves=0"]
"""Columns against the label and nothing else, which is what the package is asked for."""


def ours(table: Path, output: Path, *more: str) -> list[str]:
    return [
        sys.executable, "-m", "pipelines.rank_features", "data=parquet",
        f"data.path={table}/data.csv", "data.label=label", "data.val_fraction=0",
        "data.test_fraction=0", "tracking=none", "console=none", f"output_dir={output}", *more,
    ]  # fmt: skip


def order_of(file: Path) -> list[str]:
    separator = "\t" if file.suffix == ".tsv" else ","
    with file.open() as handle:
        rows = list(csv.reader(handle, delimiter=separator))[1:]
    return [row[0].split("-(")[0] for row in rows]


def auc(order: list[str], truth: dict[str, dict]) -> float:
    """Share of pairs of a planted and a noise column that are in the right order."""
    kinds = [truth[name]["kind"] for name in order if name in truth]
    right = total = 0
    planted = 0
    for kind in kinds:
        if kind in ("strong", "weak", "redundant"):
            planted += 1
        elif kind != "interaction":
            right += planted
            total += 1
    return right / (total * planted)


def run_planted(folder: Path, seeds: list[int]) -> None:
    for columns in (40, 100):
        for seed in seeds:
            table = planted_table(folder, columns, seed)
            watched(ours(table, folder / "ranked"), folder)
            truth = json.loads((table / "truth.json").read_text())["truth"]
            with (folder / "ranked" / "pairs.csv").open() as handle:
                best = next(csv.DictReader(handle))
            print(
                f"{columns} columns, seed {seed}: AUC "
                f"{auc(order_of(folder / 'ranked' / 'ranking.csv'), truth):.3f}, first pair "
                f"{best['first']} {best['second']} (z {float(best['z']):.0f})",
                flush=True,
            )


def run_peer(folder: Path, outrank: str, columns: int, repeats: int) -> None:
    table = planted_table(folder, columns, 7)
    truth = json.loads((table / "truth.json").read_text())["truth"]
    common = [
        "--data_path", str(table), "--data_source", "csv-raw", "--heuristic",
        "MI-numba-randomized", "--target_ranking_only", "True", "--combination_number_upper_bound",
        "100000", "--num_threads", "2", "--output_folder", str(folder / "peer"),
        "--disable_tqdm", "True", "--subsampling", "1",
    ]  # fmt: skip
    for repeat in range(repeats):
        # A CSV is converted once and kept: without the copy, every run parses it.
        for kept in (folder / ".cache").glob("recsys/csv/*"):
            kept.unlink()
        seconds, peak = watched(ours(table, folder / "ranked"), folder)
        found = auc(order_of(folder / "ranked" / "ranking.csv"), truth)
        print(f"ours     run {repeat + 1}: {seconds:7.1f} s {peak:7.0f} MiB  AUC {found:.3f}")
        for kept in (folder / ".cache").glob("recsys/csv/*"):
            kept.unlink()
        alone, peak = watched(ours(table, folder / "ranked", *ALONE), folder)
        print(f"columns alone    {alone:7.1f} s {peak:7.0f} MiB")
        parts = [
            watched([outrank, "--task", task, *common], folder)
            for task in ("ranking", "ranking_summary")
        ]
        theirs, peak = sum(one[0] for one in parts), max(one[1] for one in parts)
        found = auc(order_of(folder / "peer" / "feature_singles.tsv"), truth)
        print(f"outrank  run {repeat + 1}: {theirs:7.1f} s {peak:7.0f} MiB  AUC {found:.3f}")
        print(f"ratio {theirs / seconds:.0f}x; alone {theirs / alone:.0f}x", flush=True)


def write_rows(path: Path, rows: int) -> None:
    """100 columns and a label, a chunk at a time."""
    sizes = np.unique(np.geomspace(2, 200_000, 40).astype(int), return_counts=False)
    sizes = np.resize(sizes, 40)
    words = [pa.array([f"{k:x}w" for k in range(size)]) for size in sizes]
    writer = None
    for number, start in enumerate(range(0, rows, CHUNK)):
        generator = np.random.default_rng([1, number])
        count = min(CHUNK, rows - start)
        columns = {"label": pa.array((generator.random(count) < 0.2).astype(np.int8))}
        for index, (size, texts) in enumerate(zip(sizes, words, strict=True)):
            draws = (size * generator.random(count) ** 3).astype(np.int64)
            columns[f"text{index}"] = texts.take(pa.array(draws))
            columns[f"whole{index}"] = pa.array((size * generator.random(count)).astype(np.int64))
        for index in range(20):
            columns[f"number{index}"] = pa.array(generator.normal(size=count))
        table = pa.table(columns)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table)
    if writer is not None:
        writer.close()


def run_rows(folder: Path, sizes: list[int]) -> None:
    print(f"{'rows':>12} {'seconds':>9} {'rows/s':>10} {'peak MiB':>9}")
    for rows in sizes:
        path = folder / f"rows-{rows}.parquet"
        if not path.exists():
            write_rows(path, rows)
        command = [sys.executable, __file__, "one", str(path), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds, peak = (float(one) for one in done.stdout.split()[-2:])
        print(f"{rows:>12,} {seconds:>9.1f} {rows / seconds:>10,.0f} {peak:>9.0f}", flush=True)


def run_one(path: Path) -> None:
    from recsys.data.infer import infer_schema
    from recsys.data.raw import RawDataset
    from recsys.data.readers import Source
    from recsys.feature_ranking.ranking import rank_features

    source = Source.open(path)
    raw = RawDataset("bench", {"train": source}, infer_schema(source, "label"))
    start = time.perf_counter()
    rank_features(raw)
    seconds = time.perf_counter() - start
    print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("planted", "peer", "rows", "one"))
    parser.add_argument("path", nargs="?", type=Path)
    parser.add_argument("more", nargs="?")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7, 11, 12, 13, 14])
    parser.add_argument("--columns", type=int, default=40)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--outrank", default="outrank")
    parser.add_argument("--rows", nargs="+", default=["1M"])
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    if arguments.what == "one":
        run_one(arguments.path)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = (arguments.folder or Path(scratch)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        if arguments.what == "planted":
            run_planted(folder, arguments.seeds)
        elif arguments.what == "peer":
            run_peer(folder, arguments.outrank, arguments.columns, arguments.repeats)
        else:
            run_rows(folder, [int(float(one.rstrip("M")) * 1e6) for one in arguments.rows])


if __name__ == "__main__":
    main()
