"""Runs in a real SQLite store: what is kept, how a run ends, how it goes on."""

import json
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pytest
from matplotlib.figure import Figure

from recsys.errors import ConfigError
from recsys.tracking import run as run_module
from recsys.tracking.run import infer_signature, open_tracker, serving_requirements, system_tags
from recsys.tracking.store import StoreError
from recsys.tracking.tracker import MAX_METRIC_NAMES

OPEN = {"experiment": "recsys/toy", "run_name": "lr-20260101-000000"}


def stored(store: str, run_id: str):
    return mlflow.MlflowClient(store).get_run(run_id)


def history(store: str, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in mlflow.MlflowClient(store).get_metric_history(run_id, name)]


def artifact(store: str, run_id: str, name: str) -> Path:
    return Path(stored(store, run_id).info.artifact_uri.removeprefix("file://")) / name


def log_one_loss(tracker: run_module.Tracker) -> None:
    tracker.log_metrics({"train/loss": 0.5}, 1)


def interrupted(store: str, error: BaseException, use=log_one_loss) -> str:
    """Use a run, end it by raising the error, and check that the very error comes out."""
    caught = None
    try:
        with open_tracker("mlflow", uri=store, **OPEN) as tracker:
            use(tracker)
            raise error
    except BaseException as raised:
        caught = raised
    assert caught is error
    return tracker.run_id


