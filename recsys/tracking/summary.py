"""The tables of a run's story: its data, its model, its result. Values in, rows of text out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from recsys.tracking.format import compact, duration, metric, shown_metrics, size

if TYPE_CHECKING:
    from recsys.data.prepare import Prepared
    from recsys.embedding.lookup import EmbeddingLookup

MAX_COLUMNS_SHOWN = 40
"""Columns of the data listed on screen; the schema file has them all."""


@dataclass(frozen=True)
class Table:
    """A title, column names and rows of cells."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


def split_table(prepared: Prepared) -> Table:
    """One row per split."""
    total = max(sum(store.num_rows for store in prepared.stores.values()), 1)
    rows = [
        (name, f"{store.num_rows:,}", f"{store.num_rows / total:.0%}")
        for name, store in prepared.stores.items()
    ]
    return Table(f"Data: {prepared.name}", ("split", "rows", "share"), rows)


def column_table(summary: Sequence[Mapping[str, Any]]) -> Table | None:
    """One row per column of the data, as the schema understands it."""
    if not summary:
        return None
    columns = list(summary[0])
    rows = [[_cell(row.get(name)) for name in columns] for row in summary[:MAX_COLUMNS_SHOWN]]
    hidden = len(summary) - len(rows)
    if hidden > 0:
        rows.append([f"... and {hidden} more", *([""] * (len(columns) - 1))])
    return Table("Columns", columns, rows)


def model_table(
    name: str, lookup: EmbeddingLookup, parameters: Mapping[str, int], memory: Mapping[str, int]
) -> Table:
    """Where the parameters lie and what they cost."""
    owners = [field for field in lookup.schema if field.shares is None]
    growing = [field.name for field in owners if field.encoding == "dynamic"]
    codes = sum(field.size or 0 for field in owners if field.name not in growing)
    table_rows = lookup.layout.num_rows
    fewer = f" ({codes / table_rows:.0f}x fewer)" if codes >= 2 * table_rows else ""
    rows = [
        (
            "embedding",
            f"{parameters['embedding']:,}",
            f"{table_rows:,} rows for {', '.join([f'{codes:,} codes{fewer}', *growing])}",
            *(size(memory[key]) for key in ("weights", "optimizer", "serving")),
        ),
        ("interaction", f"{parameters['dense']:,}", name, "", "", ""),
    ]
    heads = ("part", "parameters", "what", "weights", "optimiser", "serving")
    return Table("Model", heads, rows)


def result_table(result: Mapping[str, Any]) -> Table:
    """One row per split, and the best that is possible where that is known."""
    metrics = by_label(result["metrics"])
    if result.get("bayes"):
        metrics |= by_label({"best possible": result["bayes"]})
    names = shown_metrics({name: 0.0 for values in metrics.values() for name in values})
    rows = [
        (split, *(metric(name, values[name]) if name in values else "" for name in names))
        for split, values in metrics.items()
    ]
    by_test = result.get("selection") == "test" and result["epochs"]
    chosen = ", epochs chosen by the test pairs" if by_test else ""
    return Table(f"Result: {result['model']} on {result['data']}{chosen}", ("", *names), rows)


def by_label(metrics: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """Metrics of several labels, `test: click/auc`, with a part of their own: `test click: auc`.

    Example:
        >>> by_label({"test": {"auc": 0.7, "click/auc": 0.8, "buy/cvr/auc": 0.6}})
        {'test': {'auc': 0.7}, 'test click': {'auc': 0.8}, 'test buy cvr': {'auc': 0.6}}
    """
    found: dict[str, dict[str, float]] = {}
    for split, values in metrics.items():
        for key, value in values.items():
            label, _, name = key.rpartition("/")
            part = " ".join(filter(None, (split, label.replace("/", " "))))
            found.setdefault(part, {})[name] = value
    return found


def result_line(result: Mapping[str, Any]) -> str:
    """What the run cost. A run of no steps was computed; one may end within its first epoch."""
    seconds, memory = duration(result["fit_seconds"]), size(result["peak_memory_mib"] * 2**20)
    if not result["steps"]:
        return f"computed in {seconds}, model {size(result['model_bytes'])}, peak memory {memory}"
    epochs, steps = result["epochs"], result["steps"]
    length = f"{epochs} epochs" if epochs else f"{steps:,} steps"
    speed = result["train_rows_per_second"]  # 0 of a run that ended while it warmed up
    told = f"{compact(speed)} rows/s, " if speed else ""
    parameters = compact(result["num_parameters"])
    return f"{parameters} parameters, {length} in {seconds}, {told}peak memory {memory}"


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
