"""The page of a comparison."""

from recsys.comparison.page import render_page
from recsys.comparison.table import compare
from tests.comparison.runs import clicks, record


def test_a_page_holds_tables_figures_and_every_run() -> None:
    runs = [*clicks(), record("fm<b>", 0, 0.6, digest="d2")]
    page = render_page(compare(runs, baseline="lr"), ["2 trials left out"])
    assert "<td class=best data-v='0.81" in page
    assert page.count("<svg") == 4
    assert "2 trials left out" in page
    assert "fm&lt;b&gt;" in page
    assert "fm<b>" not in page
    for run in runs:
        if run.model != "fm<b>":
            assert run.run_id in page


def test_differences_sort_by_their_number() -> None:
    page = render_page(compare(clicks(), baseline="lr"))
    assert "data-v='0.1" in page
    assert ">+0.10000</td>" in page
    assert "<td data-v=''>baseline</td>" in page
