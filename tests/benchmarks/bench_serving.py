"""Latency and throughput of `pipelines.serve` with AutoInt, and whether memory stays: run by hand.

    python tests/benchmarks/bench_serving.py [seconds] [run folder]

Without a run, AutoInt is trained for one epoch on a made-up table (13 numbers, 26 columns of 10,000
ids). The client is another process: 16 connections, each of which asks again as soon as it has its
answer, with one row a request and with 100; then once more while SIGHUP loads the model anew every
two seconds. Requests are made before the clock starts, answers are compared byte by byte with the
first answer to the same request, whatever it was scored with. Printed beside them: the share of a
core that client and server took, and what a request costs apart, in one thread: reading, encoding,
scoring.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
CONNECTIONS, BODIES = 16, 400
WARM_SECONDS = 5.0


def table(rows: int, seed: int) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    columns: dict[str, Any] = {f"n{i}": rng.lognormal(size=rows) for i in range(13)}
    for i in range(26):
        columns[f"c{i}"] = [f"{n:08x}" for n in rng.integers(0, 10_000, rows)]
    columns["click"] = rng.integers(0, 2, rows)
    return pl.DataFrame(columns)


def trained(home: Path) -> Path:
    table(200_000, 0).write_parquet(home / "clicks.parquet")
    subprocess.run(
        [sys.executable, "-m", "pipelines.train", "ctr=autoint", "data=parquet",
         f"data.path={home / 'clicks.parquet'}", "data.label=click", "trainer.epochs=1",
         f"output_dir={home / 'run'}", "tracking=none", "console=none", "importance_rows=0"],
        cwd=home, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    return home / "run"


class Load:
    """The client's side of one measurement."""

    def __init__(self, port: int, requests: list[bytes]) -> None:
        self.port, self.requests = port, requests
        self.answers: dict[int, bytes] = {}
        self.seconds: list[float] = []
        self.errors = self.differing = 0

    async def connection(self, number: int, until: float, measured: float) -> None:
        rng = np.random.default_rng(number)
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        while (began := time.perf_counter()) < until:
            which = int(rng.integers(len(self.requests)))
            writer.write(self.requests[which])
            try:
                head = await reader.readuntil(b"\r\n\r\n")
                found = re.search(rb"content-length: (\d+)", head)
                body = await reader.readexactly(int(found.group(1)) if found else 0)
            except (ConnectionError, asyncio.IncompleteReadError):
                self.errors += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                continue
            if began >= measured:
                self.seconds.append(time.perf_counter() - began)
            if not head.startswith(b"HTTP/1.1 200"):
                self.errors += 1
            elif self.answers.setdefault(which, body) != body:
                self.differing += 1
        writer.close()

    async def run(self, seconds: float) -> None:
        measured = time.perf_counter() + WARM_SECONDS
        until = measured + seconds
        await asyncio.gather(*(self.connection(n, until, measured) for n in range(CONNECTIONS)))


def client(port: int, rows: int, seconds: float) -> None:
    """Measure, and print what was found as JSON."""
    names = [name for name in table(1, 0).columns if name != "click"]
    source = table(BODIES * min(rows, 20), 1).select(names).to_dicts()
    rng = np.random.default_rng(2)
    requests = []
    for _ in range(BODIES):
        chosen = [source[n] for n in rng.integers(0, len(source), rows)]
        body = json.dumps({"rows": chosen}).encode()
        head = "POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        requests.append(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    load = Load(port, requests)
    before = time.process_time()
    began = time.perf_counter()
    asyncio.run(load.run(seconds))
    share = (time.process_time() - before) / (time.perf_counter() - began)
    p50, p99 = np.percentile(load.seconds, [50, 99]) * 1e3
    print(json.dumps({
        "rows": rows, "p50_ms": round(p50, 2), "p99_ms": round(p99, 2),
        "requests_per_s": round(len(load.seconds) / seconds), "requests": len(load.seconds),
        "errors": load.errors, "differing": load.differing, "client_cores": round(share, 2),
    }))  # fmt: skip


def costs(run: Path) -> None:
    """What one request costs in one thread, microseconds."""
    import torch

    from recsys.models.saved import SavedModel
    from recsys.serving.scoring import Scoring

    torch.set_num_threads(1)
    scoring = Scoring(SavedModel.load(run / "model"), "run", 1000)
    for rows in (1, 16, 100):
        one_size(scoring, rows)


def one_size(scoring: Any, rows: int) -> None:
    names = scoring.saved.pipeline.schema.names
    bodies = [
        json.dumps({"rows": table(rows, seed).select(names).to_dicts()}).encode()
        for seed in range(40)
    ]
    jobs = [scoring.read(body)[0] for body in bodies]
    encoded = scoring._encoder.encode(jobs[:1])
    plain = table(rows, 3).select(names).to_arrow()

    def median(call: Any, given: list[Any]) -> str:
        """Of processor time: others share the machine."""
        taken = []
        for one in given:
            began = time.thread_time()
            call(one)
            taken.append(time.thread_time() - began)
        return f"{np.median(taken) * 1e6:7.0f}"

    new = median(lambda job: scoring._encoder.encode([job]), jobs)
    known = median(lambda job: scoring._encoder.encode([job]), jobs[-1:] * 40)
    print(
        f"{rows:4d} rows: read {median(scoring.read, bodies)}  encode {new}, again {known}, as a "
        f"table {median(scoring.saved.pipeline.transform, [plain] * 20)}  logits "
        f"{median(scoring.saved.logits_of, [encoded] * 40)}  whole answer "
        f"{median(lambda job: scoring.answer([job]), jobs)} us",
        flush=True,
    )


def measure(run: Path, home: Path, rows: int, seconds: float, reload_every: float) -> None:
    from tests.serving.process import ServerProcess

    with ServerProcess(home, f"run={run}", "reload_every=0") as server:
        process = psutil.Process(server.process.pid)
        asking = subprocess.Popen(
            [sys.executable, __file__, "client", str(server.port), str(rows), str(seconds)],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        memory: list[int] = []
        began, cpu = time.perf_counter(), sum(process.cpu_times()[:2])
        reloads, next_reload = 0, began + WARM_SECONDS
        while asking.poll() is None:
            time.sleep(0.1)
            memory.append(server.memory())
            if reload_every and time.perf_counter() > next_reload:
                server.process.send_signal(signal.SIGHUP)
                reloads += 1
                next_reload = time.perf_counter() + reload_every
        share = (sum(process.cpu_times()[:2]) - cpu) / (time.perf_counter() - began)
        found = json.loads(asking.communicate()[0])
        tenth = max(1, len(memory) // 10)
        found |= {
            "server_cores": round(share, 2), "reloads": reloads,
            "mib_after_warm_up": round(np.median(memory[2 * tenth : 3 * tenth]) / 2**20),
            "mib_at_the_end": round(np.median(memory[-tenth:]) / 2**20),
            "mib_most": round(max(memory) / 2**20),
        }  # fmt: skip
        print(json.dumps(found), flush=True)
        assert server.terminate() == 0


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        run = Path(sys.argv[2]) if len(sys.argv) > 2 else trained(home)
        costs(run)
        for reload_every in (0.0, 2.0):
            for rows in (1, 100):
                measure(run, home, rows, seconds, reload_every)


if __name__ == "__main__":
    if sys.argv[1:2] == ["client"]:
        client(int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
    else:
        main()
