"""Choosing a store and finding out early that it cannot be used."""

import http.server
import sqlite3
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.errors import ConfigError
from recsys.tracking.store import StoreError, check_store, resolve_uri, shown, sqlite_path


@pytest.fixture(autouse=True)
def in_empty_folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers every request with the status that the path begins with."""

    def do_GET(self) -> None:
        self.send_response(int(self.path.split("/")[1]))
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class TestChoice:
    def test_default_is_one_absolute_place(self, tmp_path):
        assert resolve_uri() == f"sqlite:///{tmp_path}/outputs/mlflow.db"
        assert sqlite_path(resolve_uri()) == tmp_path / "outputs" / "mlflow.db"

    def test_relative_database_becomes_absolute(self, tmp_path):
        assert resolve_uri("sqlite:///runs/a.db") == f"sqlite:///{tmp_path}/runs/a.db"

    def test_environment_wins(self, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://server:5000")
        assert resolve_uri("sqlite:///other.db") == "http://server:5000"

    def test_other_stores_pass_through(self):
        assert resolve_uri("postgresql://u@h/db") == "postgresql://u@h/db"
        assert sqlite_path("postgresql://u@h/db") is None

    def test_passwords_are_not_shown(self):
        assert "secret" not in shown("postgresql://ann:secret@host/db")
        assert shown("sqlite:////a/b:c@d.db") == "sqlite:////a/b:c@d.db"
        assert shown("http://127.0.0.1:5000/a@b") == "http://127.0.0.1:5000/a@b"


class TestSqlite:
    def test_new_database_in_a_new_folder(self, tmp_path):
        check_store(f"sqlite:///{tmp_path}/a/b/mlflow.db")
        assert not list(tmp_path.iterdir())  # checking creates nothing

    def test_existing_database(self, tmp_path):
        sqlite3.connect(tmp_path / "m.db").close()
        check_store(f"sqlite:///{tmp_path}/m.db")

    def test_folder_that_is_a_file(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(StoreError, match=r"file/runs cannot be written .*tracking=none"):
            check_store(f"sqlite:///{tmp_path}/file/runs/mlflow.db")

    def test_not_a_database(self, tmp_path):
        (tmp_path / "m.db").write_text("text" * 500)
        with pytest.raises(StoreError, match="file is not a database"):
            check_store(f"sqlite:///{tmp_path}/m.db")

    def test_database_path_is_a_folder(self, tmp_path):
        with pytest.raises(StoreError, match="unable to open database file"):
            check_store(f"sqlite:///{tmp_path}")

    def test_locked_database(self, tmp_path):
        holder = sqlite3.connect(tmp_path / "m.db")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="database is locked"):
            check_store(f"sqlite:///{tmp_path}/m.db", timeout_s=0.05)
        holder.close()

    def test_read_only_database(self):
        """Root may write anything, so the file is opened as another user would see it."""
        code = (
            "import os, sys\n"
            "from recsys.tracking.store import StoreError, check_store\n"
            "if os.getuid() == 0: os.seteuid(65534)\n"
            "try: check_store(sys.argv[1])\n"
            "except StoreError as error: sys.exit(str(error))\n"
        )
        # pytest's own folders are closed to other users, all the way up.
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            sqlite3.connect(folder / "m.db").execute("CREATE TABLE t (x)").connection.close()
            (folder / "m.db").chmod(0o444)
            folder.chmod(0o555)
            done = subprocess.run(
                [sys.executable, "-c", code, f"sqlite:///{folder}/m.db"],
                capture_output=True,
                text=True,
            )
            folder.chmod(0o755)
        assert done.returncode == 1, done.stderr
        assert "readonly database" in done.stderr


class TestServer:
    @pytest.mark.parametrize("status", [200, 401, 404])
    def test_any_answer_is_a_server(self, server, status):
        check_store(f"{server}/{status}")

    def test_failing_server(self, server):
        with pytest.raises(StoreError, match="the server answers 503"):
            check_store(f"{server}/503")

    def test_nobody_listens(self, unused_port):
        with pytest.raises(StoreError, match=r"does not answer .*refused") as caught:
            check_store(f"http://ann:secret@127.0.0.1:{unused_port}")
        assert "secret" not in str(caught.value)
        assert "MLFLOW_TRACKING_URI" in str(caught.value)

    def test_silent_server(self):
        import socket

        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            uri = f"http://127.0.0.1:{silent.getsockname()[1]}"
            with pytest.raises(StoreError, match=r"does not answer .timed out"):
                check_store(uri, timeout_s=0.1)

    def test_unknown_host_and_nonsense(self):
        with pytest.raises(StoreError, match="does not answer"):
            check_store("http://no-such-host.invalid:5000", timeout_s=1)
        with pytest.raises(StoreError, match="does not answer"):
            check_store("http://host:port/", timeout_s=1)


def test_folder_stores(tmp_path):
    check_store(str(tmp_path / "mlruns"))
    check_store(f"file://{tmp_path}/mlruns")
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        check_store(f"file://{tmp_path}/file/mlruns")


def test_other_stores_are_left_to_mlflow():
    check_store("postgresql://nobody@nowhere.invalid/db")
    check_store("databricks")


def test_is_a_configuration_error():
    assert issubclass(StoreError, ConfigError)
