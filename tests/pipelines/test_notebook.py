"""`run`: the command line's words from Python, and what it returns shows itself."""

import doctest
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from pipelines import notebook
from pipelines.notebook import Best, Outcome, html_table, run
from recsys.errors import ConfigError
from recsys.tracking.summary import Table
from tests.pipelines.test_compare import leave


@pytest.fixture(scope="module")
def trained_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Outcome]:
    """A run of LR, called from Python in an empty working directory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        yield run(
            "train", "ctr=lr", "data.rows=2000", "trainer.epochs=1", "tracking=none", "console=none"
        )


def test_it_returns_what_the_command_writes(trained_here: Outcome) -> None:
    assert trained_here.folder is not None
    written = json.loads((trained_here.folder / "result.json").read_text())
    assert trained_here["metrics"] == written["metrics"]
    assert "folder" not in written
    assert trained_here.folder.parts[:3] == ("outputs", "synthetic", "lr")


def test_its_tables_and_figures(trained_here: Outcome) -> None:
    assert {"importance", "training_curve", "test_calibration"} <= set(trained_here.figures)
    assert set(trained_here.figures) <= set(trained_here.tables)
    found = trained_here.table("importance")
    assert isinstance(found, pl.DataFrame)
    assert "auc_drop" in found.columns
    assert trained_here.figure("importance")._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match=r'no figure "import".*Did you mean importance'):
        trained_here.figure("import")
    with pytest.raises(ConfigError, match=r'no table "curve".* Allowed: |Did you mean'):
        trained_here.table("curve")


def test_it_shows_itself(trained_here: Outcome) -> None:
    auc = f"{trained_here['metrics']['test']['auc']:.5f}"
    for text in (repr(trained_here), trained_here._repr_html_()):
        assert auc in text
        assert "best possible" in text
        assert "training_curve" in text
        assert str(trained_here.folder) in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("trian", "ctr=lr"), 'no pipeline "trian". Did you mean train'),
        (("train", "ctr=autoimt"), "Did you mean autoint"),
        (("train", "ctr=lr", "trainer.epoch=1"), "Did you mean trainer.epochs"),
        (("evaluate",), "run is missing"),
    ],
)
def test_mistakes_are_answered_without_a_trace_of_the_insides(
    words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        run(*words)
    assert message in str(caught.value)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert {Path(str(one.path)).name for one in caught.traceback} == {
        "test_notebook.py", "notebook.py",
    }  # fmt: skip


def test_a_comparison_is_a_table_with_the_best_in_bold(tmp_path: Path) -> None:
    values = {("lr", 0): 0.70, ("lr", 1): 0.71, ("fm", 0): 0.80, ("fm", 1): 0.83}
    folders = [leave(tmp_path / f"{m}{s}", m, s, auc) for (m, s), auc in values.items()]
    names = f"runs=[{','.join(folders)}]"
    to = tmp_path / "compared"
    found = run("compare", names, "bootstrap=0", "console=none", f"output_dir={to}")
    assert "<b>0.81500 +- 0.02121</b>" in found._repr_html_()
    assert "0.81500 +- 0.02121 *" in repr(found)
    assert found.folder == to
    assert found.table("compare")["model"].to_list() == ["fm", "lr"]
    assert len(found.figures) == 2
    nowhere = run("compare", names, "bootstrap=0", "console=none")
    assert (nowhere.folder, nowhere.figures, nowhere.tables) == (None, [], [])


def test_a_table_in_memory_is_a_table_too() -> None:
    found = Outcome("recommend", {"recommendations": pa.table({"item": ["a"], "rank": [1]})}, None)
    assert found.tables == ["recommendations"]
    assert found.table("recommendations").rows() == [("a", 1)]
    assert "tables: recommendations" in repr(found)


def test_names_are_text_not_html() -> None:
    table = Table("a < b", ("<i>", "n"), [("x & y", Best("2")), ("z", "10")])
    text = html_table(table)
    assert "a &lt; b" in text
    assert "&lt;i&gt;" in text
    assert "x &amp; y" in text
    assert '<td style="text-align: right"><b>2</b></td>' in text
    assert '<td style="text-align: left">z</td>' in text


def test_its_examples() -> None:
    assert doctest.testmod(notebook).failed == 0
