"""One HTML page that needs nothing else: its style, tables that sort and filter, drawings."""

from __future__ import annotations

import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Cell(NamedTuple):
    """What stands in a cell."""

    text: str
    value: float | None = None
    """A number to sort by; NaN comes last. None sorts by the text."""
    kind: str = ""
    """Class: `text` is set to the left, `flag` warns, `best` is bold."""


def document(title: str, parts: Sequence[str]) -> str:
    """The page.

    Args:
        title: Plain text.
        parts: HTML below the title, in order.
    """
    name = html.escape(title)
    return "\n".join(
        [
            "<!doctype html><html lang=en><head><meta charset=utf-8>",
            "<meta name=viewport content='width=device-width,initial-scale=1'>",
            f"<title>{name}</title><style>{_read('page.css')}</style></head><body>",
            f"<h1>{name}</h1>",
            *parts,
            f"<script>{_read('page.js')}</script></body></html>",
        ]
    )


def _read(name: str) -> str:
    return Path(__file__).with_name(name).read_text()


def sortable(
    key: str,
    columns: Sequence[str],
    to_left: Sequence[bool],
    rows: Sequence[Sequence[Cell]],
    note: str = "",
) -> str:
    """A table whose columns sort by a click, with a field to filter its rows.

    Args:
        key: Unique on the page.
        columns: Names.
        to_left: Columns of text.
        rows: A cell per column.
        note: A sentence above the table.

    Example:
        >>> sortable("a", ["n"], [False], [[Cell("1,000", 1000.0)]]).count("data-v='1000.0'")
        1
    """
    head = "".join(
        f"<th{' class=text' if left else ''}>{html.escape(name)}</th>"
        for name, left in zip(columns, to_left, strict=True)
    )
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    told = f"<p>{html.escape(note)}</p>" if note else ""
    return (
        f"<input data-for=t-{key} placeholder='filter'>{told}<div class=wide>"
        f"<table id=t-{key}><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    kind = f" class={cell.kind}" if cell.kind else ""
    text = html.escape(cell.text)
    if cell.value is None:
        return f"<td{kind}>{text}</td>"
    value = repr(cell.value) if math.isfinite(cell.value) else ""
    return f"<td{kind} data-v='{value}'>{text}</td>"


def drawing(figure: Figure) -> str:
    """A figure as SVG to stand in a page, as wide as the page at most."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    svg = text.getvalue()
    return svg[svg.index("<svg") :].replace("<svg ", "<svg style='max-width:100%' ", 1)
