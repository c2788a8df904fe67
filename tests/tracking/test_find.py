"""Runs by folder; what is not one is said to be none."""

from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.tracking.find import find_model


def test_by_output_folder_or_model_folder(tmp_path: Path) -> None:
    model = tmp_path / "run" / "model"
    model.mkdir(parents=True)
    (model / "model.json").write_text("{}")
    assert find_model(str(tmp_path / "run")) == model
    assert find_model(str(model)) == model


def test_an_unfinished_run_names_the_way_on(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has not finished.*resume=auto"):
        find_model(str(tmp_path))


def test_by_run_id_from_the_store(store: str, tmp_path: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.create_experiment("recsys/find")
    run = client.create_run(experiment)
    model = tmp_path / "out" / "model"
    model.mkdir(parents=True)
    (model / "model.json").write_text("{}")
    client.set_tag(run.info.run_id, "output_dir", str(tmp_path / "out"))
    assert find_model(run.info.run_id, store) == model
    empty = client.create_run(experiment)
    with pytest.raises(ConfigError, match="has no model"):
        find_model(empty.info.run_id, store)
    with pytest.raises(ConfigError, match=r"run=nothing.*result\.json"):
        find_model("nothing", store)
