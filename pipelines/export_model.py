"""Copies of a finished run that are made to predict: smaller tables, and a file for torch alone.

    python -m pipelines.export_model run=<run id>
    python -m pipelines.export_model run=outputs/clicks/dcnv2/<time> 'tables=[float16,int8,int4]'
    python -m pipelines.export_model run=<run id> tables=int4 data.path=new.parquet
    python -m pipelines.export_model run=<run id> tables=float32

Each copy is a folder of output_dir, named after its tables:

    int8/model/       a saved model: pipelines.evaluate run=<output_dir>/int8 takes it as any other
    int8/scorer.pt2   encoded ids in, probabilities out, by torch alone; program=false leaves it out
    int8/scorer.json  what it takes: names, types, shapes, columns

and copies.csv, result.json say what each costs: bytes, metrics on the run's test rows (or those of
data.path), the largest difference of a logit from the full model's, and rows per second. Every
copy is a run in MLflow too. tables=float32 writes the full model's scorer alone.
"""

from __future__ import annotations

import csv
import io
import json
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from recsys import config
from recsys.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from pipelines.compared_rows import ComparedRows
    from recsys.models.copies import Copy, Measured
    from recsys.models.saved import SavedModel
    from recsys.tracking.console import Console

FULL = "float32"
SHOWN = ("auc", "gauc", "logloss")
"""Metrics of the table on screen; `result.json` has all."""


def export_model(cfg: DictConfig) -> dict[str, Any]:
    """Write the copies, score the same rows by each, and say what was found.

    Returns:
        What `result.json` holds, and its `folder`.
    """
    if cfg.run is None:
        raise ConfigError(
            "run is missing. Example: python -m pipelines.export_model run=<run id> tables=int8"
        )
    formats = chosen_formats(cfg)
    batch_rows = config.at_least("batch_rows", cfg.batch_rows, 1)
    most = None if cfg.rows is None else config.at_least("rows", cfg.rows, 1)

    from pipelines.compared_rows import ComparedRows
    from recsys.data.atomic import write_text_whole
    from recsys.models import saved_cf
    from recsys.models.copies import Copy, measure, table_bytes
    from recsys.models.saved import WEIGHTS, SavedModel
    from recsys.tracking.console import Console
    from recsys.tracking.find import find_model

    folder = find_model(str(cfg.run), cfg.tracking.get("uri"))
    if saved_cf.is_cf(folder):
        raise ConfigError(
            f"run={cfg.run} is of a model of users and items, whose vectors are what serves: "
            "python -m pipelines.export_embeddings run=<run id> dtype=int8."
        )
    output = Path(
        cfg.output_dir or Path("outputs/export_model") / f"{datetime.now():%Y%m%d-%H%M%S}"
    )
    for name in formats:
        check_target(output / name)
    with Console(cfg.console) as console:
        saved = SavedModel.load(folder)
        if saved.tables != FULL:
            raise ConfigError(
                f"run={cfg.run} is a copy with {saved.tables} tables already. Name the run it was "
                f"made of, {saved.facts.get('run_id')}."
            )
        whole = Copy(FULL, WEIGHTS, table_bytes(saved), size_of(folder / WEIGHTS), saved.logits_of)
        console.banner(f"copies of {saved.spec.class_name} of {folder}: {', '.join(formats)}")
        rows = ComparedRows(cfg.data.path, saved, folder, batch_rows, most, console)
        copies, kept = [whole], {}
        for name in formats:
            made = saved if name == FULL else saved.with_tables(name)
            kept[name], scored = write_copy(made, output / name, bool(cfg.program), console)
            copies += scored
        schema = saved.pipeline.schema
        found = measure(
            copies,
            rows.blocks(),
            schema.labels,
            schema.parents,
            lambda done: console.preparing(done, rows.num_rows, "score"),
        )
        result = {
            "run": str(cfg.run),
            "model": saved.spec.stem,
            "data": rows.name,
            "rows": rows.num_rows,
            "facts": saved.facts,
            "copies": [as_dict(one) for one in found],
        }
        write_text_whole(output / "copies.csv", as_csv(found))
        write_text_whole(output / "result.json", json.dumps(result, indent=1))
        show(console, saved, rows, found)
        log(cfg, saved, kept, output, found, rows)
        console.note(f"written to {output}")
        console.note(
            f"next: python -m pipelines.evaluate run={output / formats[-1]} data.path=<file>"
        )
    return {**result, "folder": str(output)}


def chosen_formats(cfg: DictConfig) -> list[str]:
    """The formats of `tables`, each once.

    Raises:
        ConfigError: one does not exist, none is named, or nothing would be written.
    """
    from recsys.embedding.compact_rows import FORMATS

    named = config.plain(cfg.tables)
    formats = [str(one) for one in (named if isinstance(named, list) else [named])]
    allowed = (FULL, *FORMATS)
    for name in formats:
        if name not in allowed:
            raise ConfigError(f'tables="{name}" does not exist.{did_you_mean(name, allowed)}')
    if not formats:
        raise ConfigError(f"tables is empty; name one or several of {', '.join(allowed)}.")
    if FULL in formats and not cfg.program:
        raise ConfigError(
            f"tables={FULL} with program=false would write the run's own model again. Leave "
            f"{FULL} out, or use program=true."
        )
    return list(dict.fromkeys(formats))


