"""Files that are made after a run has ended, kept with it."""

from __future__ import annotations

from pathlib import Path

from recsys.tracking.store import resolve_uri, shown, sqlite_path


def attach(run_id: str, folder: Path, place: str, uri: str | None = None) -> str:
    """Add the files of a folder to the artifacts of a finished run, which stays finished.

    Args:
        run_id: In MLflow.
        folder: Its files, subfolders included.
        place: Folder among the artifacts.
        uri: Configured store; `MLFLOW_TRACKING_URI` wins, None is `outputs/mlflow.db`.

    Returns:
        A sentence for a person: where they are, or why they are not there. The files were written
        already, so a store that cannot take them is no error.
    """
    uri = resolve_uri(uri)
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        return f"not in MLflow: there is no store {database}"
    import mlflow
    from mlflow.exceptions import MlflowException

    client = mlflow.MlflowClient(tracking_uri=uri)
    try:
        client.get_run(run_id)
        client.log_artifacts(run_id, str(folder), place)
    except (MlflowException, OSError) as error:
        return f"not in MLflow: {shown(uri)} did not take them for run {run_id} ({error})"
    return f"in MLflow: run {run_id}, artifacts {place}"
