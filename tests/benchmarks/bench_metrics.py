"""Time of the metrics over ten million rows, beside scikit-learn: run it by hand.

python tests/benchmarks/bench_metrics.py [rows]
"""

import resource
import sys
import time
from collections.abc import Callable

import numpy as np
from sklearn import metrics as reference

from recsys.metrics.calibration import expected_calibration_error
from recsys.metrics.classification import auc, average_precision, log_loss
from recsys.metrics.grouped import grouped_auc
from recsys.metrics.report import ClassificationReport


def timed(function: Callable[[], object], repeats: int = 3) -> tuple[float, object]:
    """Best time of a few, and the result."""
    best, result = float("inf"), None
    for _ in range(repeats):
        begin = time.perf_counter()
        result = function()
        best = min(best, time.perf_counter() - begin)
    return best, result


def main(num_rows: int) -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=num_rows).astype(np.float32) - 2
    probability = 1 / (1 + np.exp(-logits.astype(np.float64)))
    labels = (rng.random(num_rows) < probability).astype(np.float32)
    weights = rng.random(num_rows).astype(np.float32)
    groups = rng.integers(0, max(num_rows // 50, 1), num_rows)

    def report() -> dict[str, float]:
        gathered = ClassificationReport()
        for start in range(0, num_rows, 16_384):
            part = slice(start, start + 16_384)
            gathered.add(logits[part], labels[part])
        return gathered.compute()

    rows = [
        ("auc", lambda: auc(logits, labels), lambda: reference.roc_auc_score(labels, logits)),
        (
            "auc, weights",
            lambda: auc(logits, labels, weights),
            lambda: reference.roc_auc_score(labels, logits, sample_weight=weights),
        ),
        (
            "average precision",
            lambda: average_precision(logits, labels),
            lambda: reference.average_precision_score(labels, logits),
        ),
        (
            "log-loss",
            lambda: log_loss(logits, labels),
            lambda: reference.log_loss(labels, probability),
        ),
        ("ece, 20 bins", lambda: expected_calibration_error(logits, labels), None),
        ("grouped auc", lambda: grouped_auc(logits, labels, groups).auc, None),
        ("report, all of them", lambda: report()["auc"], None),
    ]
    print(f"{num_rows:,} rows; seconds, best of 3 (scikit-learn: one)")
    print(f"{'metric':22}{'recsys':>9}{'sklearn':>9}{'ratio':>7}  {'value':>10}  difference")
    for name, ours, theirs in rows:
        seconds, value = timed(ours)
        line = f"{name:22}{seconds:9.2f}"
        if theirs is not None:
            other, expected = timed(theirs, repeats=1)
            line += f"{other:9.2f}{other / seconds:6.1f}x  {value:10.6f}  {value - expected:+.1e}"
        else:
            line += f"{'':16}  {value:10.6f}"
        print(line, flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB (scikit-learn's included)")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
