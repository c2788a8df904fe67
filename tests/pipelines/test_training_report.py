"""The figures a run leaves, with the numbers they were drawn from."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from pipelines import training_report
from pipelines.training_report import write_explanations, write_gate, write_importance
from recsys.data.encode import EncodedTable
from recsys.data.schema import Field, Schema
from recsys.data.store import Store, StoreWriter
from recsys.models.explanations import Explanations
from recsys.tracking.console import Console


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("training_curve", {"kind", "step", "value"}),
        ("test_calibration", {"predicted", "observed"}),
        ("test_roc_pr", set()),
        ("test_lift", set()),
        ("attention", {"layer", "head", "weight"}),
        ("importance", {"field", "auc_drop", "auc_drop_deviation", "logloss_rise"}),
    ],
)
def test_every_figure_has_its_numbers(trained: Path, name: str, columns: set[str]) -> None:
    assert (trained / "plots" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    with (trained / "plots" / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert columns <= rows[0].keys()


def test_every_raw_field_has_its_importance_and_the_console_says_so(trained: Path) -> None:
    with (trained / "plots" / "importance.csv").open() as file:
        drops = {row["field"]: float(row["auc_drop"]) for row in csv.DictReader(file)}
    assert set(drops) == {"user", "item", "price", "city", "tags"}
    assert min(drops["user"], drops["item"]) > max(drops["city"], drops["tags"])
    text = (trained / "stdout.txt").read_text()
    assert "importance: 5 fields, each permuted 3 times over" in text
    assert "AUC lost without: " in text


def fake_explanations(names: dict[str, tuple[int, ...]]) -> Explanations:
    rng = np.random.default_rng(0)
    found = Explanations()
    found.add(
        {name: rng.random((20, *shape)) for name, shape in names.items()},
        {"items": np.full(20, 3)},
    )
    return found


def test_what_a_model_explains_is_drawn(tmp_path: Path) -> None:
    shapes = {"gates": (4,), "gates2": (4,), "crosses": (5, 4), "interest.items": (3,)}
    write_explanations(tmp_path, "Model", "data", ["a", "b", "c", "d"], fake_explanations(shapes))
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "gates.png", "gates2.png", "crosses.png", "interest_items.png",
    }  # fmt: skip
    assert (tmp_path / "gates.csv").read_text().count("\n") == 5


def test_what_optfs_kept_is_drawn(tmp_path: Path) -> None:
    fields = {"user": {"seen": 10, "kept": 4}, "item": {"seen": 0, "kept": 0}}
    write_gate(tmp_path, "Model", "data", 100, {"fields": fields})
    with (tmp_path / "kept_rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows == [
        {"field": "user", "kept_share": "0.4"}, {"field": "item", "kept_share": "0.0"},
    ]  # fmt: skip


def test_rows_of_one_class_have_no_importance(tmp_path: Path, capsys) -> None:
    schema = Schema(
        fields=(Field(name="x", kind="numeric", encoding="log", dtype="float"),), labels=("y",)
    )
    rows = EncodedTable(np.zeros((3, 0), np.int32), np.ones((3, 1), np.float32), label=np.ones(3))
    console = Console("plain")
    found = write_importance(
        tmp_path, "Model", "data", lambda part: np.zeros(len(part)), schema, rows, console, 0
    )
    assert found is None
    assert "no importance: " in capsys.readouterr().out


def test_a_wide_table_has_fewer_rows_permuted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    field = Field(name="x", kind="numeric", encoding="log", dtype="float")
    schema = Schema(fields=(field,), labels=("y",))
    with StoreWriter(tmp_path / "store", schema) as writer:
        writer.append(
            EncodedTable(
                np.zeros((90, 0), np.int32), np.ones((90, 1), np.float32), label=np.ones(90)
            )
        )
    store = Store.open(tmp_path / "store")
    data = SimpleNamespace(
        val=store, test=None, train=None, pipeline=SimpleNamespace(schema=schema)
    )
    assert len(training_report.importance_rows(data, 50, 0)) == 50
    monkeypatch.setattr(training_report, "SCORED_ROWS", 60)
    assert len(training_report.importance_rows(data, 50, 0)) == 20
