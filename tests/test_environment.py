"""The environment check: every problem is found, named and answered."""

import subprocess
import sys
from importlib.metadata import PackageNotFoundError

import pytest

from recsys import environment
from recsys.environment import (
    COMPATIBLE,
    IncompatibleVersionsError,
    Level,
    Triple,
    check_environment,
    check_loading,
    check_versions,
    explain_failure,
    installed_triple,
    require_compatible_versions,
)


def pretend(monkeypatch, **versions: str) -> None:
    """Make metadata answer these versions and nothing else."""
    known = {name.replace("_", "-"): version for name, version in versions.items()}

    def version(name: str) -> str:
        if name not in known:
            raise PackageNotFoundError(name)
        return known[name]

    monkeypatch.setattr(environment.importlib.metadata, "version", version)


@pytest.mark.parametrize(
    "versions",
    [
        {"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm_gpu": "1.8.0"},
        {"torch": "2.13.0+cpu", "torchrec": "1.8.0", "fbgemm_gpu_cpu": "1.8.0"},
        {"torch": "2.13.1+cu130", "torchrec": "1.8.0+cu130", "fbgemm_gpu": "1.8.0+cu130"},
        {"torch": "2.11.0", "torchrec": "1.6.0", "fbgemm_gpu_cpu": "1.6.0"},
    ],
)
def test_compatible(monkeypatch, versions):
    pretend(monkeypatch, **versions)
    require_compatible_versions()


@pytest.mark.parametrize(
    ("versions", "wanted"),
    [
        ({"torch": "2.13.0", "torchrec": "1.9.0", "fbgemm_gpu_cpu": "1.9.0"}, "torchrec==1.8.0"),
        ({"torch": "2.13.0", "torchrec": "1.8.0", "fbgemm_gpu_cpu": "1.6.0"}, "==1.8.0"),
        ({"torch": "2.11.0", "torchrec": "1.8.0", "fbgemm_gpu_cpu": "1.8.0"}, "torchrec==1.6.0"),
        ({"torch": "2.1.0", "torchrec": "1.8.0", "fbgemm_gpu_cpu": "1.8.0"}, "torch~=2.13.0"),
        ({"torch": "2.13.0", "torchrec": "1.8.0"}, "fbgemm-gpu"),
        ({"torch": "2.13.0", "fbgemm_gpu": "1.8.0"}, "torchrec==1.8.0"),
        ({}, "torch~=2.13.0"),
    ],
)
def test_incompatible(monkeypatch, versions, wanted):
    pretend(monkeypatch, **versions)
    with pytest.raises(IncompatibleVersionsError) as caught:
        require_compatible_versions()
    message = str(caught.value)
    for name in ("torch", "torchrec"):
        assert f"{name} {versions.get(name, 'missing')}" in message
    assert wanted in message
    assert "make setup" in message


def test_every_listed_triple_is_compatible():
    for triple in COMPATIBLE:
        full = triple._replace(torch=f"{triple.torch}.0")
        assert check_versions(full).level is Level.OK
        assert check_versions(full._replace(fbgemm=None)).level is Level.ERROR


def test_this_installation_is_compatible():
    assert None not in installed_triple()
    require_compatible_versions()


def test_checking_versions_imports_none_of_them():
    code = (
        "import sys\n"
        "from recsys.environment import require_compatible_versions\n"
        "require_compatible_versions()\n"
        "heavy = {'torch', 'torchrec', 'fbgemm_gpu', 'mlflow', 'numpy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("stderr", "code", "what", "remedy"),
    [
        ("OSError: /x/fbgemm_gpu_py.so: undefined symbol: _ZN3c10x\n", 1, "_ZN3c10x", "make setup"),
        ("OSError: libcudart.so.12: cannot open shared object file\n", 1, "libcudart.so.12", "CPU"),
        ("ModuleNotFoundError: No module named 'tensordict'\n", 1, "tensordict", "make setup"),
        ("", -4, "signal 4", "instruction"),
        ("Traceback\n  File x\nRuntimeError: odd\n", 1, "RuntimeError: odd", "make setup"),
        ("", 3, "status 3", "make setup"),
    ],
)
def test_a_failed_import_becomes_a_sentence(stderr, code, what, remedy):
    told, advice = explain_failure(stderr, code)
    assert what in told
    assert remedy in advice
    assert "\n" not in told + advice


