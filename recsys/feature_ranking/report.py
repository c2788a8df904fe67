"""A ranking as one HTML page that needs nothing else: tables that sort, plots drawn in place."""

from __future__ import annotations

import html
import json
import math
from typing import Any

import polars as pl

from recsys.feature_ranking.ranking import Ranking
from recsys.feature_ranking.report_plots import label_line, score_bars
from recsys.tracking.page import Cell, document, sortable

PAGE_ROWS = 2_000
"""Rows of a table that are written to the page; the CSV has all."""

_SECTIONS = {
    "features": (
        "Columns",
        "Best first. score: excess information less three deviations of chance. gain: log-loss "
        "saved on rows that were not counted. unseen and drift: those rows against the training "
        "rows. All in nats.",
    ),
    "pairs": (
        "Pairs",
        "interaction: what two columns tell together beyond what each tells alone, its chance "
        "taken off. first_adds: what the first adds to the second. Columns are cut to their 63 "
        "most frequent values.",
    ),
    "selection": ("Greedy orders", "Relevance against redundancy: 3MR, mRMR, JMI, CMIM."),
    "suggestions": (
        "For training",
        "Which columns to keep, below which count values are too rare to learn from, a width.",
    ),
    "drift": (
        "Drift",
        "Population stability index of each period against the first: under 0.1 is calm, above "
        "0.25 is another population.",
    ),
    "label_periods": ("Label by period", ""),
    "rare": ("Rare values", "Share of training rows whose value occurs fewer than so many times."),
    "values": ("Frequent values", "The five most frequent values of each column."),
}


def render(ranking: Ranking, suggestions: pl.DataFrame) -> str:
    """The page.

    Args:
        ranking: What was found.
        suggestions: Of `recsys.feature_ranking.suggest`.
    """
    facts = ranking.facts
    title = f"Columns of {facts['data']} by what they tell about {facts['label']}"
    tables = {
        "features": ranking.features,
        "pairs": ranking.pairs,
        "selection": side_by_side(ranking.selection),
        "suggestions": suggestions,
        "drift": ranking.drift,
        "label_periods": ranking.label_periods,
        "rare": ranking.rare,
        "values": ranking.values,
    }
    parts = [
        f"<p class=facts>{html.escape(_facts_line(ranking))}</p>",
        *(f"<p class=facts>note: {html.escape(note)}</p>" for note in facts["notes"]),
        "<h2>Score and chance</h2>",
        "<p>Bars: excess information. Whiskers: three deviations of chance to each side. A bar "
        "whose left whisker is right of zero tells something.</p>",
        score_bars(ranking.features),
    ]
    if len(ranking.label_periods) > 1:
        parts += ["<h2>Label rate by period</h2>", label_line(ranking.label_periods)]
    for key, (name, text) in _SECTIONS.items():
        if len(tables[key]):
            parts += [f"<h2>{name}</h2>", f"<p>{html.escape(text)}</p>", _table(key, tables[key])]
    return document(title, parts)


def _facts_line(ranking: Ranking) -> str:
    facts = ranking.facts
    pieces = [
        f"{facts['columns']} columns", f"{facts['train_rows']:,} training rows",
        f"{facts['held_out_rows']:,} held-out rows", f"method {facts['method']}",
        f"{facts['seconds']:.1f} s ({facts['rows_per_second']:,.0f} rows/s)",
    ]  # fmt: skip
    if facts["rows_without_label"]:
        pieces.append(f"{facts['rows_without_label']:,} rows without a label left out")
    if "classes" in facts:
        shares = ", ".join(f"{k}: {v:.4g}" for k, v in list(facts["classes"].items())[:6])
        pieces.append(f"label {shares}")
    return " - ".join(pieces)


def side_by_side(selection: pl.DataFrame) -> pl.DataFrame:
    """Greedy orders with a column per method."""
    if not len(selection):
        return selection
    return selection.pivot(on="method", index="step", values="feature")


def _table(key: str, frame: pl.DataFrame) -> str:
    numeric = [kind.is_numeric() for kind in frame.dtypes]
    rows = [
        [
            _cell(name, value, is_number)
            for name, value, is_number in zip(frame.columns, row, numeric, strict=True)
        ]
        for row in frame.head(PAGE_ROWS).iter_rows()
    ]
    more = ""
    if len(frame) > PAGE_ROWS:
        more = f"the first {PAGE_ROWS:,} of {len(frame):,} rows; {key}.csv has all"
    return sortable(key, frame.columns, [not one for one in numeric], rows, more)


def _cell(name: str, value: Any, numeric: bool) -> Cell:
    if numeric:
        return Cell(_number(value), math.nan if value is None else value)
    return Cell("" if value is None else str(value), kind="flag" if name == "flags" else "text")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if math.isfinite(value) else str(value)


def as_json(ranking: Ranking) -> str:
    """Facts and the table of columns, for programs; what is not finite becomes null."""
    rows = [
        {
            key: None if isinstance(v, float) and not math.isfinite(v) else v
            for key, v in row.items()
        }
        for row in ranking.features.iter_rows(named=True)
    ]
    return json.dumps({"facts": ranking.facts, "features": rows}, indent=1)
