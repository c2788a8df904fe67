"""Files for runs that have ended."""

from pathlib import Path

from recsys.tracking.attach import attach


def test_files_join_a_finished_run(store: str, tmp_path: Path) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=store)
    place = (tmp_path / "artifacts").as_uri()
    experiment = client.create_experiment("recsys/attach", artifact_location=place)
    run = client.create_run(experiment).info.run_id
    client.set_terminated(run)
    folder = tmp_path / "made"
    (folder / "deep").mkdir(parents=True)
    (folder / "table.csv").write_text("a\n1\n")
    (folder / "deep" / "more.csv").write_text("b\n")
    told = attach(run, folder, "explain/made", store)
    assert told == f"in MLflow: run {run}, artifacts explain/made"
    found = {one.path for one in client.list_artifacts(run, "explain/made")}
    assert found == {"explain/made/table.csv", "explain/made/deep"}
    assert client.get_run(run).info.status == "FINISHED"


def test_a_store_that_cannot_take_them_is_said_and_no_error(store: str, tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    assert "for run 0123 (" in attach("0123", folder, "x", store)
    absent = f"sqlite:///{tmp_path}/absent.db"
    assert attach("0123", folder, "x", absent).startswith("not in MLflow: there is no store")
    assert not (tmp_path / "absent.db").exists()
