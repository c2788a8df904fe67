"""What this machine and installation offer, and what to do when something is missing.

Versions are read from package metadata: a torch-torchrec-fbgemm mismatch is found without
importing any of the three, since importing them is what crashes.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple

from recsys.tracking.store import StoreError, check_store, resolve_uri, shown

_GIB = 1 << 30
_LOAD_SECONDS = 120.0


class Triple(NamedTuple):
    """Versions of the three libraries that must be built for each other."""

    torch: str | None
    torchrec: str | None
    fbgemm: str | None

    def __str__(self) -> str:
        return " + ".join(
            f"{name} {version or 'missing'}"
            for name, version in zip(self._fields, self, strict=True)
        )


COMPATIBLE = (Triple("2.13", "1.8.0", "1.8.0"), Triple("2.11", "1.6.0", "1.6.0"))
"""Triples that load and train together, newest first; torch is compared by its first two numbers.
Others fail with an undefined symbol when fbgemm is imported."""


class Level(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    WARN = "warn"
    ERROR = "error"


@dataclass(frozen=True)
class Finding:
    """One checked thing: what was found and, unless all is well, what to do about it."""

    name: str
    level: Level
    value: str
    remedy: str = ""


class IncompatibleVersionsError(RuntimeError):
    """torch, torchrec and fbgemm are missing or were not built for each other."""


def installed_version(*distributions: str) -> str | None:
    """Version of the first of these distributions that is installed, from metadata alone."""
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def installed_triple() -> Triple:
    """The three versions found; fbgemm counts in its CPU build or its CUDA build."""
    return Triple(
        torch=installed_version("torch"),
        torchrec=installed_version("torchrec"),
        fbgemm=installed_version("fbgemm-gpu-cpu", "fbgemm-gpu"),
    )


def require_compatible_versions() -> None:
    """Raise a clear error unless the three versions belong together; costs milliseconds.

    Call it before anything imports torchrec or fbgemm.

    Raises:
        IncompatibleVersionsError: names the versions found, a triple that works, and the command.
    """
    finding = check_versions(installed_triple())
    if finding.level is Level.ERROR:
        raise IncompatibleVersionsError(f"found {finding.value}. {finding.remedy}")


def check_versions(found: Triple) -> Finding:
    """Compare three versions with the table of triples that work."""
    if any(_matches(found, triple) for triple in COMPATIBLE):
        return Finding("torch, torchrec, fbgemm", Level.OK, str(found))
    wanted = next((t for t in COMPATIBLE if _minor(found.torch) == t.torch), COMPATIBLE[0])
    build = "fbgemm-gpu-cpu" if shutil.which("nvidia-smi") is None else "fbgemm-gpu"
    command = f"pip install 'torch~={wanted.torch}.0'" + (
        f" && pip install --no-deps torchrec=={wanted.torchrec} {build}=={wanted.fbgemm}"
    )
    works = "; ".join(str(triple) for triple in COMPATIBLE)
    remedy = (
        f"These belong together: {works}. Other combinations fail to load with an undefined "
        f"symbol. Run `make setup`, or: {command}"
    )
    return Finding("torch, torchrec, fbgemm", Level.ERROR, str(found), remedy)


def check_environment(uri: str | None = None, folder: Path | None = None) -> list[Finding]:
    """Check Python, the three libraries, device, threads, memory, disk and the MLflow store.

    Args:
        uri: MLflow store to check; None is the one training would use by default.
        folder: Where outputs will be written; None is the current directory.
    """
    versions = check_versions(installed_triple())
    findings = [_check_python(), versions]
    if versions.level is Level.OK:
        findings.append(check_loading())
    findings += [
        _check_both_builds(),
        _check_device(),
        _check_threads(),
        _check_instructions(),
        _check_memory(),
        _check_disk(folder or Path.cwd()),
        _check_tracking(uri or resolve_uri()),
    ]
    return findings


def check_loading(python: str = sys.executable) -> Finding:
    """Import torch, fbgemm and torchrec in another process, where a crash does no harm."""
    name = "libraries load"
    code = "import torch, fbgemm_gpu, torchrec; torch.ops.fbgemm.asynchronous_complete_cumsum"
    try:
        done = subprocess.run(
            [python, "-W", "ignore", "-c", code],
            capture_output=True,
            text=True,
            timeout=_LOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        remedy = "Importing torch hangs: look for a broken driver, or a network file system."
        return Finding(name, Level.ERROR, f"no answer within {_LOAD_SECONDS:g} s", remedy)
    if done.returncode == 0:
        return Finding(name, Level.OK, "torch, fbgemm and torchrec import")
    return Finding(name, Level.ERROR, *explain_failure(done.stderr, done.returncode))


def explain_failure(stderr: str, returncode: int) -> tuple[str, str]:
    """Turn the traceback of a failed import into what happened and what to do.

    Example:
        >>> explain_failure("OSError: fbgemm_gpu_py.so: undefined symbol: _ZN3c10", 1)[0]
        'fbgemm was built for another torch (undefined symbol: _ZN3c10)'
    """
    reinstall = "Run `make setup` to install the versions that belong together."
    symbol = re.search(r"undefined symbol: (\w+)", stderr)
    if symbol:
        return f"fbgemm was built for another torch (undefined symbol: {symbol[1]})", reinstall
    library = re.search(r"(\S+\.so[.\d]*): cannot open shared object", stderr)
    if library:
        remedy = (
            f"{library[1]} belongs to CUDA: on a machine without it use the CPU build, `pip "
            "uninstall fbgemm-gpu` and `make setup`; with it, check the driver with nvidia-smi."
        )
        return f"the shared library {library[1]} is missing", remedy
    module = re.search(r"No module named '([\w.]+)'", stderr)
    if module:
        return f"the Python package {module[1]} is missing", reinstall
    lines = [line for line in stderr.strip().splitlines() if line.strip()]
    if returncode < 0:
        remedy = f"The processor may lack an instruction the build uses. {reinstall}"
        return f"importing ends the process with signal {-returncode}", remedy
    return lines[-1] if lines else f"importing ends with status {returncode}", reinstall


def _check_python() -> Finding:
    value = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("python", Level.OK, value)


def _check_both_builds() -> Finding:
    builds = [n for n in ("fbgemm-gpu-cpu", "fbgemm-gpu") if installed_version(n) is not None]
    if len(builds) < 2:
        return Finding("fbgemm build", Level.OK, builds[0] if builds else "none")
    remedy = "Both own the same files: uninstall both, then run `make setup`."
    return Finding("fbgemm build", Level.ERROR, " and ".join(builds), remedy)


def _check_device() -> Finding:
    command = shutil.which("nvidia-smi")
    if command is None:
        return Finding("device", Level.OK, "cpu (no NVIDIA driver)")
    query = [command, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    try:
        told = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (subprocess.SubprocessError, OSError) as error:
        remedy = "Training falls back to the CPU; check the driver."
        return Finding("device", Level.WARN, f"nvidia-smi fails ({error})", remedy)
    gpus = "; ".join(line.strip() for line in told.splitlines() if line.strip()) or "no GPU"
    if "+cpu" in (installed_version("torch") or "") and gpus != "no GPU":
        remedy = "torch is the CPU build: `make setup DEVICE=cuda` installs the CUDA packages."
        return Finding("device", Level.WARN, gpus, remedy)
    return Finding("device", Level.OK, gpus)


def _check_threads() -> Finding:
    cores = usable_cores()
    text = os.environ.get("OMP_NUM_THREADS", "")
    threads = int(text) if text.isdigit() else cores
    value = f"{threads} threads on {cores} usable cores"
    if threads > cores:
        remedy = f"More threads than cores slow training: OMP_NUM_THREADS={cores}."
        return Finding("threads", Level.WARN, value, remedy)
    return Finding("threads", Level.OK, value)


def usable_cores() -> int:
    """Cores this process may run on, which containers and schedulers restrict."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # pragma: no cover


