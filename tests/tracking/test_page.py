"""A page that needs nothing else."""

import math
import re

from recsys.tracking.figures import new_figure
from recsys.tracking.page import Cell, document, drawing, sortable


def test_a_page_is_whole_and_fetches_nothing() -> None:
    page = document("a < b", ["<p>hello</p>"])
    assert page.startswith("<!doctype html>")
    assert page.count("a &lt; b") == 2
    assert "<p>hello</p>" in page
    assert "<style>body{" in page
    assert "onclick" in page
    assert not re.search(r"(src|href)\s*=", page)


def test_cells_carry_what_they_sort_by() -> None:
    rows = [
        [Cell("<lr>", kind="text"), Cell("0.81 +- 0.01", 0.8123456, "best")],
        [Cell("fm", kind="text"), Cell("-", math.nan)],
    ]
    table = sortable("x", ["model", "auc"], [True, False], rows, "two & more")
    assert "<th class=text>model</th><th>auc</th>" in table
    assert "<td class=text>&lt;lr&gt;</td>" in table
    assert "<td class=best data-v='0.8123456'>0.81 +- 0.01</td>" in table
    assert "<td data-v=''>-</td>" in table
    assert "data-for=t-x" in table
    assert "id=t-x" in table
    assert "two &amp; more" in table


def test_a_figure_is_drawn_in_place() -> None:
    figure, _ = new_figure("title")
    assert drawing(figure).startswith("<svg style='max-width:100%' ")