class TestMlflow:
    def test_a_child_ends_and_its_parent_goes_on(self, store):
        with open_tracker("mlflow", uri=store, **OPEN) as parent:
            with open_tracker("mlflow", uri=store, parent_run_id=parent.run_id, **OPEN) as child:
                child.status = "FAILED"
            parent.log_metrics({"best": 1.0}, 0)
        assert stored(store, child.run_id).data.tags["mlflow.parentRunId"] == parent.run_id
        assert stored(store, child.run_id).info.status == "FAILED"
        assert stored(store, parent.run_id).info.status == "FINISHED"
        assert history(store, parent.run_id, "best") == [(0, 1.0)]
        with open_tracker("mlflow", uri=store, parent_run_id=parent.run_id, **OPEN) as later:
            pass
        assert stored(store, later.run_id).data.tags["mlflow.parentRunId"] == parent.run_id

    def test_everything_arrives(self, store, tmp_path):
        with open_tracker("mlflow", uri=store, tags={"model": "lr", "seed": 3}, **OPEN) as tracker:
            tracker.log_params({"ctr": {"num_heads": 2, "hidden_dims": [4, 4]}, "seed": 3})
            for step in (100, 200):
                tracker.log_metrics({"train/loss": 1 / step, "train/lr": 0.1}, step)
            tracker.log_metrics({"test/auc": float("nan"), "test/ne": float("inf")}, 200)
            note = tmp_path / "notes" / "note.txt"
            note.parent.mkdir()
            note.write_text("kept")
            tracker.log_artifact(note, "notes")
            tracker.log_artifact(note.parent, "folder")
            tracker.log_figure(Figure(), "plots/empty.png")
            tracker.set_tags({"status_note": "fine", "absent": None})
            run_id = tracker.run_id
        run = stored(store, run_id)
        assert run.info.status == "FINISHED"
        assert run.info.run_name == "lr-20260101-000000"
        assert run.data.params == {"ctr.num_heads": "2", "ctr.hidden_dims": "[4, 4]", "seed": "3"}
        assert run.data.tags.items() >= {"model": "lr", "seed": "3", "status_note": "fine"}.items()
        assert "absent" not in run.data.tags
        assert history(store, run_id, "train/loss") == [(100, 0.01), (200, 0.005)]
        assert math.isnan(run.data.metrics["test/auc"])
        assert run.data.metrics["test/ne"] > 1e300
        assert artifact(store, run_id, "notes/note.txt").read_text() == "kept"
        assert artifact(store, run_id, "folder/note.txt").is_file()
        assert artifact(store, run_id, "plots/empty.png").stat().st_size > 0

    def test_artifacts_lie_beside_the_database(self, store, tmp_path, monkeypatch):
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        with open_tracker("mlflow", uri=store, **OPEN) as tracker:
            tracker.log_text("x", "x.txt")
        assert list((tmp_path / "store" / "artifacts").rglob("x.txt"))
        assert not list(elsewhere.iterdir())

    def test_system_tags_are_added(self, store):
        with open_tracker("mlflow", uri=store, **OPEN) as tracker:
            pass
        tags = stored(store, tracker.run_id).data.tags
        assert tags.keys() >= system_tags().keys() >= {"torch", "torchrec", "fbgemm"}

    def test_dataset(self, store):
        with open_tracker("mlflow", uri=store, **OPEN) as tracker:
            for context in ("training", "test"):
                tracker.log_dataset(
                    "frappe",
                    digest="0123456789abcdef" * 4,
                    context=context,
                    num_rows=28860,
                    source="/data/frappe",
                    schema={"user": "categorical", "price": "numeric"},
                )
        inputs = stored(store, tracker.run_id).inputs.dataset_inputs
        assert [i.tags[0].value for i in inputs] == ["training", "test"]
        dataset, second = inputs[0].dataset, inputs[1].dataset
        assert (dataset.name, dataset.digest) == ("frappe", ("0123456789abcdef" * 3)[:36])
        assert second.digest == "0123456789abcdef0123456789abcde-test"
        assert json.loads(dataset.profile) == {"num_rows": 28860}
        assert json.loads(dataset.schema)["mlflow_colspec"][1]["name"] == "price"
        assert mlflow.data.get_source(dataset).uri == "/data/frappe"

    def test_pyfunc_model_is_loaded_with_raw_columns(self, store, tmp_path):
        weights = tmp_path / "weights.json"
        weights.write_text("[2.0, 3.0]")
        code = tmp_path / "served.py"
        code.write_text(SERVED)
        columns = {"a": np.array([1.0, 2.0]), "b": np.array([0.5, 0.0])}
        with open_tracker("mlflow", uri=store, **OPEN) as tracker:
            uri = tracker.log_pyfunc_model(
                "model",
                python_model=str(code),
                artifacts={"weights": str(weights)},
                signature=infer_signature(columns, np.array([3.5, 4.0])),
                step=7,
            )
        mlflow.set_tracking_uri(store)
        try:
            model = mlflow.pyfunc.load_model(uri)
            np.testing.assert_allclose(model.predict(columns), [3.5, 4.0])
            assert model.metadata.signature.inputs.input_names() == ["a", "b"]
            requirements = mlflow.pyfunc.get_model_dependencies(uri)
        finally:
            mlflow.set_tracking_uri(None)
        assert set(serving_requirements()) <= set(Path(requirements).read_text().split())

    def test_params_are_logged_in_parts_and_cut(self, store):
        params = {f"key{i}": i for i in range(250)} | {"long": "x" * 10_000}
        with open_tracker("mlflow", uri=store, **OPEN) as tracker:
            tracker.log_params(params)
        logged = stored(store, tracker.run_id).data.params
        assert len(logged) == 251
        assert len(logged["long"]) == 500
        assert logged["long"].endswith("(10000 characters)")

    def test_flush_makes_metrics_visible(self, store):
        with open_tracker("mlflow", uri=store, **OPEN) as tracker:
            tracker.log_metrics({"val/auc": 0.5}, 1)
            tracker.flush()
            assert history(store, tracker.run_id, "val/auc") == [(1, 0.5)]

    def test_url_shows_the_command_for_a_local_store(self, store):
        with open_tracker("mlflow", uri=store, **OPEN) as tracker:
            assert tracker.url == f"mlflow ui --backend-store-uri {store}"

    def test_leaves_the_process_as_it_was(self, store):
        before = dict(os.environ)
        with open_tracker("mlflow", uri=store, **OPEN):
            pass
        assert dict(os.environ) == before
        assert mlflow.active_run() is None

    def test_environment_variable_wins(self, store, tmp_path, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
        with open_tracker("mlflow", uri=f"sqlite:///{tmp_path}/other.db", **OPEN) as tracker:
            pass
        assert stored(store, tracker.run_id).info.status == "FINISHED"
        assert not (tmp_path / "other.db").exists()

    def test_two_runs_share_an_experiment(self, store):
        ids = []
        for _ in range(2):
            with open_tracker("mlflow", uri=store, **OPEN) as tracker:
                ids.append(stored(store, tracker.run_id).info.experiment_id)
        assert ids[0] == ids[1]

    def test_more_names_than_the_ui_bears_are_warned_about_once(self, store, caplog):
        with open_tracker("mlflow", uri=store, **OPEN) as tracker:
            for step in range(2):
                tracker.log_metrics({f"val/m{i}": 0.0 for i in range(MAX_METRIC_NAMES + 1)}, step)
        assert (
            sum(f"{MAX_METRIC_NAMES + 1} different metrics" in r.message for r in caplog.records)
            == 1
        )

    def test_system_metrics(self, store, monkeypatch):
        monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
        monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLES_BEFORE_LOGGING", "1")
        with open_tracker("mlflow", uri=store, system_metrics=True, **OPEN) as tracker:
            for _ in range(100):
                if (
                    "system/cpu_utilization_percentage"
                    in stored(store, tracker.run_id).data.metrics
                ):
                    break
                time.sleep(0.1)
            else:
                pytest.fail("no system metric within ten seconds")


class TestEnding:
    def test_exception_marks_the_run_failed_and_keeps_the_traceback(self, store):
        run_id = interrupted(store, ZeroDivisionError("division by zero"))
        run = stored(store, run_id)
        assert run.info.status == "FAILED"
        assert run.data.metrics == {"train/loss": 0.5}
        assert run.data.tags["error"] == "ZeroDivisionError: division by zero"
        assert "raise error" in artifact(store, run_id, "traceback.txt").read_text()

    @pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
    def test_interrupt_marks_the_run_killed(self, store, stop):
        run = stored(store, interrupted(store, stop()))
        assert run.info.status == "KILLED"
        assert run.data.metrics == {"train/loss": 0.5}

    def test_status_can_be_set_by_a_loop_that_stops_by_itself(self, store):
        with open_tracker("mlflow", uri=store, **OPEN) as tracker:
            tracker.status = "KILLED"
        assert stored(store, tracker.run_id).info.status == "KILLED"

    def test_a_store_that_goes_away_does_not_end_training(self, store, caplog):
        with open_tracker("mlflow", uri=store, **OPEN) as tracker:
            tracker._client.log_batch = _refuse
            tracker.log_metrics({"train/loss": 0.5}, 1)
        assert any("1 metric values could not be stored" in r.message for r in caplog.records)
        assert stored(store, tracker.run_id).info.status == "FINISHED"

    def test_a_broken_store_does_not_replace_the_error_of_the_run(self, store, caplog):
        def use(tracker):
            tracker._client.log_batch = _refuse

        interrupted(store, ZeroDivisionError(), use)
        assert any("traceback could not be stored" in r.message for r in caplog.records)


def _refuse(*args, **kwargs):
    raise OSError("disk is full")


class TestResume:
    def test_same_run_without_repeated_steps(self, store):
        def use(tracker):
            tracker.log_params({"lr": 0.1, "trainer": {"epochs": 2}})
            for step in (1, 2, 3):
                tracker.log_metrics({"train/loss": 1.0 / step}, step)
            tracker.log_metrics({"val/auc": 0.6}, 2)

        first = interrupted(store, KeyboardInterrupt(), use)
        # The checkpoint was made at step 2: step 3 is computed again, and is not logged again.
        with open_tracker("mlflow", uri=store, resume_run_id=first, **OPEN) as tracker:
            assert tracker.run_id == first
            assert stored(store, first).info.status == "RUNNING"
            tracker.log_params({"lr": 0.1, "trainer": {"epochs": 2}})
            for step in (3, 4):
                tracker.log_metrics({"train/loss": 1.0 / step, "val/auc": 0.7}, step)
        run = stored(store, first)
        assert [step for step, _ in history(store, first, "train/loss")] == [1, 2, 3, 4]
        assert history(store, first, "val/auc") == [(2, 0.6), (3, 0.7), (4, 0.7)]
        assert run.info.status == "FINISHED"
        assert run.data.tags["resumed"] == "1"
        with open_tracker("mlflow", uri=store, resume_run_id=first, **OPEN):
            pass
        assert stored(store, first).data.tags["resumed"] == "2"

    def test_changed_parameters_become_a_tag(self, store, caplog):
        with open_tracker("mlflow", uri=store, **OPEN) as tracker:
            tracker.log_params({"epochs": 2})
        with open_tracker("mlflow", uri=store, resume_run_id=tracker.run_id, **OPEN) as tracker:
            tracker.log_params({"epochs": 5, "new": True})
        data = stored(store, tracker.run_id).data
        assert data.params == {"epochs": "2", "new": "True"}
        assert data.tags["changed_params"] == "epochs: 2 -> 5"
        assert "epochs: 2 -> 5" in caplog.text

    def test_unknown_run(self, store):
        with (
            pytest.raises(StoreError, match=r"no run 0123456789 in .* trainer.resume=null"),
            open_tracker("mlflow", uri=store, resume_run_id="0123456789", **OPEN),
        ):
            pytest.fail("the block must not start")

    def test_kill_dash_nine_and_resume(self, store, tmp_path):
        """A killed process leaves RUNNING behind; what was flushed is there and goes on."""
        script = tmp_path / "killed.py"
        script.write_text(KILLED)
        done = subprocess.run(
            [sys.executable, str(script), store], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == -9, done.stderr
        run_id = done.stdout.strip()
        assert stored(store, run_id).info.status == "RUNNING"
        with open_tracker("mlflow", uri=store, resume_run_id=run_id, **OPEN) as tracker:
            tracker.log_metrics({"train/loss": 9.0}, 5)
            tracker.log_metrics({"train/loss": 0.25}, 6)
        assert history(store, run_id, "train/loss") == [(5, 0.5), (6, 0.25)]
        assert stored(store, run_id).info.status == "FINISHED"


class TestRefusals:
    def test_unreachable_store_fails_before_training(self, unused_port):
        uri = f"http://127.0.0.1:{unused_port}"
        with (
            pytest.raises(StoreError, match=rf"{uri} cannot be used: .* tracking=none"),
            open_tracker("mlflow", uri=uri, **OPEN),
        ):
            pytest.fail("the block must not start")

    def test_not_a_database(self, tmp_path, monkeypatch):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        path = tmp_path / "mlflow.db"
        path.write_text("this is not SQLite " * 100)
        with (
            pytest.raises(StoreError, match="file is not a database"),
            open_tracker("mlflow", uri=f"sqlite:///{path}", **OPEN),
        ):
            pytest.fail("the block must not start")

    def test_a_database_of_another_program(self, tmp_path, monkeypatch):
        import sqlite3

        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        path = tmp_path / "other.db"
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
            connection.execute("INSERT INTO alembic_version VALUES ('nonsense')")
        connection.close()
        with (
            pytest.raises(StoreError, match="tracking=none"),
            open_tracker("mlflow", uri=f"sqlite:///{path}", **OPEN),
        ):
            pytest.fail("the block must not start")
        assert "MLFLOW_TRACKING_URI" not in os.environ

    def test_deleted_experiment(self, store):
        with open_tracker("mlflow", uri=store, **OPEN) as tracker:
            pass
        client = mlflow.MlflowClient(store)
        client.delete_experiment(stored(store, tracker.run_id).info.experiment_id)
        with (
            pytest.raises(StoreError, match="mlflow experiments restore -x"),
            open_tracker("mlflow", uri=store, **OPEN),
        ):
            pytest.fail("the block must not start")

    def test_unknown_kind(self):
        with (
            pytest.raises(ConfigError, match=r"tracking\.kind is 'wandb'"),
            open_tracker("wandb", **OPEN),
        ):
            pytest.fail("the block must not start")

    @pytest.mark.parametrize("kind", ["mlflow", "none"])
    def test_bad_metric_name(self, store, kind):
        with open_tracker(kind, uri=store, **OPEN) as tracker:
            with pytest.raises(ValueError, match="'ndcg@10' is not allowed"):
                tracker.log_metrics({"ndcg@10": 1.0}, 1)
            with pytest.raises(FileNotFoundError, match="nowhere"):
                tracker.log_artifact(Path("nowhere"))


def test_first_use_is_announced(tmp_path, monkeypatch, migrated_database):
    """The database is put in place by the announcement itself, to spare its slow creation."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    said = []

    def notify(text: str) -> None:
        said.append(text)
        (tmp_path / "outputs").mkdir()
        (tmp_path / "outputs" / "mlflow.db").write_bytes(migrated_database.read_bytes())

    for _ in range(2):
        with open_tracker("mlflow", notify=notify, **OPEN) as tracker:
            pass
        assert stored(f"sqlite:///{tmp_path}/outputs/mlflow.db", tracker.run_id)
    assert len(said) == 1
    assert str(tmp_path / "outputs" / "mlflow.db") in said[0]


def test_no_tracking_keeps_nothing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with open_tracker("none", **OPEN) as tracker:
        tracker.log_params({"a": {"b": 1}})
        tracker.log_metrics({"val/auc": 0.5}, 1)
        tracker.log_dataset("x", digest="d", context="test", num_rows=1, source="s", schema={})
        tracker.log_text("t", "t.txt")
        tracker.log_figure(Figure(), "f.png")
        tracker.set_tags({"a": 1})
        tracker.flush()
        assert tracker.log_pyfunc_model("model", python_model=None) == ""
        assert tracker.url == ""
    with open_tracker("none", **OPEN) as other:
        assert other.run_id != tracker.run_id
    with open_tracker("none", resume_run_id=tracker.run_id, **OPEN) as resumed:
        assert resumed.run_id == tracker.run_id
    assert not list(tmp_path.iterdir())


def test_importing_the_module_does_not_import_mlflow():
    code = "import sys, recsys.tracking.run; sys.exit('mlflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_system_tags_outside_a_repository(tmp_path):
    tags = system_tags(tmp_path)
    assert "git_commit" not in tags
    assert tags["torch"]


def test_system_tags_in_a_repository(tmp_path):
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    git("init", "-q")
    (tmp_path / "f").write_text("1")
    git("add", "f")
    git("commit", "-q", "-m", "first")
    assert system_tags(tmp_path)["git_dirty"] == "false"
    assert len(system_tags(tmp_path)["git_commit"]) == 40
    (tmp_path / "f").write_text("2")
    assert system_tags(tmp_path)["git_dirty"] == "true"


SERVED = """
import json
import mlflow

class Served(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        with open(context.artifacts["weights"]) as file:
            self.weights = json.load(file)

    def predict(self, context, model_input, params=None):
        a, b = self.weights
        return a * model_input["a"] + b * model_input["b"]

mlflow.models.set_model(Served())
"""

KILLED = """
import os, signal, sys
from recsys.tracking.run import open_tracker

with open_tracker("mlflow", uri=sys.argv[1], experiment="recsys/toy", run_name="x") as tracker:
    tracker.log_metrics({"train/loss": 0.5}, 5)
    tracker.flush()
    print(tracker.run_id, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
