"""Ids that get rows while training: what a look-up costs, and what it is worth on a stream of days.

    python tests/benchmarks/bench_dynamic_vocabulary.py lookup [--capacity 1000000] [--batch 4096]
    python tests/benchmarks/bench_dynamic_vocabulary.py step [--batch 4096]
    python tests/benchmarks/bench_dynamic_vocabulary.py stream [--days 6] [--seeds 3]
    python tests/benchmarks/bench_dynamic_vocabulary.py stream --kuairand <folder>

`lookup` prints ns of processor time per id, of the map and of TorchRec's managed collision module;
`step` a training step of DCNv2 with fitted and with dynamic vocabularies; `stream` the AUC on each
day of an FM trained on the days before it: made-up days, where half of the ids are new, or
KuaiRand's.
"""

import argparse
import itertools
import re
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from recsys.data.batch import Batch
from recsys.data.encode import EncodedTable, FeaturePipeline
from recsys.data.readers import Source
from recsys.data.schema import Encoding, Field, Schema
from recsys.embedding.id_map import IdMap
from recsys.embedding.lookup import EmbeddingOptions
from recsys.metrics.classification import auc
from recsys.models.recommender import Recommender
from recsys.models.saved import ModelSpec
from recsys.training.loop import Trainer
from recsys.training.optimizers import OptimizerOptions, Optimizers
from recsys.training.options import TrainerOptions

CPU = torch.device("cpu")


def power_law(rng: np.random.Generator, rows: int, vocab: int) -> torch.Tensor:
    """Ids that fall off as 1 / rank, as in click logs, scattered over all of int64."""
    ranks = np.minimum(np.exp(rng.random(rows) * np.log(vocab)).astype(np.int64), vocab - 1)
    return (
        torch.from_numpy((ranks.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) >> 2).view("i8"))
        + 3
    )


def nanoseconds(call: Callable[[torch.Tensor], object], batches: list[torch.Tensor]) -> float:
    """Median over batches, per id."""
    seconds = []
    for batch in batches:
        begin = time.process_time()
        call(batch)
        seconds.append(time.process_time() - begin)
    return statistics.median(seconds) / len(batches[0]) * 1e9


def torchrec_module(capacity: int, interval: int) -> Callable[[torch.Tensor], object]:
    """Profile and remap by TorchRec, as its collections do in a training step."""
    from torchrec.modules.mc_modules import LFU_EvictionPolicy, MCHManagedCollisionModule
    from torchrec.sparse.jagged_tensor import JaggedTensor

    module = MCHManagedCollisionModule(
        capacity, CPU, LFU_EvictionPolicy(), interval, input_hash_size=2**63 - 1
    )
    module.train()

    def call(ids: torch.Tensor) -> object:
        features = {"id": JaggedTensor(ids, lengths=torch.ones(len(ids), dtype=torch.int32))}
        module.profile(features)
        return module.remap(features)

    return call


