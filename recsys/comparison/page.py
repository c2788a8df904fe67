"""A comparison as one HTML page: tables that sort, figures in place, what the numbers mean."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence

from recsys.comparison import render
from recsys.comparison.figures import configurations, quality_and_cost
from recsys.comparison.table import Comparison, Row
from recsys.tracking.page import Cell, document, drawing, sortable

READING = (
    "A row is a configuration: runs that differ in nothing but the seed. Values are mean +- "
    "standard deviation over its n seeds; the best mean of a column is bold. Of parameters only "
    "those that differ are shown, a model's own within that model. Differences are paired by seed; "
    "the interval and p over seeds say how training anew moves them, the interval over test rows "
    "how other rows would. Neither speaks for the other."
)


def render_page(tables: Sequence[Comparison], notes: Sequence[str] = ()) -> str:
    """The page.

    Args:
        tables: One per data set.
        notes: Sentences on all of them, such as runs left out.
    """
    parts = [f"<p class=facts>note: {html.escape(note)}</p>" for note in notes]
    parts.append(f"<p>{READING}</p>")
    for number, table in enumerate(tables):
        parts.append(f"<h2>{html.escape(render.title(table))}</h2>")
        parts += [f"<p class=facts>{html.escape(note)}</p>" for note in table.notes]
        parts.append(_table(f"c{number}", table))
        drawn = quality_and_cost(table)
        parts += [] if drawn is None else [drawing(drawn[0])]
        parts.append(drawing(configurations(table)[0]))
        parts += ["<h2>Runs</h2>", _runs(f"r{number}", table)]
    names = ", ".join(dict.fromkeys(table.data for table in tables))
    return document(f"Runs on {names}", parts)


def _table(key: str, table: Comparison) -> str:
    names = render.columns(table)
    first = 2 + len(table.varying)
    metrics = dict(enumerate(table.metrics, start=first))
    best = {name: table.best(name) for name in table.metrics}
    rows = []
    for index, (row, texts) in enumerate(zip(table.rows, render.cells(table), strict=True)):
        cells = []
        for place, text in enumerate(texts):
            metric = metrics.get(place)
            kind = "best" if metric is not None and index in best[metric] else ""
            cells.append(Cell(text, _value(table, row, index, place, metric), kind))
        rows.append([one if one.value is not None else one._replace(kind="text") for one in cells])
    to_left = [all(row[place].value is None for row in rows) for place in range(len(names))]
    return sortable(key, names, to_left, rows)


def _value(table: Comparison, row: Row, index: int, place: int, metric: str | None) -> float | None:
    """What a cell sorts by; None: its text."""
    if metric is not None:
        found = row.spread(metric)
        return math.nan if found is None else found.mean
    if place == 1:
        return len(row.runs)
    if 2 <= place < 2 + len(table.varying):
        return _number(row.params.get(table.varying[place - 2], ""))
    after = place - 2 - len(table.varying) - len(table.metrics)
    if table.baseline is None or after not in (0, 2):
        return None
    change = table.differences.get(index)
    if change is None or change.seeds is None:
        return math.nan
    return change.seeds.mean if after == 0 else change.p_holm


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _runs(key: str, table: Comparison) -> str:
    """Every run by itself."""
    rows = []
    for index, row in enumerate(table.rows):
        for run in row.runs:
            values = [run.metrics.get(name, math.nan) for name in table.metrics]
            rows.append(
                [
                    Cell(table.label(index), kind="text"),
                    Cell("-" if run.seed is None else str(run.seed), run.seed),
                    *(
                        Cell("-" if math.isnan(value) else render.number(name, value), value)
                        for name, value in zip(table.metrics, values, strict=True)
                    ),
                    Cell(run.run_id, kind="text"),
                    Cell("" if run.folder is None else str(run.folder), kind="text"),
                ]
            )
    names = [name.removeprefix("test/") for name in table.metrics]
    to_left = [True, False, *(False for _ in names), True, True]
    return sortable(key, ["configuration", "seed", *names, "run", "folder"], to_left, rows)
