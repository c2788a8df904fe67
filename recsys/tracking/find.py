"""From what a person calls a run to the folder of its model."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from recsys.errors import ConfigError
from recsys.tracking.store import open_client, shown


def find_model(run: str, uri: str | None = None) -> Path:
    """The saved model of a run.

    Args:
        run: A run's output folder, a saved model's folder, or an MLflow run id.
        uri: Configured store; `MLFLOW_TRACKING_URI` wins, None is `outputs/mlflow.db`.

    Returns:
        A folder that `SavedModel.load` reads; fetched from the store when it is not on this disk.

    Raises:
        ConfigError: there is no such run, or it has no model.
        StoreError: the store cannot be used.
    """
    for folder in (Path(run) / "model", Path(run)):
        if (folder / "model.json").is_file():
            return folder
    if Path(run).is_dir():
        raise ConfigError(
            f"run={run} is a folder without a model; its training has not finished. Continue it "
            "with trainer.resume=auto, or name another run."
        )
    client, store = open_client(uri)
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        found = client.get_run(run)
    except MlflowException as error:
        raise ConfigError(
            f"run={run}: neither a folder nor a run in {shown(store)}. Take the id from "
            "result.json or from mlflow ui, or give the run's output folder."
        ) from error
    folder = Path(found.data.tags.get("output_dir", "")) / "model"
    if (folder / "model.json").is_file():
        return folder
    models = client.search_logged_models(
        [found.info.experiment_id], filter_string=f"source_run_id = '{run}'", max_results=1
    )
    if not models:
        raise ConfigError(
            f"run={run} ({found.info.status.lower()}) has no model; only finished runs have one."
        )
    target = tempfile.mkdtemp(prefix="recsys-model-")
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    fetched = mlflow.artifacts.download_artifacts(
        artifact_uri=f"models:/{models[0].model_id}", dst_path=target, tracking_uri=store
    )
    return Path(fetched) / "artifacts" / "model"
