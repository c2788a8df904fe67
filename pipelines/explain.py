"""Look at what a trained model does, on any rows: its fields, its explanations, single rows.

    python -m pipelines.explain run=<run id> data.path=rows.parquet rows=5
    python -m pipelines.explain run=outputs/clicks/autoint/<time> data.path=rows.csv rows=1
    python -m pipelines.explain run=<run id> data.path=rows.parquet interactions.pairs=10
    python -m pipelines.explain run=<run id> data.path=rows.parquet interactions.pairs=10 \
        'interactions.fields=[user,item,hour]' 'interactions.runs=[<run id>,<run id>]'

Writes to output_dir
    rows.txt, rows.json    the first rows: probability, and what stands out in each explanation
    <name>.png, .csv       attention, gates, crosses, interest: as after training, on these rows
    gain.png, .csv         trees: what the splits gained
    importance.png, .csv   permutation importance of each field, where the label column is present
    sensitivity.png, .csv  its first-order stand-ins (SHARK, SFS); a list for data.features
    interactions.csv       pairs of fields: what they tell only together, over near-equal models
    swarm, halo            the same as figures, each model a dot; what two masks cost together
    result.json            what was read and written
They are kept with the run in MLflow too, among its artifacts.

What a row's explanation holds depends on the model: AutoInt the pairs of fields of most attention,
FinalNet and FinalMLP the most open gates, ARM-Net the crosses of the largest weights, DIN the
events of most interest, LightGBM what each feature adds to the logit.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig

from recsys import config
from recsys.errors import ConfigError

if TYPE_CHECKING:
    import pyarrow as pa

    from recsys.data.batch import Batch
    from recsys.data.encode import EncodedTable
    from recsys.data.readers import Source
    from recsys.models.saved import SavedModel
    from recsys.models.trees import Trees

TOP = 5
"""Entries of each kind in a row's report."""


