"""The figures a run leaves, with the numbers they were drawn from."""

import csv
from pathlib import Path

import pytest


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("training_curve", {"kind", "step", "value"}),
        ("test_calibration", {"predicted", "observed"}),
        ("test_roc_pr", set()),
        ("test_lift", set()),
        ("attention", set()),
    ],
)
def test_every_figure_has_its_numbers(trained: Path, name: str, columns: set[str]) -> None:
    assert (trained / "plots" / f"{name}.png").read_bytes()[:4] == b"\x89PNG"
    with (trained / "plots" / f"{name}.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    assert columns <= rows[0].keys()
