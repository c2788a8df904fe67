"""Models of the MLflow registry by alias: what `models:/clicks@champion` means today."""

from __future__ import annotations

import re

from recsys.errors import ConfigError
from recsys.tracking.store import open_client, shown

SCHEME = "models:/"


def resolve_alias(run: str, uri: str | None = None) -> str:
    """The run of a registered model; what does not begin with `models:/` is given back.

    Args:
        run: `models:/<name>@<alias>`, `models:/<name>/<version>`, or anything `find_model` takes.
        uri: Configured store; `MLFLOW_TRACKING_URI` wins, None is `outputs/mlflow.db`.

    Raises:
        ConfigError: there is no such model, version or alias, or it came from no run.
        StoreError: the store cannot be used.
    """
    if not run.startswith(SCHEME):
        return run
    found = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", run)
    if found is None:
        raise ConfigError(
            f"run={run} cannot be read; write models:/<name>@<alias> or models:/<name>/<version>."
        )
    name, alias, version = found.groups()
    client, store = open_client(uri)
    from mlflow.exceptions import MlflowException

    try:
        if alias is None:
            model = client.get_model_version(name, version)
        else:
            model = client.get_model_version_by_alias(name, alias)
    except MlflowException as error:
        raise ConfigError(
            f"run={run}: {shown(store)} has no such model: {error.message}. Register a run's model "
            "and give it the alias in mlflow ui, or name a run."
        ) from error
    if not model.run_id:
        raise ConfigError(
            f"run={run}: version {model.version} came from no run. Register the model of a run."
        )
    return str(model.run_id)