def _check_instructions() -> Finding:
    name = "instructions"
    try:
        flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return Finding(name, Level.OK, "not listed by this system")
    found = [flag for flag in ("avx2", "fma", "avx512f", "amx_bf16", "asimd") if flag in flags]
    if "avx2" in found or "asimd" in found:
        return Finding(name, Level.OK, " ".join(found))
    remedy = "fbgemm's CPU kernels need AVX2; train on a newer processor."
    return Finding(name, Level.WARN, " ".join(found) or "no vector instructions", remedy)


def _check_memory() -> Finding:
    import psutil

    memory = psutil.virtual_memory()
    value = f"{memory.available / _GIB:.1f} GiB free of {memory.total / _GIB:.1f} GiB"
    if memory.available < _GIB:
        return Finding("memory", Level.WARN, value, "Close other programs; 1 GiB is the least.")
    return Finding("memory", Level.OK, value)


def _check_disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / _GIB
    value = f"{free:.1f} GiB free at {folder}"
    if free < 1.0:
        remedy = "Checkpoints and prepared data need room: free some, or set output_dir."
        return Finding("disk", Level.WARN, value, remedy)
    return Finding("disk", Level.OK, value)


def _check_tracking(uri: str) -> Finding:
    version = installed_version("mlflow", "mlflow-skinny")
    if version is None:
        remedy = "Run `make setup`, or train with tracking=none."
        return Finding("tracking", Level.ERROR, "mlflow is not installed", remedy)
    try:
        check_store(uri)
    except StoreError as error:
        return Finding("tracking", Level.ERROR, shown(uri), str(error))
    return Finding("tracking", Level.OK, f"mlflow {version}, {shown(uri)}")


def _minor(version: str | None) -> str:
    return ".".join((version or "").split("+")[0].split(".")[:2])


def _matches(found: Triple, wanted: Triple) -> bool:
    if None in found:
        return False
    same_torch = _minor(found.torch) == wanted.torch
    plain = [(version or "").split("+")[0] for version in found[1:]]
    return same_torch and plain == list(wanted[1:])
