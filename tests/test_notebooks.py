"""The notebooks keep their word: each runs from top to bottom, in a folder that is empty, and what
they claim is asserted in them. In the repository they lie without outputs."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
CELL_SECONDS = 600
LONG = ("5_comparing_models",)
"""Notebooks that the default suite leaves to -m slow: nine trainings."""
METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


@pytest.mark.parametrize(
    "path",
    [pytest.param(one, marks=pytest.mark.slow if one.stem in LONG else ()) for one in NOTEBOOKS],
    ids=[one.stem for one in NOTEBOOKS],
)
def test_it_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("IPYTHONDIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path / "jupyter"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    work = tmp_path / "work"
    work.mkdir()
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    place = {"metadata": {"path": str(work)}}
    NotebookClient(notebook, timeout=CELL_SECONDS, resources=place).execute()
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    warnings = [one.text for one in outputs if one.get("name") == "stderr"]
    assert not warnings, "a reader would see these"
    assert (work / "outputs").is_dir()
    assert any("image/png" in one.get("data", {}) for one in outputs), "no figure is shown"
    assert any("text/html" in one.get("data", {}) for one in outputs), "no table is shown"


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_lies_without_outputs(path: Path) -> None:
    notebook = nbformat.read(path, nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert notebook.metadata == METADATA, "clear what an editor added"
    for cell in notebook.cells:
        assert cell.metadata == {}, cell.source
        if cell.cell_type == "code":
            assert cell.outputs == [], "restart the kernel, clear all outputs, save"
            assert cell.execution_count is None


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_links_lead_somewhere(path: Path) -> None:
    text = "".join(cell.source for cell in nbformat.read(path, nbformat.NO_CONVERT).cells)
    for link in re.findall(r"\]\(([^)#]+)", text):
        assert link.startswith("https://") or (path.parent / link).exists(), link


def test_they_are_numbered() -> None:
    numbers = [one.stem.partition("_")[0] for one in NOTEBOOKS]
    assert numbers == [str(number) for number in range(1, len(NOTEBOOKS) + 1)]
    assert set(LONG) < {one.stem for one in NOTEBOOKS}
