"""The tables of a run's story."""

from types import SimpleNamespace

import pytest

from recsys.data.schema import Field, Schema
from recsys.tracking.format import text_table
from recsys.tracking.summary import (
    column_table,
    model_table,
    result_line,
    result_table,
    split_table,
)

RESULT = {
    "model": "autoint",
    "data": "synthetic",
    "metrics": {"val": {"auc": 0.9, "logloss": 0.3}, "test": {"auc": 0.8, "logloss": 0.4}},
    "bayes": {"auc": 0.95, "logloss": 0.25},
    "num_parameters": 56_120,
    "epochs": 4,
    "steps": 1_200,
    "fit_seconds": 83.2,
    "train_rows_per_second": 120_344.0,
    "peak_memory_mib": 812.3,
}


def test_splits():
    stores = {"train": SimpleNamespace(num_rows=1500), "test": SimpleNamespace(num_rows=500)}
    table = split_table(SimpleNamespace(name="frappe", stores=stores))
    assert table.title == "Data: frappe"
    assert list(table.rows) == [("train", "1,500", "75%"), ("test", "500", "25%")]


def test_columns():
    rows = [
        {"column": "user", "codes": 12_345, "missing": 0.25, "kept": True},
        {"column": "price", "codes": None, "missing": 0.0, "kept": False},
    ]
    table = column_table(rows)
    assert table.columns == ["column", "codes", "missing", "kept"]
    assert table.rows == [["user", "12,345", "0.25", "yes"], ["price", "", "0", "no"]]
    assert column_table([]) is None


def test_many_columns_are_cut():
    table = column_table([{"column": f"c{i}", "codes": i} for i in range(100)])
    assert len(table.rows) == 41
    assert table.rows[-1] == ["... and 60 more", ""]


@pytest.mark.parametrize(("rows", "note"), [(1200, ""), (120, " (10x fewer)")])
def test_model(rows, note):
    fields = [
        Field(name="item", kind="categorical", encoding="vocabulary", size=1200),
        Field(name="seen", kind="history", encoding="vocabulary", size=1200, shares="item"),
        Field(name="price", kind="numeric", encoding="log"),
    ]
    lookup = SimpleNamespace(
        schema=Schema(tuple(fields), ("click",)), layout=SimpleNamespace(num_rows=rows)
    )
    memory = {"weights": 4 * 2**20, "optimizer": 2**20, "serving": 4 * 2**20}
    table = model_table("AutoInt", lookup, {"embedding": 19_200, "dense": 345}, memory)
    what = f"{rows:,} rows for 1,200 codes{note}"
    assert table.rows[0] == ("embedding", "19,200", what, "4.0 MiB", "1.0 MiB", "4.0 MiB")
    assert table.rows[1][:3] == ("interaction", "345", "AutoInt")
    ids = Field(name="user", kind="categorical", encoding="dynamic", size=2**63 - 1)
    lookup.schema = Schema((*fields, ids), ("click",))
    table = model_table("AutoInt", lookup, {"embedding": 19_200, "dense": 345}, memory)
    assert table.rows[0][2] == f"{what}, user"


def test_result_stands_beside_what_is_possible():
    table = result_table(RESULT)
    assert table.columns == ("", "auc", "logloss")
    assert table.rows == [
        ("val", "0.90000", "0.30000"),
        ("test", "0.80000", "0.40000"),
        ("best possible", "0.95000", "0.25000"),
    ]
    assert text_table(table.title, table.columns, table.rows)


def test_result_with_unequal_metrics():
    table = result_table(RESULT | {"metrics": {"test": {"auc": 0.5, "ece": 0.1}}, "bayes": None})
    assert table.rows == [("test", "0.50000", "0.10000")]
    both = result_table(RESULT | {"metrics": {"test": {"ece": 0.1}}})
    assert both.rows[0] == ("test", "", "", "0.10000")


def test_cost():
    assert result_line(RESULT) == (
        "56.1k parameters, 4 epochs in 1m 23s, 120k rows/s, peak memory 812.3 MiB"
    )


def test_cost_of_a_run_that_ends_within_its_first_epoch():
    assert result_line(RESULT | {"epochs": 0, "steps": 60}) == (
        "56.1k parameters, 60 steps in 1m 23s, 120k rows/s, peak memory 812.3 MiB"
    )


def test_a_speed_that_is_not_known_is_not_told():
    assert result_line(RESULT | {"train_rows_per_second": 0.0}) == (
        "56.1k parameters, 4 epochs in 1m 23s, peak memory 812.3 MiB"
    )


def test_cost_of_a_model_that_is_computed():
    assert result_line(RESULT | {"epochs": 0, "steps": 0, "model_bytes": 3 * 2**20}) == (
        "computed in 1m 23s, model 3.0 MiB, peak memory 812.3 MiB"
    )
