"""One training run in MLflow: parameters, metrics, data sets, figures, model, and how it ended.

The only module that talks to MLflow, which is imported when a run is opened and not before.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import traceback
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.environment import installed_triple, installed_version
from recsys.errors import ConfigError
from recsys.tracking.names import flatten
from recsys.tracking.store import (
    ENVIRONMENT_VARIABLE,
    StoreError,
    check_store,
    resolve_uri,
    shown,
    sqlite_path,
    unusable,
)
from recsys.tracking.tracker import Tracker
from recsys.tracking.writer import MetricWriter

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOG = logging.getLogger(__name__)

_PARAMS_PER_CALL = 100
_OPENING = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
_RUNNING = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",  # the default waits minutes for a server that is gone
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the console shows it
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # a log file would fill with its redraws
}


class MlflowTracker(Tracker):
    """A run in an MLflow store. Opened by `open_tracker`, never directly."""

    def __init__(self, client: Any, run: Any, uri: str, last_steps: Mapping[str, int]) -> None:
        super().__init__(run.info.run_id)
        self.experiment_id: str = run.info.experiment_id
        self._client = client
        self._uri = uri
        self._last_steps = dict(last_steps)
        self._params: dict[str, str] = dict(run.data.params)
        self._datasets: set[tuple[str, str]] = set()
        self._writer = MetricWriter(self._write)

    @property
    def url(self) -> str:
        if self._uri.startswith("http"):
            base = shown(self._uri).rstrip("/")
            return f"{base}/#/experiments/{self.experiment_id}/runs/{self.run_id}"
        return f"mlflow ui --backend-store-uri {shown(self._uri)}"

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log dotted parameters. A resumed run keeps its own, and changes become a tag."""
        from mlflow.entities import Param

        flat = flatten(params)
        changed = {k: v for k, v in flat.items() if self._params.get(k, v) != v}
        if changed:
            told = ", ".join(f"{k}: {self._params[k]} -> {v}" for k, v in changed.items())
            _LOG.warning("parameters changed since the run began: %s", told)
            self.set_tags({"changed_params": told})
        new = [Param(k, v) for k, v in flat.items() if k not in self._params]
        for start in range(0, len(new), _PARAMS_PER_CALL):
            self._client.log_batch(self.run_id, params=new[start : start + _PARAMS_PER_CALL])
        self._params |= {param.key: param.value for param in new}

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log numbers at a step; a resumed run skips the steps it already has."""
        super().log_metrics(metrics, step)
        fresh = {k: float(v) for k, v in metrics.items() if step > self._last_steps.get(k, -1)}
        self._writer.put(fresh, step)

    def log_dataset(
        self,
        name: str,
        *,
        digest: str,
        context: str,
        num_rows: int,
        source: str,
        schema: Mapping[str, str],
    ) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        columns = [{"name": k, "type": v, "required": True} for k, v in schema.items()]
        remote = source.startswith(("http://", "https://"))
        digest = digest[:36]
        if (name, digest) in self._datasets:
            # MLflow keeps one context per data set and run, and drops the second in silence.
            digest = f"{digest[: 35 - len(context)]}-{context}"
        self._datasets.add((name, digest))
        dataset = Dataset(
            name=name,
            digest=digest,
            source_type="http" if remote else "local",
            source=json.dumps({"url" if remote else "uri": source}),
            schema=json.dumps({"mlflow_colspec": columns}),
            profile=json.dumps({"num_rows": num_rows}),
        )
        tags = [InputTag("mlflow.data.context", context)]
        self._client.log_inputs(self.run_id, datasets=[DatasetInput(dataset, tags)])

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        super().log_artifact(path, folder)
        if path.is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)

    def log_text(self, text: str, file: str) -> None:
        self._client.log_text(self.run_id, text, file)

    def log_figure(self, figure: Figure, file: str) -> None:
        self._client.log_figure(self.run_id, figure, file)

    def log_pyfunc_model(
        self,
        name: str,
        *,
        python_model: Any,
        artifacts: Mapping[str, str] | None = None,
        signature: Any = None,
        input_example: Any = None,
        code_paths: Sequence[str] | None = None,
        pip_requirements: Sequence[str] | None = None,
        step: int = 0,
    ) -> str:
        import mlflow

        # Given requirements, MLflow does not start a process to guess them (tens of seconds).
        with warnings.catch_warnings():
            # The signature is given, from raw rows; an example would store a user's data.
            warnings.filterwarnings("ignore", ".*An input example was not provided", UserWarning)
            warnings.filterwarnings("ignore", ".*[Tt]ype hint", UserWarning)
            logged = mlflow.pyfunc.log_model(
                name=name,
                python_model=python_model,
                artifacts=dict(artifacts) if artifacts else None,
                signature=signature,
                input_example=input_example,
                code_paths=list(code_paths) if code_paths else None,
                pip_requirements=list(pip_requirements or serving_requirements()),
                step=step,
            )
        return str(logged.model_uri)

    def set_tags(self, tags: Mapping[str, object]) -> None:
        from mlflow.entities import RunTag

        kept = [RunTag(key, str(value)) for key, value in tags.items() if value is not None]
        self._client.log_batch(self.run_id, tags=kept)

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        """Write what is buffered and stop the thread; a store that is gone costs a warning."""
        self._writer.close()

    def _write(self, rows: Sequence[tuple[str, float, int, int]]) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(self.run_id, metrics=[Metric(*row) for row in rows])


@contextlib.contextmanager
def open_tracker(
    kind: str,
    *,
    experiment: str,
    run_name: str,
    uri: str | None = None,
    tags: Mapping[str, object] | None = None,
    resume_run_id: str | None = None,
    parent_run_id: str | None = None,
    system_metrics: bool = False,
    notify: Callable[[str], None] | None = None,
) -> Iterator[Tracker]:
    """Open a run for the length of a `with` block and record how the block ended.

    FINISHED after a normal end (or what `tracker.status` was set to), KILLED after Ctrl-C or
    `sys.exit`, FAILED with `traceback.txt` after any other exception.

    Args:
        kind: `mlflow` or `none`.
        experiment: Made by `names.experiment_name`; created when new.
        run_name: Made by `names.run_name`.
        uri: Configured store; `MLFLOW_TRACKING_URI` wins, None is `outputs/mlflow.db`.
        tags: Model, family, seed, device ...; git commit and versions are added.
        resume_run_id: Reopen this run and append to it instead of beginning a new one.
        parent_run_id: The new run is a child of this one, which may be open in this process.
        system_metrics: Also sample processor, memory and GPU every ten seconds.
        notify: Told when the store is created, which takes seconds; logged by default.

    Raises:
        StoreError: the store cannot be used, or has no such run; nothing was started.
        ConfigError: unknown kind.
    """
    if kind not in ("mlflow", "none"):
        raise ConfigError(f"tracking.kind is {kind!r}; allowed: mlflow, none.")
    if kind == "none":
        yield Tracker(resume_run_id or uuid.uuid4().hex)
        return
    uri = resolve_uri(uri)
    with _environment(_RUNNING), _keep_tracking_uri():
        tracker = _open(
            uri, experiment, run_name, tags or {}, resume_run_id, parent_run_id, system_metrics,
            notify,
        )  # fmt: skip
        try:
            yield tracker
        except (KeyboardInterrupt, SystemExit):
            tracker.status = "KILLED"
            raise
        except BaseException as error:
            tracker.status = "FAILED"
            _record_failure(tracker, error)
            raise
        finally:
            _close(tracker)


def infer_signature(inputs: Any, outputs: Any) -> Any:
    """MLflow signature from a few raw columns ({name: array} or a data frame) and their scores."""
    from mlflow.models import infer_signature as infer

    with warnings.catch_warnings():
        # Integer ids stay integers: as doubles, which MLflow hints at, large ones would merge.
        warnings.filterwarnings("ignore", "Hint: Inferred schema contains integer", UserWarning)
        return infer(inputs, outputs)


def serving_requirements() -> list[str]:
    """The installed versions a served model needs."""
    names = ("mlflow", "torch", "numpy", "polars", "pyarrow", "PyYAML", "safetensors")
    found = {name: installed_version(name) for name in names}
    return [f"{name}=={str(v).split('+')[0]}" for name, v in found.items() if v is not None]


def system_tags(folder: Path = Path(__file__).parent) -> dict[str, str]:
    """Commit of the code in `folder`, whether it was changed, and the versions in use."""
    triple = installed_triple()
    versions = {"recsys": installed_version("recsys"), **triple._asdict()}
    tags = {name: version for name, version in versions.items() if version is not None}
    commit = _git(folder, "rev-parse", "HEAD")
    if commit:
        tags["git_commit"] = commit
        changes = _git(folder, "status", "--porcelain", "--untracked-files=no")
        tags["git_dirty"] = str(bool(changes)).lower()
    return tags


def _git(folder: Path, *arguments: str) -> str | None:
    """Output of a git command, or None where there is no git or no repository."""
    command = ["git", "-C", str(folder), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _open(
    uri: str,
    experiment: str,
    run_name: str,
    tags: Mapping[str, object],
    resume_run_id: str | None,
    parent_run_id: str | None,
    system_metrics: bool,
    notify: Callable[[str], None] | None,
) -> MlflowTracker:
    check_store(uri)
    database = sqlite_path(uri)
    if database is not None and not database.exists():
        (notify or _LOG.info)(f"creating the MLflow store {database} (once, a few seconds)")
        database.parent.mkdir(parents=True, exist_ok=True)
    try:
        with _environment(_OPENING), _quiet("alembic", "mlflow.store.db.utils"):
            import mlflow

            mlflow.set_tracking_uri(uri)
            client = mlflow.MlflowClient(uri)
            every_tag = {**system_tags(), **tags}
            text_tags = {k: str(v) for k, v in every_tag.items() if v is not None}
            last_steps: dict[str, int] = {}
            if resume_run_id is None:
                run = mlflow.start_run(
                    experiment_id=_experiment_id(client, experiment, database),
                    run_name=run_name,
                    nested=parent_run_id is not None,
                    parent_run_id=parent_run_id,
                    tags=text_tags,
                    log_system_metrics=system_metrics,
                )
            else:
                old = client.get_run(resume_run_id)
                last_steps = {key: _last_step(client, old, key) for key in old.data.metrics}
                text_tags["resumed"] = str(int(old.data.tags.get("resumed", "0")) + 1)
                run = mlflow.start_run(
                    run_id=resume_run_id, tags=text_tags, log_system_metrics=system_metrics
                )
            return MlflowTracker(client, run, uri, last_steps)
    except Exception as error:
        if getattr(error, "error_code", "") == "RESOURCE_DOES_NOT_EXIST":
            raise StoreError(
                f"there is no run {resume_run_id} in {shown(uri)} to resume; point tracking.uri at "
                "the store it was logged to, or begin a new run with trainer.resume=null."
            ) from error
        raise unusable(uri, error) from error


def _experiment_id(client: Any, name: str, database: Path | None) -> str:
    """Id of the experiment, created when new; artifacts of a SQLite store lie beside it."""
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        location = None if database is None else (database.parent / "artifacts" / name).as_uri()
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException:
            found = client.get_experiment_by_name(name)  # another process was faster
            if found is None:
                raise
    if found.lifecycle_stage == "deleted":
        raise ValueError(
            f"experiment {name} is deleted; `mlflow experiments restore -x {found.experiment_id}`"
        )
    return str(found.experiment_id)


def _last_step(client: Any, run: Any, key: str) -> int:
    if key.startswith("system/"):
        return -1  # MLflow counts these by itself
    return max(metric.step for metric in client.get_metric_history(run.info.run_id, key))


def _record_failure(tracker: MlflowTracker, error: BaseException) -> None:
    text = "".join(traceback.format_exception(error))
    try:
        tracker.set_tags({"error": f"{type(error).__name__}: {error}"[:500]})
        tracker.log_text(text, "traceback.txt")
    except Exception as second:  # must not replace the error that ended the run
        _LOG.warning("the traceback could not be stored with the run: %s", second)


def _close(tracker: MlflowTracker) -> None:
    import mlflow

    tracker.close()
    try:
        mlflow.end_run(tracker.status)
    except Exception as error:  # training is over and saved: a dead store must not undo it
        _LOG.warning("run %s could not be marked %s: %s", tracker.run_id, tracker.status, error)


@contextlib.contextmanager
def _keep_tracking_uri() -> Iterator[None]:
    """Undo `mlflow.set_tracking_uri` after the block: it also writes the environment variable."""
    before = os.environ.get(ENVIRONMENT_VARIABLE)
    try:
        yield
    finally:
        import mlflow

        mlflow.set_tracking_uri(before)  # None forgets it


@contextlib.contextmanager
def _environment(defaults: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables that are not set, for the length of the block."""
    added = [name for name in defaults if name not in os.environ]
    os.environ.update({name: defaults[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


@contextlib.contextmanager
def _quiet(*names: str) -> Iterator[None]:
    """Hide what these loggers say below warnings, for the length of the block."""
    levels = {name: logging.getLogger(name).level for name in names}
    try:
        for name in names:
            logging.getLogger(name).setLevel(logging.WARNING)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