def explain(cfg: DictConfig) -> dict[str, Any]:
    """Read the first rows, draw and write what the model says about them.

    Returns:
        What `result.json` holds, and its `folder`.
    """
    for key, value in (("run", cfg.run), ("data.path", cfg.data.path)):
        if value is None:
            raise ConfigError(
                f"{key} is missing. Example: python -m pipelines.explain run=<run id> "
                "data.path=rows.parquet rows=5"
            )
    num_rows = config.at_least("rows", cfg.rows, 0)
    explained_rows = config.at_least("explained_rows", cfg.explained_rows, 0)
    importance_rows = config.at_least("importance_rows", cfg.importance_rows, 0)

    from pipelines import training_report as report
    from pipelines.interaction_report import InteractionReport
    from recsys.data.atomic import write_text_whole
    from recsys.data.readers import Source
    from recsys.models.interactions import InteractionOptions
    from recsys.models.saved import SavedModel
    from recsys.models.saved_cf import is_cf
    from recsys.models.trees import Trees
    from recsys.tracking.attach import attach
    from recsys.tracking.console import Console
    from recsys.tracking.find import find_model

    options = config.build_options(InteractionOptions, cfg.interactions, "interactions")
    console, uri = Console(cfg.console), cfg.tracking.get("uri")
    folder = find_model(str(cfg.run), uri)
    if is_cf(folder):
        raise ConfigError(
            f"run={cfg.run} is a model of users and items: it reads ids alone and has no fields to "
            "explain. Choose a ctr or mtl run, or ask it for items with pipelines.recommend."
        )
    saved = SavedModel.load(folder)
    pairs = None
    if options.pairs:
        pairs = InteractionReport(saved, options, uri, int(cfg.seed), console)
    source = Source.open(cfg.data.path)
    wanted = max(num_rows, explained_rows, importance_rows, options.rows if pairs else 0, 1)
    table = first_rows(saved, source, wanted)
    encoded = saved.pipeline.transform(table)
    name, data = saved.spec.class_name, Path(str(cfg.data.path)).name
    console.banner(f"{name} of {folder} on the first {len(encoded):,} rows of {cfg.data.path}")

    output = Path(cfg.output_dir or Path("outputs/explain") / f"{datetime.now():%Y%m%d-%H%M%S}")
    output.mkdir(parents=True, exist_ok=True)
    if isinstance(saved.model, Trees):
        report.write_gain(output, name, data, len(encoded), saved.model)
    elif explained_rows:
        found = report.explained(
            saved.recommender, batches(encoded, explained_rows, report.EXPLAINED_BLOCK)
        )
        report.write_explanations(output, name, data, report.slot_names(saved.recommender), found)
        if encoded.label is not None:
            blocks = [*batches(encoded, explained_rows, report.EXPLAINED_BLOCK)]
            report.write_sensitivity(output, name, data, saved.recommender, blocks)
    rows = row_reports(saved, table.slice(0, num_rows))
    text = "\n\n".join(text_of(row) for row in rows)
    write_text_whole(output / "rows.json", json.dumps(rows, indent=1))
    write_text_whole(output / "rows.txt", text + "\n")
    console.note(text)
    importance = None
    if importance_rows and encoded.label is not None:
        importance = report.write_importance(
            output, name, data, saved.logits_of, saved.pipeline.schema,
            head(encoded, importance_rows), console, int(cfg.seed),
            together=saved.joined_histories,
        )  # fmt: skip
    elif importance_rows:
        labels = ", ".join(saved.pipeline.schema.labels)
        console.note(f"no importance: there is no label column ({labels})")
    result: dict[str, Any] = {
        "run": str(cfg.run),
        "model": saved.spec.stem,
        "data": str(cfg.data.path),
        "rows": len(encoded),
        "importance": None if importance is None else dict(importance.top(len(importance.fields))),
    }
    if pairs is not None:
        result["interactions"] = pairs.write(output, data, table)
    result["figures"] = sorted(path.name for path in output.glob("*.png"))
    write_text_whole(output / "result.json", json.dumps(result, indent=1))
    console.note(f"written to {output}")
    if cfg.tracking.kind == "mlflow" and "run_id" in saved.facts:
        console.note(attach(saved.facts["run_id"], output, f"explain/{output.name}", uri))
    return {**result, "folder": str(output)}


def first_rows(saved: SavedModel, source: Source, num_rows: int) -> pa.Table:
    """The first rows with the columns of the pipeline, and labels and weights where they are."""
    import pyarrow as pa

    schema = saved.pipeline.schema
    source.require(schema.names)
    present = set(source.columns)
    labels = [*schema.labels] if present.issuperset(schema.labels) else []
    extra = [one for one in (schema.weight,) if one in present]
    columns = list(dict.fromkeys([*schema.names, *labels, *(one for one in extra if one)]))
    tables, done = [], 0
    for chunk in source.batches(columns, 65_536):
        tables.append(chunk.table)
        done += chunk.table.num_rows
        if done >= num_rows:
            break
    if done == 0:
        raise ConfigError("the data has no rows. Name a file that has some.")
    return pa.concat_tables(tables, promote_options="permissive").slice(0, num_rows)


def head(encoded: EncodedTable, num_rows: int) -> EncodedTable:
    """At most so many rows."""
    import numpy as np

    return encoded if len(encoded) <= num_rows else encoded.take(np.arange(num_rows))


def batches(encoded: EncodedTable, num_rows: int, block: int) -> Iterator[Batch]:
    """The first rows, a block at a time."""
    import numpy as np

    for start in range(0, min(len(encoded), num_rows), block):
        stop = min(start + block, len(encoded), num_rows)
        yield encoded.take(np.arange(start, stop)).to_batch()


