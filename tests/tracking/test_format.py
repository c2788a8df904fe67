"""Numbers and tables as text."""

import math
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.tracking.format import (
    compact,
    duration,
    evaluation_line,
    metric,
    progress_line,
    scientific,
    size,
    text_table,
)

RECORD = SimpleNamespace(
    step=1200,
    total_steps=12_000,
    epoch=0,
    loss=0.45123,
    grad_norm=0.92,
    lr=1e-3,
    rows_per_second=412_345.0,
    data_share=0.06,
    eta_seconds=243.0,
)


def test_progress_line():
    assert progress_line(RECORD, int(3.1 * 2**30)) == (
        "step 1,200/12,000 (10%)  loss 0.4512  grad 0.92  lr 1.0e-3  412k rows/s  data 6%  "
        "mem 3.1 GiB  eta 4m"
    )
    short = progress_line(RECORD, int(3.1 * 2**30), short=True)
    assert short == "1,200/12,000  loss 0.4512  412k rows/s  data 6%  mem 3.1 GiB  eta 4m"


def test_first_step_has_no_speed():
    first = SimpleNamespace(**vars(RECORD) | {"step": 1})
    line = progress_line(first, 0)
    assert "rows/s" not in line
    assert "eta" not in line
    assert line.startswith("step 1/12,000 (0%)  loss 0.4512")


def test_progress_line_bears_nonsense():
    record = SimpleNamespace(
        **vars(RECORD)
        | {"loss": float("nan"), "eta_seconds": float("inf"), "rows_per_second": float("nan")}
    )
    assert "loss nan" in progress_line(record, 0)
    assert "eta ?" in progress_line(record, 0)


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (999, "999"),
        (999.6, "1.00k"),
        (1000, "1.00k"),
        (9_994, "9.99k"),
        (9_996, "10.0k"),
        (99_960, "100k"),
        (999_600, "1.00M"),
        (1e9, "1.00B"),
        (-5400, "-5.40k"),
        (float("nan"), "nan"),
    ],
)
def test_compact(number, text):
    assert compact(number) == text


@given(st.floats(1, 9e11))
def test_compact_is_short_and_close(number):
    text = compact(number)
    factor = {"k": 1e3, "M": 1e6, "B": 1e9}.get(text[-1], 1.0)
    assert len(text) <= 5
    assert math.isclose(float(text.rstrip("kMB")) * factor, number, rel_tol=0.006, abs_tol=0.51)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.49, "<1s"),
        (0.51, "1s"),
        (59.4, "59s"),
        (60, "1m"),
        (75, "1m 15s"),
        (179.4, "2m 59s"),
        (181, "3m"),
        (3599, "1h"),
        (3660, "1h 1m"),
        (86_399, "1d"),
        (200_000, "2d 7h"),
        (float("inf"), "?"),
        (float("nan"), "?"),
    ],
)
def test_duration(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("num_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (2**20 - 1, "1.0 MiB"),
        (2**40, "1.0 TiB"),
        (1.5 * 2**41, "3.0 TiB"),
    ],
)
def test_size(num_bytes, text):
    assert size(num_bytes) == text


def test_small_pieces():
    assert scientific(12345.0) == "1.2e4"
    assert scientific(-2.5e-7) == "-2.5e-7"
    assert metric("val/calibration", 1.05) == "1.050"
    assert metric("val/logloss", 0.1) == "0.10000"


def evaluation(auc: float, improved: bool) -> SimpleNamespace:
    metrics = {"logloss": 0.2, "auc": auc, "average_precision": 0.5}
    return SimpleNamespace(step=1200, epoch=2, metrics=metrics, improved=improved)


def test_evaluation_line():
    assert evaluation_line(evaluation(0.98, True), None) == (
        "val   step 1,200  epoch 2  auc 0.98000 (best)  logloss 0.20000"
    )
    assert "auc 0.98100 (+0.00100 best)" in evaluation_line(evaluation(0.981, True), 0.98)
    assert "auc 0.97900 (-0.00100)" in evaluation_line(evaluation(0.979, False), 0.98)
    assert "auc nan (+nan)" in evaluation_line(evaluation(float("nan"), False), 0.98)


def test_table_aligns_numbers_right():
    lines = text_table("T", ["name", "n", "x%"], [["a", "1,200", "3%"], ["bb", "-", "10%"]])
    assert lines.splitlines() == [
        "T",
        "name      n   x%",
        "----  -----  ---",
        "a     1,200   3%",
        "bb        -  10%",
    ]


def test_table_without_rows():
    assert text_table("T", ["a", "b"], []).splitlines() == ["T", "a  b", "-  -"]


def test_table_refuses_a_row_of_another_length():
    with pytest.raises(ValueError, match="zip"):
        text_table("T", ["a", "b"], [["1"]])
