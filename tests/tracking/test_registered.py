"""What an alias of the MLflow registry means, and what is said where it means nothing."""

import mlflow
import pytest

from recsys.errors import ConfigError
from recsys.tracking.registered import resolve_alias


def test_what_is_no_registered_model_is_given_back() -> None:
    assert resolve_alias("outputs/clicks/autoint") == "outputs/clicks/autoint"
    assert resolve_alias("0123abcd") == "0123abcd"


@pytest.mark.parametrize(
    "run", ["models:/", "models:/a", "models:/a@", "models:/a/b", "models:/@b"]
)
def test_what_cannot_be_read_says_how_to_write_it(run: str) -> None:
    with pytest.raises(ConfigError, match="models:/<name>@<alias>"):
        resolve_alias(run)


def test_an_alias_is_the_run_it_points_to(store: str) -> None:
    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.create_experiment("registered")
    runs = [client.create_run(experiment).info.run_id for _ in range(2)]
    client.create_registered_model("clicks")
    versions = [
        client.create_model_version("clicks", f"runs:/{run}/model", run_id=run) for run in runs
    ]
    client.set_registered_model_alias("clicks", "champion", versions[0].version)
    assert resolve_alias("models:/clicks@champion", store) == runs[0]
    client.set_registered_model_alias("clicks", "champion", versions[1].version)
    assert resolve_alias("models:/clicks@champion", store) == runs[1]
    assert resolve_alias(f"models:/clicks/{versions[0].version}", store) == runs[0]
    for run in ("models:/clicks@nobody", "models:/others@champion", "models:/clicks/99"):
        with pytest.raises(ConfigError, match="has no such model"):
            resolve_alias(run, store)
