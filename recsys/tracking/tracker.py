"""The interface of a tracker, and the one that keeps nothing."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recsys.tracking.names import check_metric_name, flatten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOG = logging.getLogger(__name__)

MAX_METRIC_NAMES = 80
"""More columns than this make the MLflow UI slow; a warning says so once."""

Status = Literal["FINISHED", "FAILED", "KILLED"]


class Tracker:
    """What a training run reports to. This class keeps nothing: it is `tracking=none`.

    Every method checks its arguments here as in MLflow, so that a run which works without tracking
    works with it.
    """

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        """Identifies the run; a checkpoint stores it so that a resumed run is the same run."""
        self.status: Status = "FINISHED"
        """How the run ends when its block is left without an exception."""
        self._metric_names: set[str] = set()

    @property
    def url(self) -> str:
        """Where to see the run: a link, or for a local store the command that shows it."""
        return ""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log a nested configuration as dotted parameters, once, at the start."""
        flatten(params)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log numbers at an optimiser step; returns at once, a thread writes them.

        Raises:
            ValueError: MLflow rejects the name of a metric.
        """
        for name in metrics:
            check_metric_name(name)
        before = len(self._metric_names)
        self._metric_names |= metrics.keys()
        if before <= MAX_METRIC_NAMES < len(self._metric_names):
            _LOG.warning(
                "this run logs %d different metrics; beyond %d the MLflow UI becomes slow. Log "
                "values per field or per user as an artifact.",
                len(self._metric_names),
                MAX_METRIC_NAMES,
            )

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
        """Record which rows were used.

        Args:
            name: Data set, such as `criteo`.
            digest: Changes whenever the rows do; cut to 36 characters.
            context: What it was used for: `training`, `validation` or `test`.
            num_rows: Rows of this split.
            source: Path, URL or recipe the rows came from.
            schema: Column to type, shown in the UI.
        """

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a whole folder, with the run."""
        if not path.exists():
            raise FileNotFoundError(f"there is no {path} to log as an artifact.")

    def log_text(self, text: str, file: str) -> None:
        """Keep a text as a file of the run."""

    def log_figure(self, figure: Figure, file: str) -> None:
        """Keep a figure as an image of the run, such as `plots/calibration.png`."""

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
        """Log a model that `mlflow.pyfunc` loads and serves.

        Args:
            name: Name of the logged model.
            python_model: A `PythonModel`, or the path of a Python file that defines one.
            artifacts: Files the model needs: name to local path.
            signature: Made by `infer_signature`.
            input_example: A few raw rows.
            code_paths: Local packages that must travel with the model.
            pip_requirements: What serving installs; the versions in use by default.
            step: Optimiser step of these weights.

        Returns:
            The model's URI, empty without tracking.
        """
        return ""

    def set_tags(self, tags: Mapping[str, object]) -> None:
        """Set notes that may change during the run; None removes nothing and is skipped."""

    def flush(self) -> None:
        """Wait until everything logged so far is stored."""
