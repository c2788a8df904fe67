"""The figure of an index has every measured point, and its numbers."""

from pathlib import Path

from recsys.retrieval.curve_plot import recall_latency_plot
from recsys.retrieval.measure import Point
from recsys.tracking.figures import Subject, save_figure


def test_curve(tmp_path: Path) -> None:
    points = {
        "hnsw": [Point(16, 0.8, 0.1, 0.2), Point(32, 0.9, 0.2, 0.4)],
        "flat": [Point(0, 1.0, 1.0, 2.0)],
    }
    chosen = ("flat", points["flat"][0])
    figure, columns = recall_latency_plot(Subject("BPRMF", "small", 50), points, 10, 0.95, chosen)
    assert columns["kind"] == ["hnsw", "hnsw", "flat"]
    assert columns["recall_at_10"] == [0.8, 0.9, 1.0]
    assert columns["chosen"] == [0, 0, 1]
    save_figure(figure, columns, tmp_path / "curve")
    assert 5_000 < (tmp_path / "curve.png").stat().st_size < 200_000
    (axis,) = figure.axes
    assert axis.get_xscale() == "log"
    assert len((tmp_path / "curve.csv").read_text().splitlines()) == 4
