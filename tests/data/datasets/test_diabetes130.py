"""Diabetes 130: one patient is in one split."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from recsys.data.datasets import diabetes130
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.data.raw import RawDataset
from recsys.errors import SchemaError

COLUMNS = ["encounter_id", "patient_nbr", "race", "A1Cresult", *diabetes130.NUMBERS, "readmitted"]


def write(folder: Path, rows: int = 60) -> None:
    """Two stays per patient; every third is followed by another within 30 days."""
    text = [",".join(COLUMNS)]
    for row in range(rows):
        stay = [str(row), str(row // 2), "?" if row % 5 else "Asian", "None"]
        numbers = [str(row % 4)] * len(diabetes130.NUMBERS)
        text.append(",".join([*stay, *numbers, ("<30", ">30", "NO")[row % 3]]))
    (folder / diabetes130.FILE).write_text("\n".join(text) + "\n")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write(tmp_path)
    counts = {"NUM_ROWS": 60, "NUM_COLUMNS": 13, "NUM_PATIENTS": 30, "NUM_POSITIVES": 20}
    for name, value in counts.items():
        monkeypatch.setattr(diabetes130, name, value)
    return tmp_path


def patients(raw: RawDataset) -> dict[str, set[int]]:
    return {
        split: set(source.head(10**6, ["patient_nbr"])["patient_nbr"].to_pylist())
        for split, source in raw.files.items()
    }


def test_the_real_file(shared: Callable[[str], Path], tmp_path: Path) -> None:
    raw = diabetes130.build(source=shared("diabetes130"))
    rows = {split: source.num_rows for split, source in raw.files.items()}
    assert sum(rows.values()) == 101_766
    assert len(raw.schema) == 47
    counts = {split: len(found) for split, found in patients(raw).items()}
    assert sum(counts.values()) == 71_518
    assert counts["val"] == pytest.approx(7_152, abs=1)
    data = prepare(raw, DataOptions(), tmp_path)
    positives = sum(int(s.label.sum()) for s in (data.train, data.val, data.test))
    assert positives == 11_357


def test_a_patient_is_in_one_split(small: Path) -> None:
    parts = patients(diabetes130.build(source=small))
    assert {split: len(found) for split, found in parts.items()} == {
        "train": 24,
        "val": 3,
        "test": 3,
    }
    assert not parts["train"] & parts["test"]
    assert not parts["train"] & parts["val"]
    assert len(set.union(*parts.values())) == 30
    assert patients(diabetes130.build(source=small)) == parts
    assert patients(diabetes130.build(source=small, seed=1)) != parts


def test_values(small: Path) -> None:
    raw = diabetes130.build(source=small)
    frame = pl.concat([pl.DataFrame(source.head(100)) for source in raw.files.values()])
    assert frame.height == 60
    assert frame["race"].null_count() == 48
    assert set(frame["A1Cresult"]) == {"None"}  # not measured, which is a value
    assert int(frame["readmitted"].sum()) == 20
    assert "encounter_id" not in frame.columns
    assert raw.schema.group == "patient_nbr"
    assert raw.schema.names == ("race", "A1Cresult", *diabetes130.NUMBERS)


def test_other_files_are_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diabetes130, "NUM_PATIENTS", 71_518)
    with pytest.raises(SchemaError, match="has 30 patients, published are 71,518"):
        diabetes130.build(source=small)
    write(small, rows=59)
    with pytest.raises(SchemaError, match=r"has 59 rows in diabetic_data\.csv, published are 60"):
        diabetes130.build(source=small)
    (small / diabetes130.FILE).write_text("a,b\n1,2\n")
    with pytest.raises(SchemaError, match="has 2 columns in"):
        diabetes130.build(source=small)
