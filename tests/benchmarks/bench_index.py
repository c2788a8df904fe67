"""What indexes find, how fast, and in how much memory, beside exact search: run it by hand.

    python tests/benchmarks/bench_index.py synthetic [rows] [kind ...]
    python tests/benchmarks/bench_index.py norms [rows]
    python tests/benchmarks/bench_index.py served <output folder of a cf run on Gowalla>
    python tests/benchmarks/bench_index.py export [rows]

synthetic   clustered vectors of width 64 and length 1, queries from the same clusters
norms       the same directions with log-normal lengths: inner product by bands of like length
            (what the library builds), by one plain HNSW graph, and by one after the reduction to
            distances (a further dimension that gives all vectors one length)
            (MiB: of the files; held: what a process that loads the index and searches it grows by)
served      recall@20 of all test users through the index against the evaluator's exact one
export      rows per second and peak memory of writing the table of a field
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.retrieval.build import fitted_index
from recsys.retrieval.export import export_tables
from recsys.retrieval.exported import ExportedVectors
from recsys.retrieval.index_folder import load_index, save_index
from recsys.retrieval.measure import cheapest, exact_lists, latencies, measure, recall
from recsys.retrieval.options import RetrievalOptions
from recsys.retrieval.vectors import COSINE, INNER_PRODUCT, MatrixVectors

DIM, K, QUERIES = 64, 10, 1000
MIN_RECALL = 0.95


def clustered(rows: int, queries: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Directions around a centre for every hundred rows, and queries around the same centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(max(rows // 100, 1), DIM)).astype(np.float32)
    parts = []
    for size in (rows, queries):
        noise = 0.5 * rng.normal(size=(size, DIM)).astype(np.float32)
        vectors = centres[rng.integers(0, len(centres), size)] + noise
        parts.append(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
    return parts[0], parts[1]


def exported(
    folder: Path, items: np.ndarray, queries: np.ndarray, similarity: str
) -> ExportedVectors:
    facts = {"run_id": "bench", "model": "synthetic", "data": "synthetic", "data_digest": "0"}
    sides = (("users", queries), ("items", items))
    export_tables(
        [MatrixVectors(n, similarity, pa.array(np.arange(len(v))), v) for n, v in sides],
        folder,
        facts,
    )
    return ExportedVectors.open(folder)


def table(
    vectors: ExportedVectors, queries: np.ndarray, kinds: list[str], folder: Path, k: int
) -> None:
    """Every kind against exact search, in one process."""
    options = RetrievalOptions(min_recall=MIN_RECALL, k=k)
    truth = exact_lists(vectors.blocks(65_536), queries, k, vectors.similarity)
    print(
        f"{'kind':8}{'build s':>9}{'MiB':>8}{'held':>8}{'effort':>8}{'recall':>9}{'p50 ms':>9}"
        f"{'p99 ms':>9}"
    )
    for kind in kinds:
        begin = time.perf_counter()
        index = fitted_index(vectors, kind, options, lambda *_: None)
        built = time.perf_counter() - begin
        card = save_index(index, folder / kind, {"facts": {}})
        size = sum(one["bytes"] for one in card["files"].values()) / 2**20
        np.save(folder / "queries.npy", queries[:100])
        command = [sys.executable, __file__, "held", str(folder / kind), str(folder), str(k)]
        held = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        points = measure(index, queries, truth, options.efforts(kind))
        chosen = cheapest(points, MIN_RECALL)
        for point in points:
            print(
                f"{kind:8}{built:9.1f}{size:8.0f}{held:8.0f}{point.effort:8}{point.recall:9.4f}"
                f"{point.p50_ms:9.3f}{point.p99_ms:9.3f}{'  <- chosen' if point == chosen else ''}",
                flush=True,
            )


def held_by(index: Path, folder: Path, k: int) -> float:
    """MiB by which this process grows as it loads an index and searches it."""
    queries = np.load(folder / "queries.npy")
    faiss.omp_set_num_threads(1)
    pq.read_table(index / "ids.parquet").column("id").to_numpy()  # what reading costs once
    pa.default_memory_pool().release_unused()
    before = psutil.Process().memory_info().rss
    loaded = load_index(index).index
    for query in queries:
        loaded.search(query[None], k)
    pa.default_memory_pool().release_unused()
    return (psutil.Process().memory_info().rss - before) / 2**20


def synthetic(folder: Path, rows: int, kinds: list[str]) -> None:
    items, queries = clustered(rows, QUERIES)
    print(f"{rows:,} x {DIM} clustered vectors, cosine, recall@{K}, {faiss_threads()}")
    table(exported(folder / "export", items, queries, COSINE), queries, kinds, folder, K)


def norms(folder: Path, rows: int) -> None:
    directions, queries = clustered(rows, QUERIES)
    for deviation in (0.2, 0.5, 1.0, 1.5):
        lengths = np.exp(deviation * np.random.default_rng(1).normal(size=(rows, 1)))
        items = (directions * lengths).astype(np.float32)
        options = RetrievalOptions(kind="hnsw", k=K)
        ours = {
            name: fitted_index(
                exported(folder / name, vectors, queries, similarity), "hnsw", options,
                lambda *_: None,
            )
            for name, vectors, similarity in (
                ("one length", directions, COSINE), ("bands", items, INNER_PRODUCT)
            )
        }  # fmt: skip
        truth = {
            "one length": exact_lists([directions], queries, K, COSINE),
            "bands": exact_lists([items], queries, K, INNER_PRODUCT),
        }
        plain = faiss.IndexHNSWFlat(DIM, options.neighbors, faiss.METRIC_INNER_PRODUCT)
        plain.hnsw.efConstruction = options.ef_construction
        plain.add(items)
        longest = float(lengths.max())
        rest = np.sqrt(np.maximum(longest**2 - (items**2).sum(axis=1, keepdims=True), 0))
        reduced = faiss.IndexHNSWFlat(DIM + 1, options.neighbors, faiss.METRIC_L2)
        reduced.hnsw.efConstruction = options.ef_construction
        reduced.add(np.concatenate([items, rest], axis=1).astype(np.float32))
        asked = np.concatenate([queries, np.zeros((QUERIES, 1), np.float32)], axis=1)
        count = len(ours["bands"].bands)
        print(f"{rows:,} x {DIM}, log-normal lengths of deviation {deviation}: {count} bands")
        print(f"{'efSearch':>8}{'one length':>20}{'bands':>20}{'plain graph':>20}{'reduced':>20}")
        for effort in (16, 32, 64, 128):
            plain.hnsw.efSearch = reduced.hnsw.efSearch = effort
            cells = []
            for name, index in ours.items():
                found = index.search(queries, K, effort=effort).positions
                p50, _ = latencies(lambda q, i=index, e=effort: i.search(q, K, effort=e), queries)
                cells.append((recall(found, truth[name]), p50))
            for index, given in ((plain, queries), (reduced, asked)):
                p50, _ = latencies(lambda q, i=index: i.search(q, K), given)
                cells.append((recall(index.search(given, K)[1], truth["bands"]), p50))
            row = "".join(f"{share:11.4f}{p50:6.3f} ms" for share, p50 in cells)
            print(f"{effort:8}{row}", flush=True)


def served(folder: Path, run: Path) -> None:
    from omegaconf import OmegaConf

    from recsys import config
    from recsys.metrics.ranking import FullRanking
    from recsys.models.saved_cf import SavedCF
    from recsys.retrieval.build import build_index
    from recsys.retrieval.candidates import Candidates
    from recsys.retrieval.vectors import vectors_of_cf

    saved = SavedCF.load(run / "model")
    data = config.build_interactions(OmegaConf.load(run / "config.yaml").data)
    assert data.test is not None
    assert data.digest() == saved.facts["data_digest"]
    facts = {**saved.facts, "model": saved.spec.stem}
    export_tables(list(vectors_of_cf(saved).values()), folder / "export", facts)
    vectors = ExportedVectors.open(folder / "export")
    found = saved.vectors()
    assert found is not None
    rng = np.random.default_rng(1)
    rows = np.sort(rng.choice(data.num_users, QUERIES, replace=False))
    queries = found[0].detach().numpy()[rows]
    print(f"{facts['model']} on {data.name}, {len(vectors):,} items, {faiss_threads()}")
    table(vectors, queries, ["flat", "hnsw", "ivf", "ivfpq"], folder / "kinds", K)
    judge = FullRanking(data.test, data.train, ks=(20,))
    exact = judge.of_vectors(*found)
    for kind in ("auto", "ivf"):
        built = build_index(vectors, RetrievalOptions(kind=kind, k=20, min_recall=MIN_RECALL))
        save_index(built.index, folder / "index", {"facts": facts})
        candidates = Candidates(saved, load_index(folder / "index"))
        begin = time.perf_counter()
        lists = candidates.lists(exact.users, 20)
        seconds = time.perf_counter() - begin
        codes = np.searchsorted(data.item_ids.to_numpy(), lists.items.to_numpy())
        hits = data.test.contains(exact.users[lists.rows], codes)
        per_user = np.bincount(lists.rows, hits, len(exact.users))
        recalled = float(np.mean(per_user / data.test.user_degrees[exact.users]))
        own = Candidates(saved).lists(exact.users, 20)
        keys = exact.users[own.rows] * 10**9 + own.items.to_numpy()
        kept = np.isin(keys, exact.users[lists.rows] * 10**9 + lists.items.to_numpy()).mean()
        print(
            f"{kind} ({built.index.kind}, effort {built.index.effort}, measured recall@20 "
            f"{built.chosen.recall:.4f}): {len(exact.users):,} users in {seconds:.1f} s, "
            f"{len(lists.rows) / len(exact.users):.3f} items each; share of the exact lists that "
            f"is served {kept:.4f}; test recall@20 {recalled:.5f}, evaluator "
            f"{exact.metrics['recall_at_20']:.5f}, difference "
            f"{exact.metrics['recall_at_20'] - recalled:+.5f}",
            flush=True,
        )


def saved_click_model(folder: Path, rows: int) -> None:
    """A saved model as training leaves it, with a table of so many rows, written without training
    it and without holding it."""
    import polars as pl

    from recsys.data.encode import FeaturePipeline
    from recsys.data.schema import NUM_RESERVED, Encoding, Field, Kind, Schema
    from recsys.data.vocabulary import Vocabulary
    from recsys.models.saved import FORMAT

    texts = pl.int_range(rows, eager=True).cast(pl.String)
    field = Field(name="item", kind=Kind.CATEGORICAL, encoding=Encoding.VOCABULARY, dtype="int",
                  size=rows + NUM_RESERVED)  # fmt: skip
    words = Vocabulary(texts, pl.int_range(rows, 0, -1, eager=True))
    schema = Schema((field,), ("label",))
    FeaturePipeline(schema, {"item": words}, {}).save(folder / "pipeline")
    card = {
        **FORMAT,
        "model": {"family": "ctr", "target": "recsys.models.ctr.mlp.MLP", "arguments": {}},
        "embedding": {"layout": "full", "dim": DIM},
        "facts": {"run_id": "bench", "data": "synthetic", "data_digest": "0"},
    }
    (folder / "model.json").write_text(json.dumps(card))
    stored = rows + NUM_RESERVED - 1
    header = {"tables.item.weight": {"dtype": "F32", "shape": [stored, DIM],
                                     "data_offsets": [0, stored * DIM * 4]}}  # fmt: skip
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(0)
    with (folder / "weights.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for start in range(0, stored, 100_000):
            size = min(100_000, stored - start)
            file.write(rng.normal(size=(size, DIM)).astype(np.float32).tobytes())


def export(folder: Path, rows: int) -> None:
    saved_click_model(folder, rows)
    bytes_of_table = (folder / "weights.safetensors").stat().st_size
    print(f"a field of {rows:,} x {DIM}, {bytes_of_table / 2**30:.2f} GiB of float32")
    for dtype in ("float32", "float16", "int8"):
        # A process of its own: its peak is that of one export.
        command = [sys.executable, __file__, "export_one", str(folder), dtype]
        print(subprocess.run(command, check=True, capture_output=True, text=True).stdout, end="")


def export_one(folder: Path, dtype: str) -> None:
    from pipelines.export_embeddings import export_embeddings
    from recsys import config

    begin = time.perf_counter()
    made = export_embeddings(
        config.compose(
            "export_embeddings",
            [f"run={folder}", "field=item", f"dtype={dtype}", f"output_dir={folder / 'out'}",
             "console=none", "tracking=none"],
        )
    )  # fmt: skip
    seconds = time.perf_counter() - begin
    card = made["tables"][0]
    size = sum(one["bytes"] for one in card["files"].values()) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{dtype:8} {card['num_rows'] / seconds:12,.0f} rows/s  {seconds:6.1f} s  {size:5.2f} GiB "
        f"in {len(card['files'])} files  peak {peak:.2f} GiB"
    )


def faiss_threads() -> str:
    return f"{faiss.omp_get_max_threads()} threads to build, 1 to time"


def main() -> None:
    what, *rest = sys.argv[1:] or ["help"]
    if what == "held":
        print(held_by(Path(rest[0]), Path(rest[1]), int(rest[2])))
        return
    if what == "export_one":
        export_one(Path(rest[0]), rest[1])
        return
    folder = Path(tempfile.mkdtemp(prefix="bench-index-"))
    try:
        if what == "synthetic":
            rows = int(rest[0]) if rest else 1_000_000
            synthetic(folder, rows, rest[1:] or ["flat", "hnsw", "ivf", "ivfpq"])
        elif what == "norms":
            norms(folder, int(rest[0]) if rest else 100_000)
        elif what == "served":
            served(folder, Path(rest[0]))
        elif what == "export":
            export(folder, int(rest[0]) if rest else 10_000_000)
        else:
            print(__doc__)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
