"""The figure of agreeing tasks: its numbers, and what it says."""

import numpy as np
import pytest

from recsys.tracking.figures import save_figure
from recsys.tracking.task_plots import task_cosines
from tests.tracking.test_plots import SUBJECT, labels, title

COSINES = {
    "shared weights": np.array([[1.0, -0.25], [-0.25, 1.0]]),
    "shared rows of tables": np.array([[1.0, np.nan], [np.nan, 1.0]]),
}


def test_numbers_are_written_and_what_is_not_shared_is_left_white(tmp_path):
    figure, table = task_cosines(SUBJECT, ["click", "like"], COSINES)
    assert "Cosine of their gradients" in title(figure)
    assert str(SUBJECT) in title(figure)
    said = labels(figure)
    assert "towards shared weights" in said
    texts = [text.get_text() for axis in figure.axes[:2] for text in axis.texts]
    assert sorted(texts) == ["-0.25", "-0.25", "1.00", "1.00", "1.00", "1.00"]
    assert table["task"] == ["click", "click", "like", "like"]
    assert table["other"] == ["click", "like", "click", "like"]
    assert table["cosine_shared_weights"].tolist() == [1.0, -0.25, -0.25, 1.0]
    assert np.isnan(table["cosine_shared_rows_of_tables"][1])
    save_figure(figure, table, tmp_path / "task_gradients")
    assert (tmp_path / "task_gradients.png").stat().st_size < 200_000


def test_cosines_of_other_tasks_are_refused():
    with pytest.raises(ValueError, match=r"are \[2, 2\] but there are 3 tasks"):
        task_cosines(SUBJECT, ["a", "b", "c"], COSINES)
