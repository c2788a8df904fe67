"""The plots of the page: XML that parses, bars and marks where the numbers say."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import polars as pl
import pytest

from recsys.feature_ranking.report_plots import BARS, label_line, score_bars


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(re.sub(r"=([\w.#-]+)(?=[\s/>])", r"='\1'", svg))


def test_bars_are_as_long_as_the_numbers() -> None:
    table = pl.DataFrame({
        "feature": ["a", "<b&c>", "d" * 60], "excess": [0.4, 0.1, -0.2],
        "deviation": [0.01, 0.05, 0.01],
    })  # fmt: skip
    svg = parsed(score_bars(table))
    widths = [float(one.get("width", 0)) for one in svg.iter("rect")]
    assert widths[0] == pytest.approx(4 * widths[1], rel=1e-2)
    assert widths[2] == 0.0
    colours = [one.get("fill") for one in svg.iter("rect")]
    assert colours[0] != colours[1] == colours[2]  # the second is within three deviations
    texts = [one.text for one in svg.iter("text")]
    assert "<b&c>" in texts
    assert "d" * 27 + "\u2026" in texts


def test_only_the_best_are_drawn_and_nothing_but_zeros_is_no_error() -> None:
    table = pl.DataFrame({"feature": [str(k) for k in range(50)], "excess": 0.0, "deviation": 0.0})
    assert len(list(parsed(score_bars(table)).iter("rect"))) == BARS


def test_the_line_has_a_mark_per_period() -> None:
    table = pl.DataFrame({
        "period": ["2026-01-01", "2026-01-02", "2026-01-03"], "rows": [5, 5, 5],
        "share_1": [0.1, 0.3, 0.2],
    })  # fmt: skip
    svg = parsed(label_line(table))
    heights = [float(one.get("cy", 0)) for one in svg.iter("circle")]
    assert heights[1] < heights[2] < heights[0]
    assert parsed(label_line(table.head(1))) is not None