def lookup(options: argparse.Namespace) -> None:
    """ns per id, of a stream whose ids all have rows, then of one with three ids to a row."""
    capacity, batch = options.capacity, options.batch
    for text, vocab in (("it holds all ids", capacity // 2), ("3 ids to a row", 3 * capacity)):
        rng = np.random.default_rng(0)
        fill = [power_law(rng, 65_536, vocab) for _ in range(max(4, 4 * capacity // 65_536))]
        batches = [power_law(rng, batch, vocab) for _ in range(options.repeats)]
        print(f"\ncapacity {capacity:,}, batch {batch:,}, {text}")
        for evict, min_count in (("fading", 1), ("least_recent", 1), ("fading", 2)):
            ids = IdMap(capacity, min_count, evict)
            for one in fill:
                ids.admit(one)
            admit, find = nanoseconds(ids.admit, batches), nanoseconds(ids.find, batches)
            print(
                f"  {evict} min_count={min_count}: admit {admit:.1f}, find {find:.1f} ns an id; "
                f"{ids.num_rows_used:,} rows, {ids.num_evicted:,} evicted, "
                f"{ids.num_bytes / capacity:.0f} bytes a row"
            )
        for interval in (10, 100):
            call = torchrec_module(capacity, interval)
            for at in range(len(fill)):  # its history is sized by the first batch: equal ones
                for part in fill[at].split(batch):
                    call(part)
            begin = time.process_time()
            for one in batches:
                call(one)
            mean = (time.process_time() - begin) / len(batches) / batch * 1e9
            print(f"  TorchRec LFU, eviction every {interval} batches: {mean:.1f} ns an id (mean)")


IDS = ("user_id", "item_id")
SMALL = tuple(f"c{i}" for i in range(8))
SPECS = {
    "fm": ModelSpec("ctr", "recsys.models.ctr.fm.FM", {}),
    "dcnv2": ModelSpec("ctr", "recsys.models.ctr.dcnv2.DCNv2", {}),
}


def schema(kind: str, size: int, ids: Sequence[str] = IDS, small: Sequence[str] = SMALL) -> Schema:
    """Columns of ids, and small ones with fitted vocabularies."""
    keys: dict[str, Any] = {
        "fitted": {"encoding": "vocabulary"},
        "hashed": {"encoding": "hash", "hash_size": size},
        "dynamic": {"encoding": "dynamic"},
    }[kind]
    return Schema(
        fields=(
            *(Field(name=name, kind="categorical", dtype="int", **keys) for name in ids),
            *(
                Field(name=name, kind="categorical", encoding="vocabulary", dtype="int")
                for name in small
            ),
        ),
        labels=("click",),
    )


def trainer(
    model: str, pipeline: FeaturePipeline, capacity: int, seed: int, lr: float, **keys: Any
) -> Trainer:
    torch.manual_seed(seed)
    embedding = EmbeddingOptions()
    if any(one.encoding is Encoding.DYNAMIC for one in pipeline.schema):
        embedding = EmbeddingOptions(vocabulary="dynamic", capacity=capacity, **keys)
    chosen = OptimizerOptions(name="lazy_adam", lr=lr)
    made = Recommender.build(
        pipeline.schema, embedding, SPECS[model].make, chosen.storage_factory(CPU)
    )
    optimizers = Optimizers(made.lookup, made.model, chosen)
    return Trainer(made, optimizers, TrainerOptions(), None)


def parts(table: EncodedTable, rows: int, order: np.ndarray | None = None) -> Iterator[Batch]:
    for start in range(0, len(table), rows):
        at = np.arange(start, min(start + rows, len(table)))
        yield table.take(at if order is None else order[at]).to_batch()


def step(options: argparse.Namespace) -> None:
    """Processor time of a step, fitted and dynamic by turns: a busy machine slows both alike."""
    frame = day(0, 40 * options.batch, 0, ids=50_000)
    found: dict[str, list[float]] = {"fitted": [], "dynamic": []}
    admit: list[float] = []
    trainers, batches = {}, {}
    for kind in found:
        pipeline = FeaturePipeline.fit(Source.from_frame(frame), schema(kind, 0))
        trainers[kind] = trainer("dcnv2", pipeline, 100_000, 0, 1e-3)
        batches[kind] = list(parts(pipeline.transform(frame), options.batch))
    for number, (one, two) in enumerate(zip(batches["fitted"], batches["dynamic"], strict=True)):
        for kind, batch in (("fitted", one), ("dynamic", two)):
            begin = time.process_time()
            trainers[kind].train_step(batch)
            if number >= 10:
                found[kind].append(time.process_time() - begin)
        begin = time.process_time()
        trainers["dynamic"].lookup.admit(two)
        admit.append(time.process_time() - begin)
    fitted, dynamic = (statistics.median(found[kind]) for kind in ("fitted", "dynamic"))
    print(
        f"DCNv2, 10 columns (2 dynamic), dim 16, batch {options.batch:,}: step {fitted * 1e3:.2f} "
        f"ms fitted, {dynamic * 1e3:.2f} ms dynamic; giving out rows {min(admit) * 1e6:.0f} us at "
        f"best, {statistics.median(admit) * 1e6:.0f} us median"
    )


def day(number: int, rows: int, seed: int, ids: int = 2000) -> pl.DataFrame:
    """A day's clicks: half of them by users and on items that are born that day. Who is who decides
    the click, by itself and in pairs; an id's taste is a fixed function of the id."""
    rng = np.random.default_rng([seed, number])

    def draw() -> np.ndarray:
        born = number - np.minimum(rng.geometric(0.5, rows) - 1, 8)
        return (born + 10) * 1_000_000 + (ids * rng.random(rows) ** 2).astype(np.int64)

    def taste(values: np.ndarray, salt: int) -> np.ndarray:
        mixed = (values.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15 + 2 * salt)) >> np.uint64(
            40
        )
        return mixed.astype(np.float64) / 2**24 * 2 - 1

    users, items = draw(), draw()
    logit = 2 * taste(users, 1) + 2 * taste(items, 2)
    logit += 2 * np.sign(taste(users, 3)) * np.sign(taste(items, 4))
    columns = {f"c{i}": rng.integers(0, 10, rows) for i in range(8)}
    logit += np.linspace(-1, 1, 10)[columns["c0"]] - 0.5
    clicks = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    frame = pl.DataFrame({"user_id": users, "item_id": items, **columns, "click": clicks})
    return frame.with_columns(pl.lit(logit).alias("logit"))


def kuairand(folder: Path) -> list[pl.DataFrame]:
    """The exposures of KuaiRand-Pure's last two weeks, a frame a day."""
    table = pl.concat([pl.read_parquet(folder / f"{name}.parquet") for name in ("val", "test")])
    columns = ("user_id", "video_id", "author_id", "tab", "date")
    table = table.sort("time_ms").select(
        *columns, (pl.col("hourmin") // 100).alias("hour"), pl.col("is_click").alias("click")
    )
    return table.partition_by("date", maintain_order=True)


METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "fitted on day 0": ("fitted", {}),
    "hashed": ("hashed", {}),
    "dynamic, fading": ("dynamic", {"evict": "fading"}),
    "dynamic, fading, min_count 2": ("dynamic", {"evict": "fading", "min_count": 2}),
    "dynamic, least_recent": ("dynamic", {"evict": "least_recent"}),
    "dynamic, least_recent, min_count 2": ("dynamic", {"evict": "least_recent", "min_count": 2}),
    "dynamic, least_frequent": ("dynamic", {"evict": "least_frequent"}),
    "dynamic, never": ("dynamic", {"evict": "never"}),
}


def stream(options: argparse.Namespace) -> None:
    """Train day by day; every day is scored before it is trained on."""
    columns: tuple[Sequence[str], Sequence[str]] = (IDS, SMALL)
    sizes = [("room for every id", 16 * options.ids), ("room for two days' ids", 2 * options.ids)]
    if options.kuairand is not None:
        real = kuairand(options.kuairand)
        options.days = len(real) - 1
        columns = (("user_id", "video_id", "author_id"), ("tab", "hour"))
        sizes = [("room for every id", 40_000), ("10,000 rows each", 10_000)]
    chosen = {name: one for name, one in METHODS.items() if re.search(options.methods, name)}
    sizes = sizes[options.sizes == "small" : 1 if options.sizes == "ample" else None]
    for (text, capacity), (name, (kind, keys)) in itertools.product(sizes, chosen.items()):
        scores = np.zeros((options.seeds, options.days))
        for seed in range(options.seeds):
            if options.kuairand is None:
                frames = [day(d, options.rows, seed, options.ids) for d in range(options.days + 1)]
            else:
                frames = real
            fields = schema(kind, capacity, *columns)
            pipeline = FeaturePipeline.fit(Source.from_frame(frames[0]), fields)
            one = trainer("fm", pipeline, capacity, seed, options.lr, **keys)
            for number, frame in enumerate(frames):
                table = pipeline.transform(frame)
                if number:
                    one.recommender.eval()
                    with torch.no_grad():
                        logits = np.concatenate(
                            [one.recommender(b).numpy() for b in parts(table, 8192)]
                        )
                    scores[seed, number - 1] = auc(logits, frame["click"].to_numpy())
                one.recommender.train()
                order = np.random.default_rng(seed).permutation(len(table))
                for batch in parts(table, options.batch_size, order):
                    one.train_step(batch)
        means = " ".join(f"{score:.4f}" for score in scores.mean(0))
        spread = scores.mean(1).std(ddof=1) if options.seeds > 1 else float("nan")
        print(f"{text:>22} | {name:<34} | {means} | mean {scores.mean():.4f} +- {spread:.4f}")
    if options.kuairand is not None:
        return
    bound = [
        auc(frame["logit"].to_numpy(), frame["click"].to_numpy())
        for frame in (day(d, options.rows, 0, options.ids) for d in range(1, options.days + 1))
    ]
    print(f"{'':>22} | {'the true probabilities':<34} | {' '.join(f'{b:.4f}' for b in bound)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("lookup", "step", "stream"))
    parser.add_argument("--capacity", type=int, default=1_000_000)
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--kuairand", type=Path)
    parser.add_argument("--methods", default="", help="those whose names hold this expression")
    parser.add_argument("--sizes", choices=("ample", "small", "both"), default="both")
    parser.add_argument("--days", type=int, default=6)
    parser.add_argument("--rows", type=int, default=60_000)
    parser.add_argument("--ids", type=int, default=2000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--lr", type=float, default=0.02)
    options = parser.parse_args()
    torch.set_num_threads(1)
    {"lookup": lookup, "step": step, "stream": stream}[options.what](options)


if __name__ == "__main__":
    main()
