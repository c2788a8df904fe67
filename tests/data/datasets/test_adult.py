"""Adult: both forms of the files, one label or two."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from recsys.data.datasets import adult
from recsys.data.options import DataOptions
from recsys.data.prepare import prepare
from recsys.errors import ConfigError, SchemaError

RICH = "39, State-gov, 77516, Bachelors, 13, Never-married, ?, Not-in-family, White, Male, 2174, 0, 40, Cuba, >50K"  # noqa: E501
POOR = RICH.replace(">50K", "<=50K").replace("Never-married", "Divorced")


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """As UCI serves them: a first line that is no row, dots after labels, a blank last line."""
    (tmp_path / "adult.data").write_text(f"{RICH}\n{POOR}\n{POOR}\n\n")
    (tmp_path / "adult.test").write_text(f"|1x3 Cross validator\n{RICH}.\n{POOR}.\n\n")
    monkeypatch.setattr(adult, "ROWS", {"train": 3, "test": 2})
    monkeypatch.setattr(adult, "POSITIVES", {"train": 1, "test": 1})
    return tmp_path


def test_the_real_files(shared: Callable[[str], Path], tmp_path: Path) -> None:
    raw = adult.build(source=shared("adult"))
    assert {n: s.num_rows for n, s in raw.files.items()} == {"train": 32_561, "test": 16_281}
    assert len(raw.schema) == 14
    data = prepare(raw, DataOptions(), tmp_path)
    assert len(data.train) + len(data.val) == 32_561
    assert len(data.val) == pytest.approx(3_256, abs=200)
    assert int(data.test.label.sum()) == 3_846


def test_lines_are_read_exactly(small: Path) -> None:
    raw = adult.build(source=small)
    row = raw.files["train"].head(1).to_pylist()[0]
    assert row["age"] == 39
    assert row["workclass"] == "State-gov"
    assert row["occupation"] is None
    assert row["native_country"] == "Cuba"
    incomes = {split: raw.files[split].head(9)["income"].to_pylist() for split in raw.files}
    assert incomes == {"train": [1, 0, 0], "test": [1, 0]}


def test_two_labels(small: Path) -> None:
    raw = adult.build(source=small, labels=["income", "marital"])
    assert raw.schema.labels == ("income", "marital")
    assert "marital_status" not in raw.schema.names  # it would give the label away
    assert raw.files["train"].head(9)["marital"].to_pylist() == [1, 0, 0]
    only = adult.build(source=small, labels=["marital"])
    assert "income" not in only.files["train"].columns


@pytest.mark.parametrize(
    ("labels", "told"),
    [(["incme"], "Did you mean income"), ([], "of income, marital"), (["income"] * 2, "each once")],
)
def test_other_labels_are_refused(small: Path, labels: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        adult.build(source=small, labels=labels)


def test_other_files_are_refused(small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (small / "adult.test").write_text(f"{RICH}.\n{RICH}.\n")
    with pytest.raises(SchemaError, match=r"has 2 rows over 50K in adult\.test, published are 1"):
        adult.build(source=small)
    (small / "adult.test").write_text(f"{RICH}!\n{RICH}.\n")
    with pytest.raises(SchemaError, match="has the incomes"):
        adult.build(source=small)
    (small / "adult.test").write_text(RICH.replace("39,", "old,") + "\n")
    with pytest.raises(SchemaError, match="is not a file of Adult"):
        adult.build(source=small)
    monkeypatch.setattr(adult, "ROWS", {"train": 32_561, "test": 2})
    with pytest.raises(SchemaError, match=r"has 3 rows in adult\.data, published are 32,561"):
        adult.build(source=small)
