"""The served model file defines one model and takes it from a saved folder."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np

import recsys
from recsys.models.saved import SavedModel
from tests.models.test_saved import frame, saved

__all__ = ["saved"]


def test_raw_rows_in_probabilities_out(saved: SavedModel, tmp_path: Path) -> None:
    folder = saved.save(tmp_path / "model")
    script = Path(recsys.__file__).parent / "tracking" / "pyfunc.py"
    model = runpy.run_path(str(script))["RecommenderModel"]()
    model.load_context(SimpleNamespace(artifacts={"model": str(folder)}))
    scored = model.predict(None, frame(20).to_pandas())
    assert list(scored.columns) == ["probability"]
    np.testing.assert_array_equal(scored["probability"].to_numpy(), saved.predict(frame(20)))
