"""Runs that are compared score their test rows again; what cannot be scored says why."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.compare import compare
from pipelines.train import train
from recsys import config


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("place")


def fit(folder: Path, *keys: str) -> Path:
    quiet = ["tracking=none", "console=none", "importance_rows=0", f"output_dir={folder}"]
    train(config.compose("train", [*keys, *quiet]))
    return folder


@pytest.fixture(scope="module")
def clickers(place: Path) -> list[Path]:
    """LR and trees."""
    data = ["data=synthetic", "data.rows=3000"]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        return [
            fit(place / "lr0", "ctr=lr", "trainer.epochs=1", *data),
            fit(place / "trees", "ctr=lightgbm", "ctr.num_rounds=20", *data),
        ]


def table_of(folders: list[Path], *keys: str) -> Any:
    names = f"runs=[{','.join(map(str, folders))}]"
    (table,) = compare(config.compose("compare", [names, "console=none", "bootstrap=50", *keys]))
    return table


def test_rows_are_drawn_for_networks_and_trees(
    clickers: list[Path], place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    table = table_of(clickers, "baseline=lightgbm")
    (difference,) = table.differences.values()
    assert difference.rows.seeds == 1
    assert difference.rows.kind == "groups"
    assert difference.rows.mean == pytest.approx(difference.seeds.mean, abs=1e-6)
    assert difference.rows.low < difference.rows.mean < difference.rows.high


def test_reasons_are_told(
    clickers: list[Path], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)
    other = tmp_path / "other"
    shutil.copytree(clickers[0], other)
    result = json.loads((other / "result.json").read_text())
    result["metrics"]["test"]["auc"] += 0.01
    (other / "result.json").write_text(json.dumps(result | {"run_id": "changed"}))
    table = table_of([other, clickers[1]], "baseline=lightgbm")
    assert any("the run wrote" in note for note in table.notes)
    shutil.rmtree(other / "model")
    table = table_of([other, clickers[1]], "baseline=lightgbm")
    assert any("saved model is not on this disk" in note for note in table.notes)
    table = table_of(clickers, "baseline=lightgbm", "metric=ece")
    assert any("ece is not resampled" in note for note in table.notes)


def test_users_are_drawn_for_lists(
    pair_table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = ["data=interactions", f"data.path={pair_table}", "ks=[5]", "trainer.monitor=recall_at_5"]
    folders = [fit(tmp_path / name, f"cf={name}", *data) for name in ("popularity", "ease")]
    table = table_of(folders, "baseline=popularity")
    (difference,) = table.differences.values()
    assert difference.rows.kind == "users"
    assert difference.rows.low > 0  # two groups with tastes of their own: EASE sees them
    assert difference.rows.mean == pytest.approx(difference.seeds.mean, abs=1e-6)
