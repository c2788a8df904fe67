"""Build an index of exported vectors, and measure what it finds.

    python -m pipelines.build_index embeddings=<export>
    python -m pipelines.build_index embeddings=<export> retrieval=hnsw retrieval.min_recall=0.99
    python -m pipelines.build_index index=<index> add=<export of new items> remove=gone.csv

Recall against exact search and the latency of single queries are measured over a range of efforts,
and the least effort that reaches retrieval.min_recall is taken; users of the export are the queries
where there are any. output_dir gets the index (band-*.faiss, ids.parquet) and its card, index.json;
the curve of recall and latency lies beside it in plots/, and in MLflow. A changed index is measured
again, against exact search over what it holds now.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from recsys import config
from recsys.errors import ConfigError, SchemaError

if TYPE_CHECKING:
    from recsys.retrieval.build import Built
    from recsys.retrieval.exported import ExportedVectors
    from recsys.retrieval.measure import Point
    from recsys.retrieval.options import RetrievalOptions
    from recsys.retrieval.remeasure import Remeasured
    from recsys.tracking.console import Console


def build_index(cfg: DictConfig) -> dict[str, Any]:
    """Build the configured index, or change one.

    Returns:
        Where it is, and its card.
    """
    if (cfg.embeddings is None) == (cfg.index is None):
        raise ConfigError(
            "give embeddings=<export> to build an index, or index=<index> with add=<export> or "
            "remove=<table> to change one. Example: python -m pipelines.build_index "
            "embeddings=<export> retrieval=hnsw"
        )
    from recsys.retrieval.options import RetrievalOptions
    from recsys.tracking.console import Console

    output = Path(cfg.output_dir or Path("outputs/index") / f"{datetime.now():%Y%m%d-%H%M%S}")
    with Console(cfg.console) as console:
        if cfg.index is not None:
            return change_index(cfg, output, console)
        if cfg.add is not None or cfg.remove is not None:
            raise ConfigError("add and remove change an index. Name it: index=<index>.")
        options = config.build_options(RetrievalOptions, cfg.retrieval, "retrieval")
        return build_new(cfg, options, output, console)


def build_new(
    cfg: DictConfig, options: RetrievalOptions, output: Path, console: Console
) -> dict[str, Any]:
    """Read, build, measure, choose, write."""
    from recsys.retrieval.build import build_index as build
    from recsys.retrieval.exported import ExportedVectors
    from recsys.retrieval.index_folder import save_index
    from recsys.tracking.figures import Subject, save_figure

    vectors = ExportedVectors.open(Path(str(cfg.embeddings)))
    vectors.verify()
    about = Subject(str(vectors.facts["model"]), str(vectors.facts["data"]), len(vectors))
    console.banner(f"index of {vectors.name}: {about}, {vectors.dim} wide, {vectors.similarity}")
    built = build(
        vectors,
        options,
        lambda done, total, stage: console.preparing(
            done, total, stage, "efforts" if stage.startswith("measure") else "rows"
        ),
    )
    index = built.index
    card = save_index(
        index,
        output,
        {
            "facts": vectors.facts,
            "table": vectors.name,
            "embeddings_digest": vectors.digest,
            "retrieval": config.plain(cfg.retrieval),
            "measured": measured(
                options.k, built.queries_from, built.chosen, built.points[index.kind]
            ),
        },
    )
    from recsys.retrieval.curve_plot import recall_latency_plot

    chosen = (index.kind, built.chosen)
    drawn = recall_latency_plot(about, built.points, options.k, options.min_recall, chosen)
    plots = output / "plots"
    save_figure(*drawn, plots / "recall_latency")
    log(cfg, vectors, options, built, card, plots)
    console.table(
        f"recall@{options.k} against exact search, by {built.queries_from}",
        ("kind", "effort", "recall", "p50 ms", "p99 ms", ""),
        [
            (kind, one.effort, f"{one.recall:.4f}", f"{one.p50_ms:.3f}", f"{one.p99_ms:.3f}",
             "<- chosen" if (kind, one) == chosen else "")
            for kind, line in built.points.items()
            for one in line
        ],
    )  # fmt: skip
    size = sum(one["bytes"] for one in card["files"].values())
    console.note(
        f"{index.kind} of {len(index):,} {vectors.name} in {len(index.bands)} bands of like "
        f"length, {size / 2**20:.1f} MiB, in {output}"
    )
    console.note(
        f"next: python -m pipelines.recommend run={vectors.facts['run_id']} index={output} "
        "user=<id>"
    )
    return {"folder": str(output), "plots": str(plots), "card": card}


def measured(k: int, queries_from: str, chosen: Point, points: list[Point]) -> dict[str, Any]:
    """What a card says of its index."""
    return {
        "k": k,
        "queries": queries_from,
        "chosen": chosen.as_dict(),
        "points": [point.as_dict() for point in points],
    }


def log(
    cfg: DictConfig,
    vectors: ExportedVectors,
    options: RetrievalOptions,
    built: Built,
    card: dict[str, Any],
    plots: Path,
) -> None:
    """A run of its own in the experiment of the data set, with the curve."""
    from recsys.tracking.names import experiment_name, run_name
    from recsys.tracking.run import open_tracker

    kind = built.index.kind
    with open_tracker(
        cfg.tracking.kind,
        experiment=experiment_name(str(vectors.facts["data"])),
        run_name=run_name(f"index-{kind}", datetime.now()),
        uri=cfg.tracking.get("uri"),
        tags={
            "model": f"index-{kind}",
            "family": "retrieval",
            "dataset": vectors.facts["data"],
            "source_run": vectors.facts["run_id"],
            **config.plain(cfg.tracking.get("tags") or {}),
        },
    ) as tracker:
        tracker.log_params({"retrieval": config.plain(cfg.retrieval)})
        tracker.log_metrics(
            {
                f"index/recall_at_{options.k}": built.chosen.recall,
                "index/p50_ms": built.chosen.p50_ms,
                "index/p99_ms": built.chosen.p99_ms,
                "index/effort": float(built.chosen.effort),
                "index/bytes": float(sum(one["bytes"] for one in card["files"].values())),
            },
            0,
        )
        tracker.log_artifact(plots, "plots")


def change_index(cfg: DictConfig, output: Path, console: Console) -> dict[str, Any]:
    """Add and remove, and write the index that results."""
    import numpy as np
    import pyarrow as pa

    from recsys.retrieval.exported import ExportedVectors
    from recsys.retrieval.external_ids import read_ids
    from recsys.retrieval.index_folder import load_index, save_index
    from recsys.retrieval.options import RetrievalOptions
    from recsys.retrieval.remeasure import measure_again

    if cfg.add is None and cfg.remove is None:
        raise ConfigError(f"index={cfg.index}: nothing to change. Give add=, remove= or both.")
    saved = load_index(Path(str(cfg.index)))
    index, card = saved.index, saved.card
    gone: pa.Array = pa.array([], index.ids.type)
    if cfg.remove is not None:
        gone = read_ids(str(cfg.remove), "id", index.ids.type, "item")
        index.remove(gone)
    added, users = 0, None
    if cfg.add is not None:
        new = ExportedVectors.open(Path(str(cfg.add)))
        new.verify()
        if new.similarity != index.similarity:
            raise SchemaError(
                f"{new.folder} is of similarity {new.similarity}, the index of "
                f"{index.similarity}. Add vectors of the same model."
            )
        index.add(new.ids, np.concatenate(list(new.blocks(65_536))))
        added = len(new)
        users = new.sibling("users") if new.name == "items" else None
    before = card.get("changed", {"added": 0, "removed": 0})
    changed = {"added": before["added"] + added, "removed": before["removed"] + len(gone)}
    kept = ("facts", "table", "embeddings_digest", "retrieval")
    about = {key: card[key] for key in kept if key in card}
    options = config.build_options(RetrievalOptions, card["retrieval"], "retrieval")
    queries = None if users is None else users.take(options.drawn(len(users)))
    found = measure_again(index, options, queries) if len(index) else None
    if found is not None:
        about["measured"] = measured(found.k, found.queries_from, found.chosen, found.points)
    card = save_index(index, output, {**about, "changed": changed})
    console.note(
        f"{added:,} added, {len(gone):,} removed: {len(index):,} left, in {output}. "
        + _recall_now(found, options)
    )
    return {"folder": str(output), "card": card}


def _recall_now(found: Remeasured | None, options: RetrievalOptions) -> str:
    if found is None:
        return "It holds codes alone, so its recall is not known any more: build anew."
    text = (
        f"recall@{found.k} {found.chosen.recall:.4f} at effort {found.chosen.effort}, by "
        f"{found.queries_from}"
    )
    if found.reached:
        return f"{text}."
    return f"{text}: BELOW retrieval.min_recall={options.min_recall}. Build anew."


if __name__ == "__main__":
    config.main(build_index, "build_index")
