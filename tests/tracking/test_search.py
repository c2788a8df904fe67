"""Finding finished training runs in a store."""

import json
from pathlib import Path
from typing import Any

import pytest

from recsys.errors import ConfigError
from recsys.tracking.run import open_tracker
from recsys.tracking.search import Wanted, find_runs, named_runs

CONFIG = {"ctr": {"_target_": "m.LR", "l2": 0.1}, "seed": 0, "trainer": {"epochs": 1}}


def log(
    store: str,
    folder: Path,
    *,
    seed: int = 0,
    model: str = "lr",
    write: str = "folder",
    **more: Any,
) -> str:
    """A run as the pipelines log it; `write` says where its result.json is left."""
    tags = {"model": model, "family": "ctr", "dataset": "clicks", "seed": seed}
    with open_tracker(
        "mlflow", experiment="recsys/clicks", run_name=f"{model}-{seed}", uri=store,
        tags=tags | {"output_dir": folder}, **more,
    ) as tracker:  # fmt: skip
        tracker.log_params(CONFIG | {"seed": seed})
        tracker.log_dataset(
            "clicks", digest="d1-train", context="training", num_rows=9, source="x", schema={}
        )
        tracker.log_metrics({"test/auc": 0.5, "val/auc": 0.4}, 1)
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps({
            "run_id": tracker.run_id, "model": model, "data": "clicks", "data_digest": "d1",
            "seed": seed, "config": CONFIG | {"seed": seed},
            "metrics": {"test": {"auc": 0.75}, "val": {"auc": 0.7}},
        })  # fmt: skip
        if write != "nowhere":
            (folder / "result.json").write_text(text)
        if write == "store":
            tracker.log_artifact(folder / "result.json")
            (folder / "result.json").unlink()
        return tracker.run_id


@pytest.mark.parametrize(
    ("write", "metrics"),
    [
        ("folder", {"test/auc": 0.75, "val/auc": 0.7}),
        ("store", {"test/auc": 0.75, "val/auc": 0.7}),
        ("nowhere", {"test/auc": 0.5}),  # the store's val/auc is not that of the model kept
    ],
)
def test_numbers_come_from_the_result_wherever_it_is(
    write: str, metrics: dict[str, float], store: str, tmp_path: Path
) -> None:
    run_id = log(store, tmp_path / "run", seed=4, write=write)
    (run,), notes = find_runs(Wanted(), store)
    assert run.run_id == run_id
    assert run.metrics == metrics
    assert (run.model, run.family, run.data, run.digest, run.seed) == (
        "lr", "ctr", "clicks", "d1", 4
    )  # fmt: skip
    assert run.params == {"ctr.l2": "0.1", "trainer.epochs": "1"}
    assert run.tags["model"] == "lr"
    assert notes == []


def test_a_folder_that_another_run_has_taken_is_not_the_runs(store: str, tmp_path: Path) -> None:
    first = log(store, tmp_path / "run", seed=0, write="store")
    second = log(store, tmp_path / "run", seed=1)
    runs = {run.run_id: run for run in find_runs(Wanted(), store)[0]}
    assert runs[first].folder is None
    assert runs[first].metrics["test/auc"] == 0.75
    assert runs[second].folder == tmp_path / "run"


def test_filters_and_what_is_left_out(store: str, tmp_path: Path) -> None:
    parent = log(store, tmp_path / "a")
    log(store, tmp_path / "b", model="fm")
    log(store, tmp_path / "c", seed=1, parent_run_id=parent)
    failing = open_tracker(
        "mlflow", experiment="recsys/clicks", run_name="x", uri=store,
        tags={"model": "lr", "seed": 0},
    )  # fmt: skip
    with pytest.raises(RuntimeError), failing:
        raise RuntimeError("diverged")
    runs, notes = find_runs(Wanted(datasets=("clicks",)), store)
    assert sorted(run.model for run in runs) == ["fm", "lr"]
    assert any("1 trials" in note for note in notes)
    assert any("did not finish" in note for note in notes)
    assert len(find_runs(Wanted(models=("lr",), trials=True), store)[0]) == 2
    with pytest.raises(ConfigError, match="Did you mean recsys/clicks"):
        find_runs(Wanted(datasets=("click",)), store)
    with pytest.raises(ConfigError, match="model=lrr"):
        find_runs(Wanted(models=("lrr",)), store)


def test_runs_are_named_by_id_or_folder(store: str, tmp_path: Path) -> None:
    run_id = log(store, tmp_path / "a")
    runs = named_runs([run_id, str(tmp_path / "a")], store)
    assert [run.run_id for run in runs] == [run_id, run_id]
    (tmp_path / "empty").mkdir()
    for name, message in (("f" * 32, "neither a folder"), (str(tmp_path / "empty"), "result.json")):
        with pytest.raises(ConfigError, match=message):
            named_runs([name], store)


def test_an_empty_store_and_none_at_all(store: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished run to compare"):
        find_runs(Wanted(), store)
    with pytest.raises(ConfigError, match="there is no store"):
        find_runs(Wanted(), f"sqlite:///{tmp_path}/nothing.db")
    assert not (tmp_path / "nothing.db").exists()