def test_loading_is_tried_in_another_process(tmp_path):
    """A python whose torch has an undefined symbol, as a mismatched fbgemm gives."""
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\necho "OSError: f.so: undefined symbol: _ZNK3c10" >&2\nexit 1\n')
    fake.chmod(0o755)
    finding = check_loading(str(fake))
    assert finding.level is Level.ERROR
    assert "undefined symbol: _ZNK3c10" in finding.value


def find(findings, name):
    return next(f for f in findings if f.name == name)


@pytest.fixture
def loads(monkeypatch) -> None:
    """Spare the seconds of importing torchrec in another process."""
    ok = environment.Finding("libraries load", Level.OK, "pretended")
    monkeypatch.setattr(environment, "check_loading", lambda: ok)


@pytest.mark.usefixtures("loads")
class TestFindings:
    def test_all_well_here(self, tmp_path, monkeypatch):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        findings = check_environment(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
        assert [f for f in findings if f.level is Level.ERROR] == []
        assert all(f.remedy for f in findings if f.level is not Level.OK)
        assert len({f.name for f in findings}) == len(findings) == 10
        assert not list(tmp_path.iterdir())

    def test_libraries_are_not_loaded_when_metadata_tells_of_a_mismatch(self, monkeypatch):
        pretend(monkeypatch, torch="2.13.0", torchrec="1.9.0", fbgemm_gpu="1.9.0", mlflow="3.17.2")
        names = [f.name for f in check_environment()]
        assert "libraries load" not in names

    def test_both_builds(self, monkeypatch):
        pretend(
            monkeypatch,
            torch="2.13.0",
            torchrec="1.8.0",
            fbgemm_gpu="1.8.0",
            fbgemm_gpu_cpu="1.8.0",
        )
        finding = find(check_environment(), "fbgemm build")
        assert finding.level is Level.ERROR
        assert "uninstall both" in finding.remedy

    def test_unusable_store(self, tmp_path, monkeypatch):
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        (tmp_path / "m.db").write_text("x" * 2000)
        finding = find(check_environment(f"sqlite:///{tmp_path}/m.db"), "tracking")
        assert finding.level is Level.ERROR
        assert "not a database" in finding.remedy

    def test_without_mlflow(self, monkeypatch):
        pretend(monkeypatch, torch="2.13.0", torchrec="1.8.0", fbgemm_gpu="1.8.0")
        finding = find(check_environment(), "tracking")
        assert finding.level is Level.ERROR
        assert "tracking=none" in finding.remedy

    def test_more_threads_than_cores(self, monkeypatch):
        monkeypatch.setenv("OMP_NUM_THREADS", "4096")
        finding = find(check_environment(), "threads")
        assert finding.level is Level.WARN
        assert "OMP_NUM_THREADS=" in finding.remedy

    def test_little_memory_and_disk(self, monkeypatch, tmp_path):
        import psutil

        memory = psutil.virtual_memory()._replace(available=1 << 20)
        monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
        usage = environment.shutil.disk_usage(tmp_path)._replace(free=1 << 20)
        monkeypatch.setattr(environment.shutil, "disk_usage", lambda folder: usage)
        findings = check_environment(folder=tmp_path)
        assert find(findings, "memory").level is Level.WARN
        assert find(findings, "disk").level is Level.WARN

    @pytest.mark.parametrize(
        ("output", "status", "torch", "level"),
        [
            ("NVIDIA H200, 141 GiB", 0, "2.13.0+cu130", Level.OK),
            ("NVIDIA H200, 141 GiB", 0, "2.13.0+cpu", Level.WARN),
            ("", 0, "2.13.0+cpu", Level.OK),
            ("", 9, "2.13.0+cu130", Level.WARN),
        ],
    )
    def test_device(self, monkeypatch, tmp_path, output, status, torch, level):
        fake = tmp_path / "nvidia-smi"
        fake.write_text(f"#!/bin/sh\necho '{output}'\nexit {status}\n")
        fake.chmod(0o755)
        monkeypatch.setattr(environment.shutil, "which", lambda name: str(fake))
        pretend(monkeypatch, torch=torch, torchrec="1.8.0", fbgemm_gpu="1.8.0")
        finding = find(check_environment(), "device")
        assert finding.level is level
        assert bool(finding.remedy) == (level is not Level.OK)


def test_triple_reads_as_a_sentence():
    assert str(Triple("2.13.0", None, "1.8.0")) == "torch 2.13.0 + torchrec missing + fbgemm 1.8.0"
