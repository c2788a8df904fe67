"""What every run does around its training."""

import json
from pathlib import Path

import pyarrow as pa

from pipelines.tracked_run import chosen_spec, loggable, telling_rows
from recsys import config


def test_only_what_a_person_can_set_is_logged() -> None:
    logged = loggable(config.compose("train", ["ctr=fm", "output_dir=x"]))
    assert "output_dir" not in logged
    assert "tracking" not in logged
    assert "importance_rows" not in logged
    assert logged["seed"] == 0
    assert logged["optimizer"]["name"] == "adam"


def test_the_specification_of_the_model_is_what_the_configuration_says() -> None:
    spec = chosen_spec(config.compose("train", ["ctr=dcnv2", "ctr.dropout=0.3"]), "ctr")
    assert (spec.family, spec.stem, spec.class_name) == ("ctr", "dcnv2", "DCNv2")
    assert "_target_" not in spec.arguments
    assert spec.arguments["dropout"] == 0.3


def test_result_file_artifacts_and_test_metrics_are_those_of_the_result(
    trained: Path, home: Path
) -> None:
    """The run of the fixture: everything that `finish` writes."""
    import mlflow

    result = json.loads((trained / "result.json").read_text())
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{home}/outputs/mlflow.db")
    run = client.get_run(result["run_id"])
    for name, value in result["metrics"]["test"].items():
        assert run.data.metrics[f"test/{name}"] == value
    assert run.data.metrics["fit_seconds"] == result["fit_seconds"]
    kept = {item.path for item in client.list_artifacts(result["run_id"])}
    assert {"config.yaml", "plots", "result.json"} <= kept
    plots = {item.path for item in client.list_artifacts(result["run_id"], "plots")}
    assert {"plots/importance.png", "plots/importance.csv", "plots/attention.png"} <= plots


def test_example_rows_are_those_that_hold_something() -> None:
    """The first rows of a log have empty histories, whose type MLflow cannot tell."""
    table = pa.table({"user": [1, 2, 3, 4], "seen": [[], [7], None, [7, 8]]})
    assert telling_rows(table, 2)["user"].to_pylist() == [2, 4]
    assert telling_rows(table.select(["user"]), 2)["user"].to_pylist() == [1, 2]
