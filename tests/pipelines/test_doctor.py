"""The doctor: a table, a remedy per problem, and an exit status."""

import io
import subprocess
import sys

import pytest

from pipelines import doctor
from recsys.environment import Finding, Level
from recsys.tracking.console import Console

FINE = Finding("device", Level.OK, "cpu")
SLOW = Finding("threads", Level.WARN, "8 threads on 2 usable cores", "OMP_NUM_THREADS=2.")
BROKEN = Finding("libraries load", Level.ERROR, "undefined symbol: _Z", "Run `make setup`.")


@pytest.mark.parametrize(
    ("findings", "status"),
    [([FINE], 0), ([FINE, SLOW], 0), ([FINE, BROKEN], 1), ([SLOW, BROKEN], 1)],
)
def test_report(findings, status):
    stream = io.StringIO()
    assert doctor.report(findings, Console("plain", stream=stream)) == status
    text = stream.getvalue()
    for finding in findings:
        assert finding.value in text
        assert finding.remedy in text
    assert ("ready: " in text) == (status == 0)
    assert ("1 of 2 checks failed" in text) == (status == 1)


def test_given_store_is_checked(monkeypatch, tmp_path, capsys):
    (tmp_path / "m.db").write_text("not a database" * 100)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/fine.db")
    monkeypatch.setattr("recsys.environment.check_loading", lambda: FINE)
    assert doctor.main(["--store", f"sqlite:///{tmp_path}/m.db"]) == 1
    assert "file is not a database" in capsys.readouterr().out
    assert doctor.main([]) == 0


def test_as_a_command(tmp_path):
    """The whole of it, libraries loaded in a process of their own."""
    command = [sys.executable, "-m", "pipelines.doctor"]
    done = subprocess.run(
        [*command, "--store", f"sqlite:///{tmp_path}/m.db"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "torch, fbgemm and torchrec import" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_help_imports_nothing_heavy():
    code = (
        "import sys, runpy\n"
        "sys.argv = ['doctor', '--help']\n"
        "try: runpy.run_module('pipelines.doctor', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "sys.exit(str({'torch', 'mlflow', 'polars', 'numpy'} & set(sys.modules) or ''))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stderr.strip() in ("", "''")
    assert "python -m pipelines.doctor --store" in done.stdout


def test_unknown_option_is_refused(capsys):
    with pytest.raises(SystemExit, match="2"):
        doctor.main(["--stor3"])
    assert "unrecognized arguments" in capsys.readouterr().err