def check_target(folder: Path) -> None:
    """Raise ConfigError rather than replace what is not an earlier copy."""
    if folder.is_dir() and any(folder.iterdir()):
        earlier = (folder / "model" / "model.json", folder / "scorer.json")
        if not any(file.is_file() for file in earlier):
            raise ConfigError(f"{folder} holds other files. Give another output_dir.")


def write_copy(
    saved: SavedModel, folder: Path, program: bool, console: Console
) -> tuple[SavedModel, list[Copy]]:
    """Write one copy's folder, whole or not at all.

    Returns:
        The model as it is read from there (the full one is not written), and what is to be
        measured: the model, and the file.
    """
    from recsys.data.atomic import atomic_folder
    from recsys.models.copies import Copy, program_scorer, table_bytes
    from recsys.models.saved import WEIGHTS, SavedModel
    from recsys.models.scorer import PROGRAM, export_scorer

    with atomic_folder(folder) as partial:
        if saved.tables != FULL:
            saved.save(partial / "model")
        if program:
            console.note(f"tracing {saved.spec.class_name} with {saved.tables} tables")
            export_scorer(saved, partial)
    found = []
    if saved.tables != FULL:  # measured is what was written, not what was meant
        saved = SavedModel.load(folder / "model")
        size = size_of(folder / "model" / WEIGHTS)
        found.append(Copy(saved.tables, WEIGHTS, table_bytes(saved), size, saved.logits_of))
    if program:
        file = folder / PROGRAM
        scorer = program_scorer(file)
        found.append(Copy(saved.tables, PROGRAM, table_bytes(saved), size_of(file), scorer))
    return saved, found


def size_of(file: Path) -> int:
    """Bytes of a file."""
    return file.stat().st_size


def as_dict(one: Measured) -> dict[str, Any]:
    """A copy's line of `result.json`."""
    return {
        "tables": one.copy.tables,
        "file": one.copy.file,
        "table_bytes": one.copy.table_bytes,
        "file_bytes": one.copy.file_bytes,
        "largest_logit_difference": one.largest_difference,
        "rows_per_second": one.rows_per_second,
        "metrics": one.metrics,
    }


def as_csv(found: list[Measured]) -> str:
    """`copies.csv`: a line for each, metrics side by side, nothing rounded."""
    lines = []
    for one in found:
        line = as_dict(one)
        lines.append(line | line.pop("metrics"))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(lines[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def show(console: Console, saved: SavedModel, rows: ComparedRows, found: list[Measured]) -> None:
    """The table on screen."""
    from recsys.tracking.format import size

    shown = [name for name in SHOWN if name in found[0].metrics]
    console.table(
        f"{saved.spec.class_name}, {rows.num_rows:,} rows of {rows.name}",
        ("tables", "file", "tables", "file", *shown, "largest logit difference", "rows/s"),
        [
            (
                one.copy.tables,
                one.copy.file,
                size(one.copy.table_bytes),
                size(one.copy.file_bytes),
                *(f"{one.metrics[name]:.5f}" for name in shown),
                f"{one.largest_difference:.2g}",
                f"{one.rows_per_second:,.0f}",
            )
            for one in found
        ],
    )
    if not shown:
        console.note(f"no label column ({', '.join(saved.pipeline.schema.labels)}): no metrics")


def log(
    cfg: DictConfig,
    saved: SavedModel,
    kept: dict[str, SavedModel],
    output: Path,
    found: list[Measured],
    rows: ComparedRows,
) -> None:
    """A run of its own for each copy, in the experiment of the data set; its model is a pyfunc."""
    from pipelines.tracked_run import compared, log_model
    from recsys.models.saved import WEIGHTS
    from recsys.tracking.names import experiment_name, run_name
    from recsys.tracking.run import open_tracker

    data = saved.facts["data"]
    for name, copy in kept.items():
        with open_tracker(
            cfg.tracking.kind,
            experiment=experiment_name(str(data)),
            run_name=run_name(f"{saved.spec.stem}-{name}", datetime.now()),
            uri=cfg.tracking.get("uri"),
            tags={
                "model": saved.spec.stem,
                "family": saved.spec.family,
                "dataset": data,
                "tables": name,
                "source_run": saved.facts["run_id"],
                "output_dir": str((output / name).resolve()),
                **config.plain(cfg.tracking.get("tags") or {}),
            },
        ) as tracker:
            tracker.log_params({"tables": name, "compared_on": rows.name})
            metrics: dict[str, float] = {}
            for one in found:
                if one.copy is not found[0].copy and one.copy.tables != name:
                    continue
                what = "model" if one.copy.file == WEIGHTS else "scorer"
                what = "full" if one is found[0] else what
                values = compared(one.metrics, ("auc",)) if one.metrics else {}
                metrics |= {f"{what}/{rows.split}/{key}": value for key, value in values.items()}
                metrics[f"{what}/table_bytes"] = float(one.copy.table_bytes)
                metrics[f"{what}/file_bytes"] = float(one.copy.file_bytes)
                metrics[f"{what}/rows_per_second"] = one.rows_per_second
                if what != "full":
                    metrics[f"{what}/largest_logit_difference"] = one.largest_difference
            tracker.log_metrics(metrics, 0)
            for file in ("scorer.pt2", "scorer.json"):
                if (output / name / file).is_file():
                    tracker.log_artifact(output / name / file)
            if name != FULL:
                log_model(tracker, output / name / "model", copy, rows.example, 0)


if __name__ == "__main__":
    config.main(export_model, "export_model")
