"""The accumulator equals the functions, whatever the blocks, the order and the ranks."""

import itertools
import math

import numpy as np
import pytest
import torch

from recsys.errors import NonFiniteError
from recsys.metrics.calibration import calibration_ratio, expected_calibration_error
from recsys.metrics.classification import auc, average_precision, log_loss, normalized_entropy
from recsys.metrics.grouped import grouped_auc
from recsys.metrics.report import ClassificationReport

NUM_ROWS = 1000


@pytest.fixture
def columns() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "logits": (torch.randn(NUM_ROWS, generator=generator) * 4).round() / 4,
        "labels": (torch.rand(NUM_ROWS, generator=generator) < 0.3).float(),
        "weights": torch.rand(NUM_ROWS, generator=generator),
        "groups": torch.randint(0, 50, (NUM_ROWS,), generator=generator),
    }


def gather(columns: dict[str, torch.Tensor], bounds: list[int]) -> ClassificationReport:
    report = ClassificationReport()
    for start, stop in itertools.pairwise(bounds):
        report.add(**{name: values[start:stop] for name, values in columns.items()})
    return report


def test_equals_the_functions(columns):
    z, y, w, g = columns.values()
    assert gather(columns, [0, 100, 101, NUM_ROWS]).compute() == pytest.approx(
        {
            "auc": auc(z, y, w),
            "logloss": log_loss(z, y, w),
            "ne": normalized_entropy(z, y, w),
            "calibration": calibration_ratio(z, y, w),
            "ece": expected_calibration_error(z, y, w),
            "average_precision": average_precision(z, y, w),
            "gauc": grouped_auc(z, y, g, w).auc,
        },
        rel=1e-12,
    )


def test_without_groups_there_is_no_gauc(columns):
    del columns["groups"], columns["weights"]
    assert list(gather(columns, [0, NUM_ROWS]).compute()) == [
        "auc",
        "logloss",
        "ne",
        "calibration",
        "ece",
        "average_precision",
    ]


@pytest.mark.parametrize("keys", [("logits", "labels"), ("logits", "labels", "groups")])
def test_blocks_and_row_order_change_no_bit(columns, keys):
    columns = {key: columns[key] for key in keys}
    whole = gather(columns, [0, NUM_ROWS]).compute()
    assert gather(columns, list(range(0, NUM_ROWS + 1, 8))).compute() == whole
    order = torch.randperm(NUM_ROWS, generator=torch.Generator().manual_seed(1))
    shuffled = {name: values[order] for name, values in columns.items()}
    assert gather(shuffled, [0, 3, NUM_ROWS]).compute() == whole


def test_merging_ranks_equals_one_pass(columns):
    whole = gather(columns, [0, NUM_ROWS])
    ranks = [gather({k: v[r::3] for k, v in columns.items()}, [0, 100, 400]) for r in range(3)]
    merged = ClassificationReport()
    for rank in ranks:
        merged.merge(ClassificationReport().with_rows(rank.tensors()))
    merged.merge(ClassificationReport())  # a rank that had no rows
    assert merged.num_rows == merged.num_seen == NUM_ROWS
    assert merged.compute() == pytest.approx(whole.compute(), rel=1e-12)


def test_missing_labels_are_dropped(columns):
    labels = columns["labels"].clone()
    labels[::3] = float("nan")
    kept = ~labels.isnan()
    report = gather(columns | {"labels": labels}, [0, 7, NUM_ROWS])
    expected = gather({k: v[kept] for k, v in columns.items()}, [0, NUM_ROWS])
    assert report.compute() == expected.compute()
    assert (report.num_rows, report.num_seen) == (int(kept.sum()), NUM_ROWS)


def test_capacity_is_only_a_hint(columns):
    for capacity in (0, 10, NUM_ROWS, 5 * NUM_ROWS):
        report = ClassificationReport(capacity)
        report.add(**columns)
        assert report.compute() == gather(columns, [0, 10, NUM_ROWS]).compute()


def test_does_not_alias_its_input(columns):
    report = gather(columns, [0, NUM_ROWS])
    before = report.compute()
    for values in columns.values():
        values.zero_()
    assert report.compute() == before


def test_no_rows_give_nan():
    for report in (ClassificationReport(), ClassificationReport(8)):
        metrics = report.compute()
        assert all(math.isnan(value) for value in metrics.values())
    report.add([1.0, 2.0], [float("nan")] * 2)
    assert report.num_rows == 0
    assert all(math.isnan(value) for value in report.compute().values())


def test_non_finite_logit_names_the_row_over_all_blocks():
    report = ClassificationReport()
    report.add([0.0, 1.0, 2.0], [0, 1, float("nan")])
    with pytest.raises(NonFiniteError, match="in row 4 "):
        report.add([0.0, float("nan")], [0, 1])
    assert report.num_rows == 2  # the bad block left nothing behind


def test_bad_rows_are_refused_and_leave_nothing_behind():
    report = ClassificationReport()
    report.add([0.0], [1], weights=[1.0])
    with pytest.raises(ValueError, match=r"label 3\.0 in row 2"):
        report.add([0.0, 1.0], [0.0, 3.0], weights=[1.0, 1.0])
    with pytest.raises(ValueError, match=r"weight -1\.0 in row 1"):
        report.add([0.0], [0], weights=[-1.0])
    with pytest.raises(ValueError, match=r"logits \(2,\), labels \(1,\)"):
        report.add([0.0, 1.0], [0], weights=[1.0, 1.0])
    with pytest.raises(ValueError, match="groups must be integers"):
        report.add([0.0], [0], weights=[1.0], groups=[0.5])
    with pytest.raises(ValueError, match="every block or with none"):
        report.add([0.0], [0])
    with pytest.raises(ValueError, match="every block or with none"):
        report.merge(_with_groups())
    assert report.num_rows == 1


def _with_groups() -> ClassificationReport:
    report = ClassificationReport()
    report.add([0.0], [1], groups=np.array([3]))
    return report


def test_integer_and_boolean_labels():
    report = ClassificationReport()
    report.add(np.array([0.5, -0.5]), np.array([1, 0]))
    report.add(torch.tensor([0.25, -0.25]), torch.tensor([True, False]))
    assert report.compute()["auc"] == 1.0


def test_memory_of_a_long_accumulation():
    """Arrays double: ten thousand blocks must not copy the rows ten thousand times."""
    report = ClassificationReport()
    moves, last = 0, None
    for _ in range(10_000):
        report.add(np.zeros(4, dtype=np.float32), np.zeros(4))
        base = report.tensors()["logits"].data_ptr()
        moves += base != last
        last = base
    assert report.num_rows == 40_000
    assert moves < 20