def row_reports(saved: SavedModel, table: pa.Table) -> list[dict[str, Any]]:
    """What the model says about each row: probability, and what stands out, with raw values."""
    import torch

    from pipelines.training_report import slot_names
    from recsys.models.explanations import most_of_row
    from recsys.models.saved import probabilities
    from recsys.models.trees import Trees

    if table.num_rows == 0:
        return []
    encoded = saved.pipeline.transform(table)
    raw = table.to_pylist()
    logits = saved.logits_of(encoded)
    reports: list[dict[str, Any]] = []
    for row, (values, p) in enumerate(zip(raw, probabilities(logits).tolist(), strict=True)):
        one: dict[str, Any] = {"row": row, "probability": p}
        one |= {name: values[name] for name in saved.pipeline.schema.labels if name in values}
        reports.append(one)
    if isinstance(saved.model, Trees):
        for one, most in zip(reports, _contributions(saved.model, encoded), strict=True):
            one["contributions"] = most
    else:
        recommender = saved.recommender
        batch = encoded.to_batch()
        with torch.no_grad():
            parts = recommender.model.explain(recommender.lookup(batch))
        arrays = {name: part.float().numpy() for name, part in parts.items()}
        lengths = {name: ragged.lengths.tolist() for name, ragged in batch.ragged.items()}
        names = slot_names(recommender)
        for row, one in enumerate(reports):
            own = {name: all_lengths[row] for name, all_lengths in lengths.items()}
            one |= most_of_row(arrays, row, names, own, TOP)
    for values, one in zip(raw, reports, strict=True):
        _add_values(one, values)
    return reports


def _contributions(trees: Trees, encoded: EncodedTable) -> list[list[dict[str, Any]]]:
    import numpy as np

    names = [feature.name for feature in trees.features.features]
    found = []
    for row in trees.contributions(encoded)[:, :-1]:
        best = np.argsort(-np.abs(row), kind="stable")[:TOP].tolist()
        found.append([{"slots": [names[i]], "weight": float(row[i])} for i in best])
    return found


def _add_values(report: dict[str, Any], raw: Mapping[str, Any]) -> None:
    """Beside each slot's name, the raw value that the row has there."""
    for name, entries in report.items():
        if not isinstance(entries, list):
            continue
        for entry in entries:
            if "slots" in entry:
                entry["values"] = [_plain(raw, slot) for slot in entry["slots"]]
            elif name.startswith("interest."):
                events = raw[name.removeprefix("interest.")] or [None]
                entry["value"] = str(events[-entry["events_ago"]])


def _plain(raw: Mapping[str, Any], slot: str) -> str | None:
    """Raw value of the field of a slot (`field`, or `field.k` for the k-th lookup or feature)."""
    value = raw[slot] if slot in raw else raw[slot.rpartition(".")[0]]
    return None if value is None else str(value)


def text_of(report: Mapping[str, Any]) -> str:
    """One row's report as lines a person reads."""
    head = [f"{key} {value:.4f}" if key == "probability" else f"{key} {value}"
            for key, value in report.items() if not isinstance(value, list)]  # fmt: skip
    lines = ["   ".join(head)]
    for name, entries in report.items():
        if isinstance(entries, list) and entries:
            lines.append(f"  {name}")
            lines += [f"    {_entry(name, entry)}" for entry in entries]
    return "\n".join(lines)


def _entry(name: str, entry: Mapping[str, Any]) -> str:
    if "events_ago" in entry:
        return f"{entry['weight']:9.4f}  {entry['events_ago']} events ago: {entry['value']}"
    named = [f"{s}={_cut(v)}" for s, v in zip(entry["slots"], entry["values"], strict=True)]
    if name == "crosses":
        parts = [f"{w:+.3g} {one}" for w, one in zip(entry["weights"], named, strict=True)]
        more = entry["num_slots"] - len(parts)
        return "  x  ".join(parts) + (f"  (and {more} more)" if more else "")
    return f"{entry['weight']:9.4f}  {' -> '.join(named)}"


def _cut(value: str | None, length: int = 32) -> str:
    if value is None:
        return "missing"
    return value if len(value) <= length else f"{value[: length - 1]}…"


if __name__ == "__main__":
    config.main(explain, "explain")
