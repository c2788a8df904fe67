"""From the MLflow store to records of finished runs, to be compared."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recsys.comparison.records import RunRecord, compared_params, record_of
from recsys.errors import ConfigError, did_you_mean
from recsys.tracking.names import experiment_name
from recsys.tracking.store import open_client, resolve_uri, shown, sqlite_path

_PAGE = 500


@dataclass(frozen=True)
class Wanted:
    """Which runs of a store; what is empty does not filter."""

    datasets: tuple[str, ...] = ()
    experiments: tuple[str, ...] = ()
    """Names in MLflow, where they are not `recsys/<data set>`."""
    models: tuple[str, ...] = ()
    trials: bool = False
    """Also child runs: the trials and finalists of searches."""


def find_runs(wanted: Wanted, uri: str | None = None) -> tuple[list[RunRecord], list[str]]:
    """Finished training runs.

    Args:
        wanted: Which.
        uri: Configured store; `MLFLOW_TRACKING_URI` wins, None is `outputs/mlflow.db`.

    Returns:
        The records, and sentences on what was left out.

    Raises:
        ConfigError: there is no store, or nothing in it has such a data set, experiment or model.
        StoreError: the store cannot be used.
    """
    client, uri = _client(uri)
    experiments = {one.name: one.experiment_id for one in client.search_experiments()}
    names = [*wanted.experiments, *map(experiment_name, wanted.datasets)]
    for name in names:
        if name not in experiments:
            raise ConfigError(
                f"there is no experiment {name} in {shown(uri)}.{did_you_mean(name, experiments)}"
            )
    ids = [experiments[name] for name in names or experiments]
    # What is not of a training run (rankings of columns, indexes, searches) has no seed.
    runs = [run for run in _search(client, ids) if {"model", "seed"} <= set(run.data.tags)]
    models = {run.data.tags["model"] for run in runs}
    for model in wanted.models:
        if model not in models:
            raise ConfigError(f"model={model}: no run is of it.{did_you_mean(model, models)}")
    if wanted.models:
        runs = [run for run in runs if run.data.tags["model"] in wanted.models]
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    unfinished = [run for run in runs if run.info.status != "FINISHED"]
    notes = []
    if children and not wanted.trials:
        notes.append(f"{len(children)} trials of searches left out; trials=true takes them in")
        runs = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
        unfinished = [run for run in runs if run.info.status != "FINISHED"]
    if unfinished:
        notes.append(f"{len(unfinished)} runs left out that did not finish")
    finished = [run for run in runs if run.info.status == "FINISHED"]
    records = [_record(client, run) for run in finished]
    if not records:
        raise ConfigError(
            f"there is no finished run to compare in {shown(uri)}"
            f"{' with these filters' if names or wanted.models else ''}. Train one "
            "(python -m pipelines.train ctr=autoint), or point tracking.uri at your store."
        )
    return records, notes


def named_runs(names: Sequence[str], uri: str | None = None) -> list[RunRecord]:
    """The runs that a person names, by id or output folder.

    Args:
        names: Ids in MLflow, or folders with a `result.json`.
        uri: Configured store, of the ids.

    Raises:
        ConfigError: one is neither, or did not finish.
        StoreError: the store cannot be used.
    """
    records = []
    client: Any = None
    for name in names:
        file = Path(name) / "result.json"
        if file.is_file():
            records.append(_of_folder(file))
            continue
        if Path(name).is_dir():
            raise ConfigError(f"runs: {name} is a folder without result.json; it did not finish.")
        if client is None:
            client, uri = _client(uri)
        from mlflow.exceptions import MlflowException

        try:
            run = client.get_run(name)
        except MlflowException as error:
            raise ConfigError(
                f"runs: {name} is neither a folder with result.json nor a run in "
                f"{shown(str(uri))}. Take ids from the table, result.json or mlflow ui."
            ) from error
        if run.info.status != "FINISHED":
            raise ConfigError(f"runs: {name} is {run.info.status.lower()}, not finished.")
        if "model" not in run.data.tags:
            raise ConfigError(f"runs: {name} is not a training run.")
        records.append(_record(client, run))
    return records


def _client(configured: str | None) -> tuple[Any, str]:
    uri = resolve_uri(configured)
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        raise ConfigError(
            f"there is no store {database} yet, so no run to compare. Train first (python -m "
            "pipelines.train ctr=autoint), or point tracking.uri at your store."
        )
    return open_client(uri)


def _search(client: Any, experiment_ids: Sequence[str]) -> list[Any]:
    """All runs of some experiments; the store gives them in pages."""
    found: list[Any] = []
    token = None
    while experiment_ids:
        page = client.search_runs(list(experiment_ids), max_results=_PAGE, page_token=token)
        found += page
        token = page.token
        if not token:
            break
    return found


def _record(client: Any, run: Any) -> RunRecord:
    """From the result's file, which has every number of the model that was kept; else from what the
    store has itself, whose validation metrics are those of the last step and are left out."""
    tags = {k: v for k, v in run.data.tags.items() if not k.startswith("mlflow.")}
    place = Path(tags["output_dir"]) if "output_dir" in tags else None
    name, started = str(run.info.run_name), run.info.start_time / 1000
    folder = None
    result = None if place is None else _read(place / "result.json")
    if result is not None and result.get("run_id") == run.info.run_id:
        folder = place  # otherwise another run has taken its place
    else:
        result = _stored_result(client, run.info.run_id)
    if result is not None and result.get("config"):
        return record_of(result, folder=folder, name=name, tags=tags, started=started)
    inputs = [one.dataset for one in run.inputs.dataset_inputs] if run.inputs else []
    digest = inputs[0].digest if inputs else ""
    for split in ("-train", "-training", "-val", "-validation", "-test"):
        digest = digest.removesuffix(split)
    return RunRecord(
        run_id=run.info.run_id,
        name=name,
        model=tags.get("model", ""),
        family=tags.get("family", ""),
        data=tags.get("dataset", ""),
        digest=digest,
        seed=int(tags["seed"]) if tags.get("seed", "").lstrip("-").isdigit() else None,
        params=compared_params(run.data.params),
        metrics={k: v for k, v in run.data.metrics.items() if not k.startswith(("train/", "val/"))},
        folder=folder,
        commit=tags.get("git_commit", ""),
        started=started,
        tags=tags,
    )


def _stored_result(client: Any, run_id: str) -> dict[str, Any] | None:
    """`result.json` of a run, from the store."""
    with tempfile.TemporaryDirectory(prefix="recsys-compare-") as folder:
        try:
            client.download_artifacts(run_id, "result.json", folder)
        except Exception:  # every kind of store has its own way to say that there is none
            return None
        return _read(Path(folder) / "result.json")


def _read(file: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _of_folder(file: Path) -> RunRecord:
    found = _read(file)
    if found is None:
        raise ConfigError(f"{file} cannot be read as JSON. Name another run.")
    return record_of(found, folder=file.parent, started=file.stat().st_mtime)
