"""Frappe: the published split exactly, and the note about what was reconstructed."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from recsys.data.datasets import frappe
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.data.schema import NUM_RESERVED
from recsys.errors import ConfigError, SchemaError


def line(label: int, ids: range) -> str:
    return " ".join([str(label), *(f"{i}:1" for i in ids)])


def write_small(folder: Path, train: str = "derived/frappe.train.recon.libfm.gz") -> None:
    """Three rows to train on, two to validate and one to test: 30 features."""
    rows = {
        train: [line(1, range(10)), line(-1, range(10, 20)), line(-1, range(10))],
        "nfm/frappe.validation.libfm": [line(1, range(10)), line(-1, range(20, 30))],
        "nfm/frappe.test.libfm": [line(1, range(10)), line(-1, range(10))],
    }
    for name, lines in rows.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        text = "\n".join(lines).encode() + b"\n"
        file.write_bytes(gzip.compress(text) if file.suffix == ".gz" else text)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frappe, "ROWS", {"train": 3, "val": 2, "test": 2})
    monkeypatch.setattr(frappe, "NUM_FEATURES", 30)


def test_the_real_files(shared: Callable[[str], Path], tmp_path: Path) -> None:
    raw = frappe.build(source=shared("frappe"))
    counts = {name: source.num_rows for name, source in raw.files.items()}
    assert counts == {"train": 202_027, "val": 57_722, "test": 28_860}
    assert raw.notes == ("reconstructed train negatives",)
    assert raw.schema.names == frappe.FIELDS
    data = prepare(raw, DataOptions(), tmp_path)
    assert data.notes == raw.notes
    assert int(data.train.label.sum()) == 67_604
    sizes = sum(field.size - NUM_RESERVED for field in data.pipeline.schema)
    assert sizes <= 5_382  # of which the training rows hold nearly all
    assert sizes > 5_300


@pytest.mark.usefixtures("small")
def test_lines_are_read_exactly(tmp_path: Path) -> None:
    write_small(tmp_path)
    rows = frappe.build(source=tmp_path).files["train"].head(3).to_pylist()
    assert [row["label"] for row in rows] == [1, 0, 0]
    assert list(rows[1].values())[1:] == list(range(10, 20))
    assert list(rows[1])[1:] == list(frappe.FIELDS)


@pytest.mark.usefixtures("small")
def test_the_published_training_file_comes_first_and_needs_no_note(tmp_path: Path) -> None:
    write_small(tmp_path)
    assert frappe.build(source=tmp_path).notes
    write_small(tmp_path, train="nfm/frappe.train.libfm")
    raw = frappe.build(source=tmp_path)
    assert raw.notes == ()
    assert raw.files["train"].files[0][0].endswith("nfm/frappe.train.libfm")


@pytest.mark.usefixtures("small")
def test_other_counts_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_small(tmp_path)
    monkeypatch.setattr(frappe, "NUM_FEATURES", 31)
    with pytest.raises(SchemaError, match="has 30 distinct features, published are 31"):
        frappe.build(source=tmp_path)
    monkeypatch.setattr(frappe, "ROWS", {"train": 202_027, "val": 2, "test": 2})
    with pytest.raises(SchemaError, match=r"has 3 rows in .*recon.*, published are 202,027"):
        frappe.build(source=tmp_path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("1 0:1 1:1\n", "is not the libFM file"),
        (line(1, range(10)).replace("3:1", "3:7") + "\n", "is not the libFM file"),
        (line(1, range(10)) + " 99:1\n", "is not the libFM file"),
        (line(1, range(10)) + "\n" + line(0, range(10)) + "\n", r"labels \[0, 1\]"),
        ("", "is not the libFM file"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, content: str, told: str) -> None:
    write_small(tmp_path)
    (tmp_path / "nfm" / "frappe.test.libfm").write_text(content)
    with pytest.raises(SchemaError, match=told):
        frappe.build(source=tmp_path)


def test_a_folder_without_the_files_is_told(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match=r"data=frappe needs nfm/frappe\.train\.libfm"):
        frappe.build(source=tmp_path)
    with pytest.raises(ConfigError, match="is not a folder"):
        frappe.build(source=tmp_path / "absent")


def test_every_distinct_id_belongs_to_one_field(shared: Callable[[str], Path]) -> None:
    source = frappe.build(source=shared("frappe")).files["test"]
    table = source.head(source.num_rows)
    ranges = [
        (table[name].to_numpy().min(), table[name].to_numpy().max()) for name in frappe.FIELDS
    ]
    assert np.all([low > high for (_, high), (low, _) in itertools.pairwise(ranges)])
