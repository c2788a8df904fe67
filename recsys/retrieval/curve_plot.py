"""The figure of an index: what it finds, by the time that it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from recsys.retrieval.measure import Point
from recsys.tracking.figures import BLUE, GREEN, GREY, ORANGE, SKY, Columns, Subject, new_figure

_COLORS = {"hnsw": BLUE, "ivf": ORANGE, "ivfpq": GREEN, "flat": SKY}


def recall_latency_plot(
    subject: Subject,
    points: Mapping[str, Sequence[Point]],
    k: int,
    min_recall: float,
    chosen: tuple[str, Point],
) -> tuple[Figure, Columns]:
    """Recall against the latency of every effort, and what was chosen.

    Args:
        subject: Model, data set and number of vectors.
        points: By kind.
        k: Of the recall.
        min_recall: What was asked for.
        chosen: Kind and effort that were taken.

    Returns:
        The figure and its numbers.
    """
    figure, (axis,) = new_figure(f"{subject}\nrecall and latency of one query")
    for kind, line in points.items():
        times = [point.p50_ms for point in line]
        recalls = [point.recall for point in line]
        axis.plot(times, recalls, "o-", color=_COLORS[kind], label=kind, markersize=4)
        for point in line if kind != "flat" else []:
            axis.annotate(
                str(point.effort), (point.p50_ms, point.recall), fontsize=7, color=GREY,
                textcoords="offset points", xytext=(4, -9),
            )  # fmt: skip
    axis.axhline(min_recall, color=GREY, linestyle="--", linewidth=1, label="asked for")
    axis.plot(chosen[1].p50_ms, chosen[1].recall, "s", color="black", label="chosen", zorder=3)
    axis.set_xscale("log")
    axis.set_xlabel("milliseconds (median, one thread)")
    axis.set_ylabel(f"recall@{k} against exact search")
    axis.legend(frameon=False, fontsize=8)
    rows = [(kind, point) for kind, line in points.items() for point in line]
    return figure, {
        "kind": [kind for kind, _ in rows],
        "effort": [point.effort for _, point in rows],
        f"recall_at_{k}": [point.recall for _, point in rows],
        "p50_ms": [point.p50_ms for _, point in rows],
        "p99_ms": [point.p99_ms for _, point in rows],
        "chosen": [int((kind, point) == chosen) for kind, point in rows],
    }
