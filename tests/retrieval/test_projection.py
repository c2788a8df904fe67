"""Principal components against a singular value decomposition, and what the figure says."""

from pathlib import Path

import numpy as np
import pytest

from recsys.retrieval.exported import ExportedVectors
from recsys.retrieval.projection import principal_components, projection_plot
from recsys.retrieval.vectors import COSINE
from recsys.tracking.figures import Subject, save_figure
from tests.retrieval.conftest import clustered, export_matrix

SUBJECT = Subject("LightGCN", "toys", 60)


def test_components_are_those_of_the_decomposition() -> None:
    vectors = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    places, share = principal_components(vectors, 3)
    left, sizes, _ = np.linalg.svd(vectors - vectors.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(np.abs(places), np.abs(left * sizes)[:, :3], atol=1e-5)
    np.testing.assert_allclose(share, (sizes**2 / (sizes**2).sum())[:3], rtol=1e-5)
    again, _ = principal_components(vectors[:, ::-1].copy(), 3)
    np.testing.assert_allclose(np.abs(again), np.abs(places), atol=1e-8)


def test_a_planted_direction_is_the_first() -> None:
    draws = np.random.default_rng(1)
    along = draws.normal(size=400) * 5
    vectors = draws.normal(size=(400, 8))
    vectors[:, 3] += along
    places, share = principal_components(vectors)
    assert abs(np.corrcoef(places[:, 0], along)[0, 1]) > 0.95
    assert share[0] > 0.7


def test_equal_rows_have_no_spread() -> None:
    places, share = principal_components(np.ones((5, 3), np.float32))
    assert not places.any()
    assert not share.any()


def test_the_figure_has_its_numbers(exported_cf: ExportedVectors, tmp_path: Path) -> None:
    drawn = projection_plot(SUBJECT, exported_cf)
    assert drawn is not None
    figure, table = drawn
    assert str(SUBJECT) in figure.get_suptitle()
    assert table["id"] == exported_cf.ids.to_pylist()
    counts = exported_cf.popularity
    assert counts is not None
    np.testing.assert_array_equal(table["popularity"], counts)
    assert np.isfinite(table["first"]).all()
    assert "of the variance" in figure.axes[0].get_xlabel()
    save_figure(figure, table, tmp_path / "projection")
    assert (tmp_path / "projection.png").stat().st_size < 200_000


def test_cosines_are_drawn_on_the_sphere(tmp_path: Path) -> None:
    """A row's length says nothing where directions are compared."""
    vectors = clustered(40)
    longer = vectors * np.linspace(1, 50, 40, dtype=np.float32)[:, None]
    short = projection_plot(SUBJECT, export_matrix(tmp_path / "a", vectors, COSINE))
    long = projection_plot(SUBJECT, export_matrix(tmp_path / "b", longer, COSINE))
    assert short is not None
    assert long is not None
    np.testing.assert_allclose(short[1]["first"], long[1]["first"], atol=1e-5)
    assert "popularity" not in short[1]


@pytest.mark.parametrize("shape", [(1, 8), (5, 1)])
def test_nothing_to_draw(shape: tuple[int, int], tmp_path: Path) -> None:
    table = export_matrix(tmp_path / "out", np.ones(shape, np.float32), COSINE)
    assert projection_plot(SUBJECT, table) is None
