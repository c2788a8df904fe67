"""python -m pipelines.compare: runs in, a table out; every mistake is answered."""

import json
from pathlib import Path
from typing import Any

import pytest

from pipelines.compare import compare, strings
from recsys import config
from recsys.errors import ConfigError
from tests.pipelines.conftest import Run


def leave(folder: Path, model: str, seed: int, auc: float, digest: str = "d1") -> str:
    """What a finished run leaves, as far as tables read it."""
    folder.mkdir(parents=True)
    result: dict[str, Any] = {
        "run_id": folder.name + "x" * 20, "model": model, "data": "clicks", "data_digest": digest,
        "seed": seed, "config": {"ctr": {"_target_": f"m.{model}"}, "seed": seed},
        "metrics": {"test": {"auc": auc}}, "fit_seconds": 5.0,
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))
    return str(folder)


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    values = {("lr", 0): 0.70, ("lr", 1): 0.71, ("fm", 0): 0.80, ("fm", 1): 0.83}
    return [leave(tmp_path / f"{m}{s}", m, s, auc) for (m, s), auc in values.items()]


def run_on(folders: list[str], *keys: str) -> Any:
    names = f"runs=[{','.join(folders)}]"
    return compare(config.compose("compare", [names, "console=plain", "bootstrap=0", *keys]))


def test_a_table_of_folders(folders: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    run_on(folders, "baseline=lr")
    shown = capsys.readouterr().out
    assert "0.81500 +- 0.02121 *" in shown
    assert "+0.11000" in shown
    assert "(n 2)" in shown


@pytest.mark.parametrize(
    ("form", "start"), [("markdown", "**clicks"), ("csv", "data,digest,model")]
)
def test_a_piped_table_holds_nothing_else(
    form: str, start: str, folders: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run_on([*folders, leave(Path(folders[0]).parent / "other", "lr", 0, 0.5, "d2")],
           f"format={form}")  # fmt: skip
    shown = capsys.readouterr()
    assert shown.out.startswith(start)
    assert "several digests" in shown.err


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (["format=html"], "format=html; allowed"),
        (["top=0"], "top=0"),
        (["bootstrap=-1"], "bootstrap=-1"),
        (["metric=aucc"], "Did you mean test/auc"),
        (["baseline=deepfm"], "Allowed: fm, lr"),
        (["where='ctr.l2'"], "cannot read"),
    ],
)
def test_mistakes_are_answered(keys: list[str], message: str, folders: list[str]) -> None:
    with pytest.raises(ConfigError, match=message):
        run_on(folders, *keys)


def test_filters_hold_for_named_runs(folders: list[str]) -> None:
    (table,) = run_on(folders, "model=[lr]", "where='seed=1'")
    assert [(row.model, len(row.runs)) for row in table.rows] == [("lr", 1)]
    with pytest.raises(ConfigError, match="no finished run"):
        run_on(folders, "dataset=other")


def test_names_and_lists_of_names() -> None:
    assert strings("model", ["lr", 7]) == ("lr", "7")
    with pytest.raises(ConfigError, match="list of names"):
        strings("model", {"lr": 1})


def test_the_run_of_a_training_is_found_in_the_store(trained: Path, told: Run) -> None:
    result = json.loads((trained / "result.json").read_text())
    shown = told("pipelines.compare", "model=autoint", "format=csv").stdout
    assert result["run_id"] in shown
    assert repr(result["metrics"]["test"]["auc"]) in shown
    done = told("pipelines.compare", "dataset=nowhere")
    assert done.returncode == 2
    assert "there is no experiment recsys/nowhere" in done.stderr
    assert "Traceback" not in done.stderr
