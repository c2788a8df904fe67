"""Score new raw rows with the feature pipeline and the weights of a finished run.

    python -m pipelines.evaluate run=<run id> data.path=new.parquet
    python -m pipelines.evaluate run=outputs/clicks/autoint/<time> data.path='days/*.parquet'

    python -m pipelines.evaluate run=<run id of a cf model> data.path=new_pairs.parquet

Writes predictions.parquet (a probability per row, or one for each of several labels, in the order
of the rows) and result.json to
output_dir; metrics too where the label column is present. Of a cf model it ranks all items for the
users of the new pairs: recommendations.parquet, and how many of the pairs are found.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from recsys import config
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.tracking.console import Console


def evaluate(cfg: DictConfig) -> dict[str, Any]:
    """Stream the rows through the model; memory does not grow with their number.

    Returns:
        What `result.json` holds, and its `folder`.
    """
    for key, value in (("run", cfg.run), ("data.path", cfg.data.path)):
        if value is None:
            raise ConfigError(
                f"{key} is missing. Example: python -m pipelines.evaluate run=<run id> "
                "data.path=new.parquet"
            )
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    from recsys.data.atomic import write_text_whole
    from recsys.data.readers import Source
    from recsys.metrics.task_report import report_for
    from recsys.models import saved_cf
    from recsys.models.saved import SavedModel, probabilities
    from recsys.tracking.console import Console
    from recsys.tracking.find import find_model

    console = Console(cfg.console)
    folder = find_model(str(cfg.run), cfg.tracking.get("uri"))
    if saved_cf.is_cf(folder):
        return evaluate_pairs(cfg, folder, console)
    saved = SavedModel.load(folder)
    schema = saved.pipeline.schema
    source = Source.open(cfg.data.path)
    saved.pipeline.require(list(source.columns))
    labelled = set(schema.labels) <= set(source.columns)
    extra = [*schema.labels] if labelled else []
    extra += [c for c in (schema.weight, schema.group) if c is not None and c in source.columns]
    columns = list(dict.fromkeys([*schema.names, *extra]))
    console.banner(f"{saved.spec.class_name} of {folder} on {cfg.data.path}")

    output = make_folder(cfg)
    report = report_for(schema.labels, schema.parents)
    target = output / "predictions.parquet"
    temporary = output / ".predictions.parquet.writing"
    tasks = len(schema.labels)
    empty = saved.named(np.empty((0,) if tasks == 1 else (0, tasks), np.float32))
    fields = pa.schema([(name, pa.float32()) for name in empty])
    done = 0
    with pq.ParquetWriter(temporary, fields) as writer:
        for batch in source.batches(columns, cfg.block_rows):
            encoded = saved.pipeline.transform(batch.table)
            logits = saved.logits_of(encoded)
            if labelled and encoded.label is not None:
                report.add(logits, encoded.label, encoded.weight, encoded.group)
            writer.write_table(pa.table(saved.named(probabilities(logits)), schema=fields))
            done += len(logits)
            console.preparing(done, source.num_rows, "score")
    temporary.replace(target)
    result: dict[str, Any] = {
        "run": str(cfg.run),
        "model": saved.spec.stem,
        "data": str(cfg.data.path),
        "rows": done,
        "metrics": {"data": report.compute()} if labelled else {},
        "predictions": str(target),
    }
    write_text_whole(output / "result.json", json.dumps(result, indent=1))
    if labelled:
        metrics = result["metrics"]["data"]
        console.table(
            f"{saved.spec.class_name}, {done:,} rows",
            ("metric", "value"),
            [(name, f"{value:.5f}") for name, value in metrics.items()],
        )
    else:
        console.note(f"no label column ({', '.join(schema.labels)}): scores only")
    console.note(f"{done:,} rows scored in {target}")
    return {**result, "folder": str(output)}


def evaluate_pairs(cfg: DictConfig, folder: Path, console: Console) -> dict[str, Any]:
    """Rank all items for the users of new pairs, and see how many of the pairs are found.

    Returns:
        What `result.json` holds, and its `folder`.
    """
    import pyarrow.parquet as pq

    from recsys.data.atomic import write_text_whole
    from recsys.data.datasets.interactions import read_pairs
    from recsys.metrics.ranking import FullRanking
    from recsys.models.saved_cf import SavedCF

    saved = SavedCF.load(folder)
    ks = tuple(config.at_least("ks", k, 1) for k in config.plain(cfg.ks))
    console.banner(f"{saved.spec.class_name} of {folder} on {cfg.data.path}")
    test, notes = saved.data.pairs_of(read_pairs(cfg.data.path, cfg.data.user, cfg.data.item))
    for note in notes:
        console.note(f"note: {note}")
    judge = FullRanking(test, saved.data.train, ks=ks)
    vectors = saved.vectors()
    found = judge.of_scores(saved.model.scores) if vectors is None else judge.of_vectors(*vectors)
    output = make_folder(cfg)
    target = output / "recommendations.parquet"
    lists = saved.recommend(saved.data.user_ids.take(found.users), max(ks))
    temporary = output / ".recommendations.parquet.writing"
    pq.write_table(lists, temporary)
    temporary.replace(target)
    result = {
        "run": str(cfg.run),
        "model": saved.spec.stem,
        "data": str(cfg.data.path),
        "metrics": {"data": found.metrics},
        "counts": {"data": found.counts},
        "notes": list(notes),
        "recommendations": str(target),
    }
    write_text_whole(output / "result.json", json.dumps(result, indent=1))
    console.table(
        f"{saved.spec.class_name}, {len(test):,} pairs of {len(found.users):,} users",
        ("metric", *(f"at {k}" for k in judge.ks)),
        [
            (name, *(f"{found.metrics[f'{name}_at_{k}']:.5f}" for k in judge.ks))
            for name in dict.fromkeys(key.rpartition("_at_")[0] for key in found.metrics)
        ],
    )
    console.note(f"the best {max(ks)} items of {len(found.users):,} users in {target}")
    return {**result, "folder": str(output)}


def make_folder(cfg: DictConfig) -> Path:
    """Where the output goes."""
    output = Path(cfg.output_dir or Path("outputs/evaluate") / f"{datetime.now():%Y%m%d-%H%M%S}")
    output.mkdir(parents=True, exist_ok=True)
    return output


if __name__ == "__main__":
    config.main(evaluate, "evaluate")
