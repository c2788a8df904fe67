"""Comparisons as text."""

import csv
import io

from recsys.comparison.render import as_csv, cells, columns, markdown, title
from recsys.comparison.table import compare
from tests.comparison.runs import clicks, record


def test_markdown_holds_means_deviations_and_the_best_in_bold() -> None:
    lines = markdown(compare(clicks(), baseline="lr")).splitlines()
    assert lines[0] == "**clicks (d1): 7 runs**"
    assert lines[2].startswith(
        "| model | n | optimizer.lr | auc | logloss | fit_seconds | auc - lr"
    )
    assert "| deepfm | 3 | 0.001 | **0.81000 +- 0.01000** |" in lines[4]
    assert "+0.10000" in lines[4]
    assert "baseline" in lines[6]
    widths = {line.replace("\\|", "").count("|") for line in lines[2:7]}
    assert len(widths) == 1
    assert any("paired t-test" in line for line in lines)


def test_csv_rounds_nothing_and_cuts_nothing() -> None:
    long = "x" * 100
    runs = [*clicks(), record("fm", 0, 1 / 3, params={"data.features": long})]
    rows = list(csv.DictReader(io.StringIO(as_csv(compare(runs, baseline="lr")))))
    found = {row["model"] + row["optimizer.lr"]: row for row in rows}
    assert float(found["fm0.001"]["test/auc"]) == 1 / 3
    assert found["fm0.001"]["data.features"] == long
    assert found["fm0.001"]["test/auc sd"] == ""
    assert found["deepfm0.001"]["seeds"] == "0 1 2"
    assert found["deepfm0.001"]["common_seeds"] == "3"
    assert found["lr0.001"]["difference"] == ""
    assert len(found["lr0.001"]["run_ids"].split()) == 3


def test_a_screen_gets_as_many_cells_as_columns() -> None:
    for baseline in (None, "lr"):
        (table,) = compare(clicks(), baseline=baseline)
        assert {len(row) for row in cells(table)} == {len(columns(table))}
    assert title(table) == "clicks (d1): 7 runs"
    (pipes,) = compare([record("a|b", 0, 0.5)])
    assert "a\\|b" in markdown([pipes])
